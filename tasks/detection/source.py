"""Source of detection: pictures and videos as items, and their samples: the whole picture and windows of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from typing_extensions import override

from tasks.baselines import spread
from tasks.belief import Place
from tasks.detection.items import DetectionItem, Objects
from tasks.detection.labels import DetectionLabels
from tasks.detection.rasters import RasterItem, grid_if_raster, moved_to
from tasks.detection.settings import DetectionSettings
from tasks.detection.views import Size, cut_to_content, pad_sample, padded_size, part_matrices, resized_size
from tasks.features import FeatureService
from tasks.item import Finding, Piece
from tasks.labelled import LabelledSource, decode_picture
from tasks.places import place_on_ground
from tasks.sample import Sample
from utils.boxes.geometry import keep_visible
from utils.errors import DataError
from utils.formats.types import AnnotatedPicture
from utils.geometry.augment import Variation, View, random_colour
from utils.geometry.crops import move_boxes, random_affine, warp_picture
from utils.geometry.fields import Boxes, Fields, Image, Mask, Transform, Values, warp
from utils.media.videos import is_video


class DetectionSource(LabelledSource[DetectionItem]):
    """Pictures and videos with labelled boxes.

    Parameters
    ----------
    name, settings, features
        As for `FeatureSource`.
    labels : DetectionLabels
        The classes and the pictures.

    Examples
    --------
    >>> from tasks.detection.example import fox_task
    >>> source = fox_task("detection.windows=2").source
    >>> samples = list(source.samples(source.items("val")[0]))
    >>> [int(sample.arrays["part"]) for sample in samples], samples[1].arrays["image"].shape
    ([0, 1, 2, 3, 4], (96, 128, 3))
    """

    settings: DetectionSettings
    labels: DetectionLabels

    def __init__(self, name: str, settings: DetectionSettings, features: FeatureService, labels: DetectionLabels):
        super().__init__(name, settings, features, labels, settings.detection.split_by, "detection")
        self.detection = settings.detection

    # -- items

    @override
    def make_item(self, picture: AnnotatedPicture, split: str) -> DetectionItem:
        objects = self.labels.objects_of(picture)
        others = self.labels.others_of(picture) if split == "train" and self._takes_others else np.zeros((0, 4))
        return DetectionItem(picture.id, (picture.path,), picture, split, objects=objects, others_xyxy=others)

    @override
    def items(self, split: str) -> list[DetectionItem]:
        found = super().items(split)
        most = getattr(self.settings.dataset.subset, split, None)
        return found if most is None else [found[index] for index in spread(len(found), most)]

    @override
    def input_items(self, sources: list[str]) -> list[DetectionItem]:
        return [self._as_raster(item) for item in super().input_items(sources)]

    def _as_raster(self, item: DetectionItem) -> DetectionItem:
        """A raster that is too large to be seen as a whole, or has a place on Earth, window by window.

        A window shows as many pixels as a training picture, so that objects have the size that they were learnt in.

        Examples
        --------
        >>> from pathlib import Path
        >>> from tasks.detection.example import fox_task
        >>> from utils.raster.example import raster_file
        >>> path = raster_file("a.tif", np.zeros((400, 600, 3), np.uint8), crs="EPSG:32631")
        >>> [item] = fox_task().source.input_items([path])
        >>> item.tile, item.stride, len(item.windows())
        (192, 154, 12)
        """
        path = item.picture.path
        grid = None if is_video(path) else grid_if_raster(path)
        if grid is None:
            return item
        tile = max(round(self.detection.shortest_edge / self.labels.zoom), 1)
        stride = max(round(tile * (1 - self.detection.window_overlap)), 1)
        return RasterItem(item.id, item.sources, item.picture, item.split, grid=grid, tile=tile, stride=stride)

    @override
    def continue_from(self, item: DetectionItem, resume: int) -> DetectionItem:
        if isinstance(item, RasterItem):
            return replace(item, first_row=resume)
        return super().continue_from(item, resume)

    @override
    def place(self, item: DetectionItem) -> Place | None:
        grid = None if is_video(item.picture.path) else grid_if_raster(item.picture.path)
        if grid is None:
            return None
        return place_on_ground(grid.crs, grid.transform, (0, 0, grid.width, grid.height))

    @override
    def count_samples(self, item: DetectionItem) -> int:
        pictures = len(item.remaining()) if isinstance(item, RasterItem) else item.count_frames()
        return (1 + self.detection.windows**2) * pictures

    @override
    def truth(self, piece: Piece) -> dict[str, np.ndarray]:
        assert isinstance(piece.item, DetectionItem)
        objects, size = piece.item.objects, piece.arrays["size"]
        return Objects(*keep_visible(*objects, size, min_visible=0.0))._asdict()

    @override
    def audit(self, items: Iterable[DetectionItem]) -> Iterator[Finding]:
        listed = list(items)
        if listed and listed[0].split == self.first_split():
            yield from self.labels.problems()
        for item in listed:
            yield from audit_picture(item)

    # -- samples

    @override
    def samples(self, item: DetectionItem) -> Iterator[Sample]:
        if isinstance(item, RasterItem):
            yield from self._samples_of_raster(item)
            return
        for frame, image in item.frames():
            size = image.shape[0], image.shape[1]
            scaled = resized_size(size, self.detection.shortest_edge, self.detection.longest_edge)
            matrices = part_matrices(size, scaled, self.detection.windows, self.detection.window_overlap)
            for part, matrix in enumerate(matrices):
                arrays = self._arrays(image, matrix, scaled, item.objects, item.others_xyxy)
                arrays |= {"part": np.array(part), "picture": np.array([frame, *size])}
                yield Sample(f"{item.id}#{frame}.{part}", item, arrays)

    def _samples_of_raster(self, item: RasterItem) -> Iterator[Sample]:
        """Samples of the windows of a raster, each as those of a picture.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> from utils.raster.example import raster_file
        >>> source = fox_task().source
        >>> path = raster_file("a.tif", np.ones((192, 300, 3), np.uint8), crs="EPSG:32631")
        >>> samples = list(source.samples(source.input_items([path])[0]))
        >>> [(sample.window.x, sample.arrays["image"].shape) for sample in samples]
        [(0, (96, 96, 3)), (108, (96, 96, 3))]
        """
        zoom = self.detection.shortest_edge / item.tile
        whole = np.array([0, item.grid.height, item.grid.width])
        for window, image in item.read():
            size = window.height, window.width
            scaled = max(round(size[0] * zoom), 1), max(round(size[1] * zoom), 1)
            own = list(part_matrices(size, scaled, self.detection.windows, self.detection.window_overlap))
            for part, (matrix, placed) in enumerate(zip(own, moved_to(window, own), strict=True)):
                arrays = self._arrays(image, matrix, scaled, item.objects, item.others_xyxy)
                arrays |= {"matrix": placed, "part": np.array(part), "picture": whole}
                yield Sample(f"{item.id}@{window.y},{window.x}.{part}", item, arrays, window)

    def _arrays(
        self, image: np.ndarray, matrix: np.ndarray, size: Size, objects: Objects, others_xyxy: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Lay a picture (H, W, 3) and its objects on a sample, by a matrix (3, 3) and its size before padding.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> source = fox_task("detection.pad_size=[100, 160]", "detection.longest_edge=160").source
        >>> one = Objects(np.array([[0.0, 0, 90, 20]]), np.array([0]), np.array([False]))
        >>> image, doubled = np.zeros((48, 64, 3), np.uint8), np.diag([2.0, 2.0, 1.0])
        >>> arrays = source._arrays(image, doubled, (96, 128), one, one.boxes_xyxy[:0])
        >>> arrays["image"].shape, int(arrays["valid"].sum()) == 96 * 128, arrays["boxes_xyxy"].tolist()
        ((100, 160, 3), True, [[0.0, 0.0, 128.0, 40.0]])
        """
        moved = move_boxes(objects.boxes_xyxy, matrix).astype(np.float32)
        kept = keep_visible(moved, objects.labels, objects.is_crowd, size, self.detection.min_visible)
        arrays = {"image": warp_picture(image, matrix, size)[0], "matrix": matrix}
        if self.detection.pad_size is not None:
            padded = padded_size(size, self.detection.pad_size, self.features.info.patch_size)
            arrays |= pad_sample(arrays["image"], padded, self._fill)
        if self._takes_others:
            arrays["others_xyxy"] = visible_others(move_boxes(others_xyxy, matrix), size, self.detection.min_visible)
        return {**arrays, **Objects(*kept)._asdict()}

    @property
    def _fill(self) -> np.ndarray:
        """Colour (3,) of what is padded: 0 once it is normalised.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> fox_task().source._fill.tolist()
        [124, 116, 104]
        """
        return np.rint(255 * np.array(self.features.info.mean)).astype(np.uint8)

    @override
    def apply_view(self, sample: Sample, view: View | Variation) -> Sample:
        apply = super().apply_view
        return self._change_content(sample, lambda content: apply(content, view))

    def _change_content(self, sample: Sample, change: Callable[[Sample], Sample]) -> Sample:
        """Change a sample without its padding, and pad it again below and to the right: heads rely on that.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> source = fox_task("detection.pad_size=[96, 160]", "detection.longest_edge=160").source
        >>> sample = next(iter(source.samples(source.items("val")[0])))
        >>> turned = source._change_content(sample, lambda content: source.apply_view(content, View(True, 1)))
        >>> sample.arrays["image"].shape, turned.arrays["image"].shape, int(turned.arrays["valid"].sum()) == 96 * 128
        ((96, 160, 3), (160, 96, 3), True)
        """
        if "valid" not in sample.arrays:
            return change(sample)
        changed = change(cut_to_content(sample))
        height, width = sample.arrays["image"].shape[:2]
        is_turned = (changed.view.quarter_turns - sample.view.quarter_turns) % 2
        padded = (width, height) if is_turned else (height, width)
        return changed.with_arrays(changed.arrays | pad_sample(changed.arrays["image"], padded, self._fill))

    @override
    def sample_stats(self, sample: Sample) -> dict[str, Any]:
        learnt = sample.arrays["labels"][~sample.arrays["is_crowd"]]
        counts = np.bincount(learnt, minlength=len(self.labels.classes)).tolist()
        return {"counts": dict(zip(self.labels.classes, counts, strict=True))}

    @override
    def sample_size(self) -> Size:
        return self._largest

    @cached_property
    def _largest(self) -> Size:
        """Height and width of the largest sample, or of the most usual one where the pictures are not known.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> fox_task("detection.longest_edge=112").source._largest
        (84, 112)
        """
        edges = self.detection.shortest_edge, self.detection.longest_edge
        known: Iterable[tuple[str, AnnotatedPicture]] = () if self.labels.fixed else self.labels.pictures.values()
        scaled = [resized_size(picture.size, *edges) for _, picture in known if picture.size is not None]
        largest = max(scaled, key=lambda size: size[0] * size[1], default=edges)
        return padded_size(largest, self.detection.pad_size, self.features.info.patch_size)

    @override
    def sample_bytes(self) -> int:
        height, width = self.sample_size()
        channels = 3 if self.detection.pad_size is None else 4
        most = max(self.labels.numbers().values(), default=0)
        return height * width * channels + most * (16 + 8 + 1) + 72 + 32

    @override
    def cache_key(self) -> dict[str, Any]:
        keys = ("shortest_edge", "longest_edge", "pad_size", "windows", "window_overlap", "min_visible")
        return {
            **{key: getattr(self.detection, key) for key in keys},
            "classes": self.labels.classes,
            "features": self.features_key(),
            **({} if self.detection.pad_size is None else {"padded": "after views"}),
            **({"others": True} if self._takes_others else {}),
        }

    @property
    def _takes_others(self) -> bool:
        """Whether the head learns from boxes of other classes; else a change of these must not cost a training.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> fox_task().source._takes_others, fox_task("model.head_options={other_classes: true}").source._takes_others
        (False, True)
        """
        return bool(self.settings.model.head_options.get("other_classes", False))

    @property
    @override
    def fields(self) -> Fields:
        return {
            "image": Image("black"),
            "valid": Mask(0),
            "boxes_xyxy": Boxes(),
            "labels": Values(ragged=True),
            "is_crowd": Values(ragged=True),
            "others_xyxy": Boxes(),
            "matrix": Transform(),
            "part": Values(),
            "picture": Values(),
        }

    @override
    def augment(self, sample: Sample, generator: np.random.Generator) -> Sample:
        if not self.settings.dataset.augmentations.enable:
            return sample
        return self._change_content(sample, lambda content: self._vary(content, generator))

    def _vary(self, sample: Sample, generator: np.random.Generator) -> Sample:
        """Turn, shear, shift and enlarge a sample without padding at random, and change its colours.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> source = fox_task("dataset.augmentations={translate: 0.2, brightness: 0.0, contrast: 0.0}").source
        >>> sample = next(iter(source.samples(source.items("val")[0])))
        >>> moved = source._vary(sample, np.random.default_rng(0)).arrays["matrix"] - sample.arrays["matrix"]
        >>> moved[:2, :2].tolist(), bool(moved[:2, 2].any())
        ([[0.0, 0.0], [0.0, 0.0]], True)
        """
        varied = self.settings.dataset.augmentations
        size = sample.arrays["image"].shape[:2]
        matrix = random_affine(
            generator,
            size,
            (varied.scale_range[0], varied.scale_range[1]),
            varied.rotation_degrees,
            varied.shear_degrees,
            varied.translate,
            varied.probability,
        )
        colour = random_colour(varied)
        arrays = dict(sample.arrays)
        if not np.array_equal(matrix, np.eye(3)):
            arrays = warp(self.fields, arrays, matrix, size)
            objects = Objects(*(arrays[name] for name in Objects._fields))
            arrays |= Objects(*keep_visible(*objects, size, self.detection.min_visible))._asdict()
            if self._takes_others:
                arrays["others_xyxy"] = visible_others(arrays["others_xyxy"], size, self.detection.min_visible)
        return sample.with_arrays({**arrays, "image": colour(arrays["image"], generator)})


