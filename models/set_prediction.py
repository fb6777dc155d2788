"""What heads share that predict a set: one candidate for each object, matched one to one, without suppression."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import override

from models.base import AttentionHeads, HeadOptions, Queries, Width
from models.detection import DetectionHead
from utils.boxes.geometry import cxcywh_to_xyxy, xyxy_to_cxcywh
from utils.errors import DataError


class SetOptions(HeadOptions):
    """Settings that all heads have whose queries attend to the map.

    Examples
    --------
    >>> SetOptions(width=64).num_queries
    300
    """

    width: Width = Field(256, description="channels of the head, inside")
    attention_heads: AttentionHeads = Field(8, description="heads of each attention")
    num_queries: Queries = Field(300, description="objects that can be learnt in a picture at most")

    @model_validator(mode="after")
    def _check_width(self) -> Self:
        """Refuse a width that position encodings or attention heads cannot share out.

        Raises
        ------
        ValueError
            If the width is no multiple of 4 and of the attention heads.

        Examples
        --------
        >>> try:
        ...     SetOptions(width=36)
        ... except ValueError as error:
        ...     print(error.errors()[0]["msg"])
        Value error, width must be a multiple of 4 and of attention_heads (8), got 36
        """
        if self.width % 4 or self.width % self.attention_heads:
            raise ValueError(
                f"width must be a multiple of 4 and of attention_heads ({self.attention_heads}), got {self.width}"
            )
        return self


class Objects(NamedTuple):
    """The target of a batch on the scale of the predictions.

    Parameters
    ----------
    labels : list of Tensor of int64, shape (G_i,)
        Classes of the objects of each sample.
    boxes : list of Tensor, shape (G_i, 4)
        Centre and sides, each as a share of the picture.
    ignored : list of Tensor, shape (R_i, 4)
        Regions in which nothing is known, as `boxes`.

    Examples
    --------
    >>> Objects([torch.zeros(2)], [torch.zeros(2, 4)], [torch.zeros(0, 4)]).labels[0].shape
    torch.Size([2])
    """

    labels: list[Tensor]
    boxes: list[Tensor]
    ignored: list[Tensor]


def read_objects(target: Mapping[str, Sequence[Tensor]], scale: Tensor) -> Objects:
    """Bring a target to the scale of the predictions, and put the ignore regions aside.

    Parameters
    ----------
    target : mapping
        Of a batch, as `DetectionHead` says.
    scale : Tensor, shape (B, 4)
        Width, height, width, height of what each picture's predictions are shares of, in pixels.

    Returns
    -------
    Objects
        On the device of the scale.

    Examples
    --------
    >>> boxes = [torch.tensor([[0.0, 0.0, 8.0, 4.0], [0.0, 0.0, 16.0, 16.0]])]
    >>> target = {"boxes_xyxy": boxes, "labels": [torch.tensor([1, 0])], "is_crowd": [torch.tensor([False, True])]}
    >>> objects = read_objects(target, torch.tensor([[16.0, 8.0, 16.0, 8.0]]))
    >>> objects.labels[0].tolist(), objects.boxes[0].tolist(), objects.ignored[0].tolist()
    ([1], [[0.25, 0.25, 0.5, 0.5]], [[0.5, 1.0, 1.0, 2.0]])
    """
    objects = Objects([], [], [])
    rows = zip(target["boxes_xyxy"], target["labels"], target["is_crowd"], scale, strict=True)
    for boxes_xyxy, labels, is_crowd, pixels in rows:
        shares = xyxy_to_cxcywh(boxes_xyxy.float() / pixels)
        objects.labels.append(labels[~is_crowd])
        objects.boxes.append(shares[~is_crowd])
        objects.ignored.append(shares[is_crowd])
    return objects


def picture_sizes(valid: Tensor | None, feature_map: Tensor, stride: int) -> Tensor:
    """Height and width of each picture of a batch, without the padding.

    Parameters
    ----------
    valid : Tensor of bool, shape (B, H, W), or None
        False in the padding below and to the right; None where there is none.
    feature_map : Tensor, shape (B, C, h, w)
        Covers the padded pictures.
    stride : int
        Pixels per cell of it.

    Returns
    -------
    Tensor of int64, shape (B, 2)
        In pixels, at least 1; without `valid` the area that the map covers.

    Examples
    --------
    >>> valid = torch.zeros(1, 8, 12, dtype=torch.bool)
    >>> valid[:, :7, :9] = True
    >>> feature_map = torch.zeros(1, 6, 2, 3)
    >>> picture_sizes(valid, feature_map, 4).tolist(), picture_sizes(None, feature_map, 4).tolist()
    ([[7, 9]], [[8, 12]])
    """
    if valid is None:
        rows, columns = feature_map.shape[-2:]
        return torch.tensor([[rows * stride, columns * stride]], device=feature_map.device).expand(len(feature_map), -1)
    ends = [
        (valid.any(dim=axis) * torch.arange(1, valid.shape[3 - axis] + 1, device=valid.device)).amax(dim=1)
        for axis in (2, 1)
    ]
    return torch.stack(ends, dim=1).clamp(min=1)


class SetHead(DetectionHead):
    """Base of the heads that predict a set.

    A picture's boxes are shares of the whole patches that cover it, whatever it is padded to in a batch, so that a
    picture has the same boxes alone and in a batch.

    Attributes
    ----------
    takes : tuple of str
        What `forward` wants beside the maps and the picture.
    starts_from : str
        transformers' name of the kind of detector whose weights the head can begin with.
    renamed : tuple of (str, str)
        Patterns and replacements that turn the names of that detector's tensors into those of the head's.
    takes_over : tuple of str
        Beginnings of the names, here, of what is taken from such a detector.

    Examples
    --------
    >>> SetHead.merges, SetHead.takes
    (False, ('valid',))
    """

    merges: ClassVar[bool] = False
    starts_from: ClassVar[str]
    renamed: ClassVar[tuple[tuple[str, str], ...]]
    takes_over: ClassVar[tuple[str, ...]] = ("",)
    takes: ClassVar[tuple[str, ...]] = ("valid",)

    @override
    def forward(
        self,
        feature_maps: Sequence[Tensor],
        image: Tensor | None = None,
        valid: Tensor | None = None,
        target: Any = None,
    ) -> dict[str, Tensor]:
        maps, _ = self.receive(feature_maps, image)
        if len(maps[0]):
            return self.predict(maps, image, valid, target)
        # the zeros of a picture that nobody sees: all weights must be in the graph of an empty batch
        filled = [torch.cat([each, each.new_zeros(1, *each.shape[1:])]) for each in maps]
        black = None if image is None else image.new_zeros(1, *image.shape[1:])
        return {name: output[:0] for name, output in self.predict(filled, black, None, None).items()}

    @abstractmethod
    def predict(self, maps: list[Tensor], image: Tensor | None, valid: Tensor | None, target: Any) -> dict[str, Tensor]:
        """Answer as `forward` does, for at least one sample; the first axis of every output is that of the samples."""

    def count_objects(self, target: Mapping[str, Sequence[Tensor]]) -> list[int]:
        """Count the objects of each sample.

        Raises
        ------
        DataError
            If a sample has more than the head has queries: the rest would never be learnt.

        Examples
        --------
        >>> from models.base import FeatureSpec
        >>> from models.detr import DetrHead, DetrOptions
        >>> spec = FeatureSpec((8,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
        >>> with torch.device("meta"):
        ...     head = DetrHead(spec, 2, DetrOptions(num_queries=2))
        >>> head.count_objects({"is_crowd": [torch.tensor([False, False, True]), torch.zeros(0, dtype=torch.bool)]})
        [2, 0]
        >>> head.count_objects({"is_crowd": [torch.zeros(400, dtype=torch.bool)]})
        Traceback (most recent call last):
            ...
        utils.errors.DataError: a sample has 400 objects, but the head has 2 queries, one for each object; raise \
model.head_options.num_queries
        """
        numbers = [int((~is_crowd).sum()) for is_crowd in target["is_crowd"]]
        if max(numbers, default=0) > self.max_objects:
            raise DataError(
                f"a sample has {max(numbers)} objects, but the head has {self.max_objects} queries, one for each "
                "object; raise model.head_options.num_queries"
            )
        return numbers


def to_pixels(boxes: Tensor, scale: Tensor) -> Tensor:
    """Corners in pixels of boxes that are shares of the picture.

    Parameters
    ----------
    boxes : Tensor, shape (B, N, 4)
        Centre and sides.
    scale : Tensor, shape (B, 4)
        As in `read_objects`.

    Returns
    -------
    Tensor, shape (B, N, 4)
        x1, y1, x2, y2.

    Examples
    --------
    >>> to_pixels(torch.tensor([[[0.25, 0.25, 0.5, 0.5]]]), torch.tensor([[16.0, 8.0, 16.0, 8.0]])).tolist()
    [[[0.0, 0.0, 8.0, 4.0]]]
    """
    return cxcywh_to_xyxy(boxes.float()) * scale[:, None]
