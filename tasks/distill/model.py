"""The model of distillation: from pictures and maps of the teacher to predictions and standardised targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.student import Projection, Student, fit_grid
from tasks.distill.map_comparison import LinearFit
from tasks.features import FeatureService
from tasks.sample import Batch
from utils.geometry.resampling import resize_picture


class DistillModel(nn.Module):
    """A student, which is trained and saved, and its teacher, which computes the maps that a batch lacks.

    Parameters
    ----------
    features : FeatureService
        The teacher.
    student : Student
        The trained backbone.
    teacher_side : int
        Side of the teacher's pictures, in pixels.
    scales : sequence of float
        Sizes of training pictures, relative to the crop.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.distill.example import student_batch
    >>> task, batch = student_batch(tempfile.mkdtemp())
    >>> model = task.build_model()
    >>> sorted((name, tuple(output.shape)) for name, output in model(batch).items())[:2]
    [('predicted_0', (1, 8, 4, 4)), ('predicted_1', (1, 8, 4, 4))]
    >>> sorted(set(model.eval()(batch)) - set(model.train()(batch)))
    ['raw_predicted_0', 'raw_predicted_1', 'raw_target_0', 'raw_target_1']
    """

    def __init__(self, features: FeatureService, student: Student, teacher_side: int, scales: Sequence[float]):
        super().__init__()
        self.features = features
        self.student = student
        self.teacher_side = teacher_side
        self.scales = tuple(scales)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict maps, and standardise the target maps.

        Returns
        -------
        dict of Tensor, shape (B, C_i, h_i, w_i)
            ``"predicted_0"``, ``"target_0"`` and so on; outside training also both as the teacher would give them,
            ``"raw_predicted_0"`` and ``"raw_target_0"``.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_batch
        >>> task, batch = student_batch(tempfile.mkdtemp())
        >>> sorted(task.build_model().train()(batch))
        ['predicted_0', 'predicted_1', 'target_0', 'target_1']
        """
        image = batch.arrays["image"][:, :3]
        maps = batch.feature_maps
        if maps is None:
            maps = self.features.maps(teacher_pictures(image, self.teacher_side))
        maps = [feature_map.to(image.device, torch.float32) for feature_map in maps]
        varied = self.training and batch.target is not None and len(image) > 0
        outputs = self._predict_varied(maps, image, batch.target) if varied else self.student(maps, image)
        for index, (projection, feature_map) in enumerate(zip(self.projections, maps, strict=True)):
            outputs[f"target_{index}"] = projection.standardize(feature_map)
            if not self.training:
                outputs[f"raw_target_{index}"] = feature_map
                outputs[f"raw_predicted_{index}"] = projection.restore(outputs[f"predicted_{index}"])
        return outputs

    @property
    def projections(self) -> list[Projection]:
        """The projections to the standardised channels of the teacher, one per block.

        Examples
        --------
        >>> from tasks.distill.example import student_task
        >>> len(student_task().build_model().projections)
        2
        """
        return list(self.student.projections)  # type: ignore[arg-type]

    def _predict_varied(self, maps: Sequence[Tensor], image: Tensor, target: dict[str, Tensor]) -> dict[str, Tensor]:
        """Predict each picture of (B, 3, H, W) at the size and with the stretch that are drawn for it.

        Sizes are drawn for each picture, not for each batch, so that the gradient does not depend on the number of
        ranks. Pictures of one size are one forward pass.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.distill.example import student_batch
        >>> task, batch = student_batch(tempfile.mkdtemp(), "distill.student_scales=[0.5, 1.0]")
        >>> model, maps = task.build_model(), [torch.zeros(2, 8, 4, 4)] * 2
        >>> image = torch.cat([batch.arrays["image"]] * 2)
        >>> both = {"scale": torch.tensor([1, 0]), "stretch": torch.ones(2, 2)}
        >>> found = model._predict_varied(maps, image, both)["predicted_0"]
        >>> torch.allclose(found[:1], model.student([maps[0][:1]] * 2, image[:1])["predicted_0"], atol=1e-5)
        True
        """
        parts, order = [], []
        for index, scale in enumerate(self.scales):
            chosen = torch.nonzero(target["scale"] == index).flatten()
            if len(chosen):
                seen = scale_pictures(image[chosen], scale, self.student.backbone.info.patch_size)
                grids = [feature_map[chosen] for feature_map in maps]
                parts.append(self.student(grids, seen, target["stretch"][chosen]))
                order.append(chosen)
        back = torch.argsort(torch.cat(order))
        return {name: torch.cat([part[name] for part in parts])[back] for name in parts[0]}