def visible_others(boxes_xyxy: np.ndarray, size: Size, min_visible: float) -> np.ndarray:
    """Boxes (M, 4) of other classes, cut at the edges of a sample; those that are hardly in it are left out.

    Examples
    --------
    >>> visible_others(np.array([[-2.0, 0, 8, 4], [-8, 0, 2, 4]]), (10, 10), min_visible=0.5).tolist()
    [[0.0, 0.0, 8.0, 4.0]]
    """
    boxes, number = boxes_xyxy.astype(np.float32), len(boxes_xyxy)
    kept, _, is_sliver = keep_visible(boxes, np.zeros(number, np.int64), np.zeros(number, bool), size, min_visible)
    return kept[~is_sliver]


def audit_picture(item: DetectionItem) -> Iterator[Finding]:
    """Check that a picture can be read; boxes outside of it are told, and cut, where the labels are read.

    Examples
    --------
    >>> from tasks.detection.example import fox_task
    >>> item = fox_task().source.items("val")[0]
    >>> list(audit_picture(item))
    []
    >>> from pathlib import Path
    >>> print(*audit_picture(replace(item, picture=replace(item.picture, path=Path("gone.png")))))
    images/val_000: gone.png: no such picture; put it there, or mend the label that names it
    """
    try:
        decode_picture(item.picture)
    except DataError as error:
        yield Finding(item.id, str(error))
