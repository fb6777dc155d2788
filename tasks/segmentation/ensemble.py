"""Ensembles: the class probabilities of a picture joined with the objects that another model has found there."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from config import expand_path
from tasks.segmentation.annotations import class_of_name, read_families
from tasks.segmentation.ensemble_settings import EnsembleConfig
from tasks.segmentation.items import SceneItem
from tasks.segmentation.settings import SegmentationSettings
from utils import IGNORE_INDEX
from utils.errors import DataError
from utils.formats.mask_outlines import mask_of_instance
from utils.formats.read import read_annotations
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance
from utils.masks.ensemble import ScoredMask, blend, score_maps, suppress, vote, with_background
from utils.raster.tiling import Window
from utils.runtime.files import file_stamp

logger = logging.getLogger(__name__)

MOST_VALUES = 2**27  # probabilities of a picture that are held whole, three times over


class Ensemble:
    """Joins probabilities with the objects of another model.

    Parameters
    ----------
    settings : SegmentationSettings
        Its `dataset` tells the class of each name, and which class is the background (`dataset.unlabelled`).
    ensemble : EnsembleConfig
        What is joined, and how.
    classes : sequence of str
        Class names.

    Examples
    --------
    >>> settings = SegmentationSettings(dataset={"unlabelled": "dark"})
    >>> Ensemble(settings, EnsembleConfig(predictions="a.json"), ["dark", "light"]).background
    0
    """

    def __init__(self, settings: SegmentationSettings, ensemble: EnsembleConfig, classes: Sequence[str]):
        self.dataset, self.settings, self.classes = settings.dataset, ensemble, list(classes)
        self.paths = settings.paths
        known = self.dataset.unlabelled != "ignore"
        self.background = self.classes.index(self.dataset.unlabelled) if known else None

    def key(self) -> dict[str, Any]:
        """Everything that the joined predictions depend on besides ours.

        Examples
        --------
        >>> Ensemble(SegmentationSettings(), EnsembleConfig(predictions="/no/a.json"), ["a"]).key()["stamps"]
        []
        """
        path = Path(expand_path(self.settings.predictions))
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        names = [dict(self.dataset.label_mapping or {}), read_families(self.dataset)]
        stamps = [file_stamp(file) for file in files if file.is_file()]
        return {
            **self.settings.model_dump(mode="json"),
            "names": names,
            "background": self.background,
            "stamps": stamps,
        }

    @property
    def needs_whole(self) -> bool:
        """Whether a picture must be there as a whole.

        Examples
        --------
        >>> ensembles = [EnsembleConfig(predictions="a", strategy=strategy) for strategy in ("voting", "nms")]
        >>> [Ensemble(SegmentationSettings(), ensemble, ["a"]).needs_whole for ensemble in ensembles]
        [False, True]
        """
        return self.settings.strategy == "nms"

    @cached_property
    def pictures(self) -> dict[Path, AnnotatedPicture]:
        """The pictures with the other model's objects, by resolved path.

        Raises
        ------
        DataError
            If the file cannot be read, or holds no object with a score.

        Examples
        --------
        >>> Ensemble(SegmentationSettings(), EnsembleConfig(predictions="/no/a.json"), ["a"]).pictures
        Traceback (most recent call last):
            ...
        utils.errors.DataError: /no/a.json: no such file or folder; give a data set file or a folder
        """
        path = expand_path(self.settings.predictions)
        sets = self._read(path)
        pictures = {picture.path.resolve(): picture for part in sets.values() for picture in part.pictures}
        scores = [one.score for picture in pictures.values() for one in picture.instances if one.score is not None]
        if not scores:
            raise DataError(f"{path}: no object has a score; name the predictions of another model, not labels")
        wrong = [score for score in scores if not 0 <= score <= 1]
        if wrong:
            raise DataError(f"{path}: {len(wrong)} scores are not from 0 to 1, such as {wrong[0]:g}; divide them")
        return pictures

    def _read(self, path: str) -> dict[str, AnnotationSet]:
        """Read the predictions; pictures lie where the file says, in `paths.data_root` or in `raw_images_dir`.

        Raises
        ------
        DataError
            If nothing can be read; the error is that of the first place.

        Examples
        --------
        >>> Ensemble(SegmentationSettings(), EnsembleConfig(predictions="a.json"), ["a"])._read("/no/a.json")
        Traceback (most recent call last):
            ...
        utils.errors.DataError: /no/a.json: no such file or folder; give a data set file or a folder
        """
        pictures = self.paths.resolve("raw_images_dir")
        folders = [pictures] if isinstance(pictures, str) else pictures or []
        root = [expand_path(self.paths.data_root)] if self.paths.data_root else []
        failed: DataError | None = None
        for place in (*root, None, *(folder for folder in folders if Path(folder).is_dir())):
            try:
                sets = read_annotations(path, root=place, predictions=True)
                if any(part.pictures for part in sets.values()):
                    return sets
            except DataError as error:
                failed = failed or error
        raise failed or DataError(f"{path}: none of its pictures is found; name their folder in paths.data_root")

    @cached_property
    def indices(self) -> dict[str, int]:
        """The class of each name in the predictions, 255 for one that is to be ignored.

        Raises
        ------
        DataError
            If a name is no class, with all such names.

        Examples
        --------
        >>> ensemble = Ensemble(SegmentationSettings(), EnsembleConfig(predictions="a.json"), ["dark", "light"])
        >>> ensemble.pictures = {Path("a"): AnnotatedPicture("a", Path("a"), (1, 1), (Instance("light", score=0.5),))}
        >>> ensemble.indices
        {'light': 1}
        """
        families = read_families(self.dataset)
        names = sorted({one.category for picture in self.pictures.values() for one in picture.instances})
        indices = {name: class_of_name(name, self.dataset, families, self.classes) for name in names}
        unknown = [name for name, index in indices.items() if index < 0]
        if unknown:
            raise DataError(
                f"{self.settings.predictions}: {', '.join(unknown)} {'is' if len(unknown) == 1 else 'are'} no class; "
                f"known: {', '.join(self.classes)}; map other names in dataset.label_mapping"
            )
        return indices

    def check(self, paths: Iterable[Path]) -> None:
        """Look whether the predictions fit some pictures.

        Raises
        ------
        DataError
            If they cannot be read, name unknown classes, or are of none of the pictures.

        Examples
        --------
        >>> ensemble = Ensemble(SegmentationSettings(), EnsembleConfig(predictions="a.json"), ["light"])
        >>> ensemble.pictures = {Path("/a"): AnnotatedPicture("a", Path("/a"), (1, 1), (Instance("light", score=0.5),))}
        >>> ensemble.check([Path("/a"), Path("/b")])
        >>> ensemble.check([Path("/b")])
        Traceback (most recent call last):
            ...
        utils.errors.DataError: a.json: holds nothing of any of 1 pictures, such as /b; name predictions of these
        """
        wanted = [path.resolve() for path in paths]
        if self.indices and wanted and not any(path in self.pictures for path in wanted):
            raise DataError(
                f"{self.settings.predictions}: holds nothing of any of {len(wanted)} pictures, such as {wanted[0]}; "
                "name predictions of these"
            )

    def objects(self, item: SceneItem) -> list[ScoredMask] | None:
        """The other model's objects on the grid of an item's map; None where it has no such picture.

        Raises
        ------
        DataError
            If the item is a part of its picture, or a mask is not of the picture's size.

        Examples
        --------
        >>> ensemble = Ensemble(SegmentationSettings(), EnsembleConfig(predictions="a.json"), ["light"])
        >>> light = Instance("light", polygons=(np.array([[1.0, 0], [3, 0], [3, 2], [1, 2]]),), score=0.5)
        >>> ensemble.pictures = {Path("/a.png"): AnnotatedPicture("a", Path("/a.png"), (2, 4), (light,))}
        >>> item = SceneItem("a", (Path("/a.png"),), "a", Window(0, 0, 2, 4), 4, 4, (0, 2), output=(1, 2))
        >>> [(found.columns, found.covered.tolist()) for found in ensemble.objects(item)]
        [(slice(0, 1, None), [[True]])]
        """
        where, picture = self.settings.predictions, self.pictures.get(item.sources[0].resolve())
        if picture is None:
            logger.warning("%s: holds nothing of %s, which this model predicts alone", where, item.sources[0])
            return None
        if item.id != item.scene_id:
            raise DataError(
                f"{item.id}: a part of a picture, and {where} holds objects of whole ones; name whole pictures in the "
                "split lists, or in evaluate.inputs"
            )
        values = item.map_size[0] * item.map_size[1] * len(self.classes)
        if self.needs_whole and values > MOST_VALUES:
            raise DataError(
                f"{item.id}: {values} probabilities of pixels and classes, and the strategy nms holds at most "
                f"{MOST_VALUES} of a picture; take weighted or voting"
            )
        size = picture.size or item.map_size
        found = (self._object(instance, size, item) for instance in picture.instances)
        return [one for one in found if one is not None]

    def _object(self, instance: Instance, size: tuple[int, int], item: SceneItem) -> ScoredMask | None:
        """One object on the grid of an item's map; None where it is ignored, has no score, or covers nothing.

        Raises
        ------
        DataError
            If its mask is not of the picture's size (height, width).

        Examples
        --------
        >>> ensemble = Ensemble(SegmentationSettings(), EnsembleConfig(predictions="a.json"), ["light"])
        >>> ensemble.pictures = {}
        >>> item = SceneItem("a", (), "a", Window(0, 0, 2, 4), 4, 4, (0, 2))
        >>> ensemble._object(Instance("light"), (2, 4), item) is None
        True
        """
        index = self.indices.get(instance.category, IGNORE_INDEX)
        if index == IGNORE_INDEX or instance.score is None:
            return None
        try:
            mask = mask_of_instance(instance, size)
        except ValueError as error:
            raise DataError(f"{self.settings.predictions}: {item.id}: {error}") from None
        height, width = item.map_size
        if mask.shape != (height, width):  # by the centres of the map's pixels
            rows = (2 * np.arange(height) + 1) * size[0] // (2 * height)
            columns = (2 * np.arange(width) + 1) * size[1] // (2 * width)
            mask = mask[np.ix_(rows, columns)]
        if not mask.any():
            return None
        covered = [np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)]
        rows_in, columns_in = (slice(int(lines[0]), int(lines[-1]) + 1) for lines in covered)
        return ScoredMask(index, float(instance.score), rows_in, columns_in, mask[rows_in, columns_in])

    def join(self, probabilities: np.ndarray, objects: Sequence[ScoredMask], place: Window) -> np.ndarray:
        """Join the probabilities (K, H, W) of a place in the map with the objects of the picture.

        Examples
        --------
        >>> ensemble = Ensemble(SegmentationSettings(), EnsembleConfig(predictions="a", strategy="voting"), ["a", "b"])
        >>> sure = ScoredMask(1, 0.875, slice(0, 1), slice(2, 3), np.array([[True]]))
        >>> ensemble.join(np.float32([[[0.75, 0.75]], [[0.25, 0.25]]]), [sure], Window(0, 2, 1, 2))[:, 0].tolist()
        [[0.0, 0.75], [0.875, 0.25]]
        """
        settings, inside = self.settings, [part for one in objects if (part := _cut(one, place)) is not None]
        if settings.strategy == "nms":
            return suppress(probabilities, inside, self.background, settings.iou)
        scores = score_maps(inside, len(self.classes), probabilities.shape[1:])
        scores = with_background(scores, self.background)
        if settings.strategy == "voting":
            return vote(probabilities, scores)
        return blend(probabilities, scores, settings.weight, settings.other_weight)


def _cut(mask: ScoredMask, place: Window) -> ScoredMask | None:
    """The part of an object in a place, in its coordinates; None where there is none.

    Examples
    --------
    >>> mask = ScoredMask(0, 0.5, slice(0, 2), slice(1, 4), np.ones((2, 3), bool))
    >>> _cut(mask, Window(1, 2, 4, 8))[2:4], _cut(mask, Window(2, 0, 1, 1))
    ((slice(0, 1, None), slice(0, 2, None)), None)
    """
    own = Window(mask.rows.start, mask.columns.start, *mask.covered.shape)
    part = own.intersection(place)
    if part is None:
        return None
    local, moved = part.shifted(-own.y, -own.x), part.shifted(-place.y, -place.x)
    return mask._replace(rows=moved.rows, columns=moved.columns, covered=mask.covered[local.rows, local.columns])