def fit_projections(student: Student, records: Iterable[tuple[Tensor, Sequence[Tensor]]]) -> list[list[Any]]:
    """Fit the projections from a student to its teacher by least squares over records.

    Parameters
    ----------
    student : Student
        Its projections hold the channel statistics of the teacher.
    records : iterable of (Tensor, sequence of Tensor)
        Crops (H, W, 3), uint8, and the teacher's maps (C, h, w) of each.

    Returns
    -------
    list of [weight, bias]
        Of each projection, as nested lists that ranks can exchange.

    Examples
    --------
    >>> from tasks.distill.example import student_task
    >>> task = student_task()
    >>> image = next(task.source.samples(task.source.units["scene"])).arrays["image"]
    >>> found = fit_projections(task.make_head(), [(torch.from_numpy(image.copy()), [torch.ones(8, 4, 4)] * 2)])
    >>> len(found), [round(value, 4) for value in found[1][1][:2]]  # the bias holds a constant
    (2, [1.0, 1.0])
    """
    fits = [LinearFit() for _ in student.learners]
    layers = student.backbone.info.layers
    with torch.no_grad():
        for image, maps in records:
            picture = image[..., :3].permute(2, 0, 1)[None].to(student.backbone.device)
            maps_by_layer = dict(zip(layers, student.backbone(picture), strict=True))
            for fit, learner, projection, target in zip(fits, student.learners, student.projections, maps, strict=True):
                standard = projection.standardize(target[None].to(picture.device))  # type: ignore[operator]
                fit.update(fit_grid(maps_by_layer[learner], target.shape[-2:])[0].float(), standard[0])
    return [[part.float().tolist() for part in fit.solve()] for fit in fits]


def scale_pictures(image: Tensor, scale: float, multiple: int) -> Tensor:
    """Resize pictures (B, 3, H, W) to about `scale` of their sides, in whole patches.

    Examples
    --------
    >>> scale_pictures(torch.zeros(1, 3, 32, 64), 0.8, multiple=16).shape
    torch.Size([1, 3, 32, 48])
    >>> scale_pictures(torch.zeros(1, 3, 32, 64), 0.8, multiple=8).shape
    torch.Size([1, 3, 24, 48])
    """
    size = [max(round(side * scale / multiple), 1) * multiple for side in image.shape[-2:]]
    if list(image.shape[-2:]) == size:
        return image
    return F.interpolate(image.float(), size=size, mode="bilinear", antialias=True, align_corners=False)


def teacher_pictures(image: Tensor, side: int) -> Tensor:
    """Resize crops (B, 3, H, W), uint8, so that the cells of teacher and student have the same grid.

    Each picture is resized as in prepare, so that stored and computed maps agree.

    Examples
    --------
    >>> teacher_pictures(torch.full((2, 3, 16, 16), 7, dtype=torch.uint8), 14)[1, 2, 3, :4].tolist()
    [7, 7, 7, 7]
    """
    if image.shape[-1] == side or not len(image):
        return image if image.shape[-1] == side else image.new_zeros(0, 3, side, side)
    pictures = image.permute(0, 2, 3, 1).cpu().numpy()
    resized = np.stack([resize_picture(np.ascontiguousarray(picture), (side, side)) for picture in pictures])
    return torch.from_numpy(resized).permute(0, 3, 1, 2).to(image.device)
