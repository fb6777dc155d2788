"""The labels of keypoints: usable pictures, the skeleton, and the canvas to which pictures are scaled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from typing_extensions import override

from tasks.item import Finding
from tasks.keypoints.alignment import align_sets
from tasks.keypoints.doubts import find_doubts
from tasks.keypoints.items import box_faults, usable
from tasks.keypoints.settings import KeypointsSettings
from tasks.labels import NO_CLASS, PictureLabels
from tasks.splits import read_list
from utils.errors import DataError, SettingsError
from utils.formats.read import read_poses
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Skeleton
from utils.geometry.crops import canvas_of
from utils.runtime.setting_errors import suggest


class PoseLabels(PictureLabels):
    """Reads the labels once, with skeleton and canvas; the description of a checkpoint can replace them.

    Parameters
    ----------
    settings : KeypointsSettings
        Paths and keypoints.
    multiple : callable
        Gives a number of pixels; the sides of the canvas are multiples of it.
    fixed : dict
        Values of a checkpoint in place of the labels: `skeleton`, `canvas`, `max_instances`.

    Examples
    --------
    >>> from tasks.keypoints.example import pose_task
    >>> labels = pose_task().source.labels
    >>> labels.skeleton.num_keypoints, len(labels.pictures), labels.canvas
    (7, 12, (96, 128))
    """

    def __init__(
        self, settings: KeypointsSettings, multiple: Callable[[], int], fixed: Mapping[str, Any] | None = None
    ):
        super().__init__(settings, fixed)
        self.keypoints = settings.keypoints
        self.multiple = multiple

    @override
    def read(self, source: str, root: str | None) -> dict[str, AnnotationSet]:
        names = None
        if self.keypoints.names_file is not None:
            names = read_list(Path(self.settings.paths.locate(self.keypoints.names_file)))
        return read_poses(source, self.keypoints.format, root, names)

    @override
    def align(self, sets: dict[str, AnnotationSet]) -> dict[str, AnnotationSet]:
        return align_sets(sets, self.fixed["skeleton"], self._category(sets))

    def _category(self, sets: Mapping[str, AnnotationSet]) -> str | None:
        """The kind of animal of the settings, or of the checkpoint if these labels have it.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> labels = pose_task().labels
        >>> sets, labels.fixed = labels.sets, {"category": "wolf"}
        >>> labels._category(sets) is None
        True
        """
        of_checkpoint = self.fixed.get("category")
        there = any(of_checkpoint in part.skeletons for part in sets.values())
        return self.keypoints.category or (of_checkpoint if there else None)

    @cached_property
    def skeleton(self) -> Skeleton:
        """The keypoints; those of the checkpoint, if the task is made from one.

        Raises
        ------
        SettingsError
            If the labels hold several skeletons and none is chosen.
        DataError
            If the labels name no class, or splits differ in it.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> pose_task().labels.skeleton.flip_idx
        (0, 2, 1, 4, 3, 5, 6)
        """
        if "skeleton" in self.fixed:
            return self.fixed["skeleton"]
        category = self.keypoints.category
        skeletons = join_skeletons(self.sets, category)
        if not skeletons:
            raise DataError(f"{self.settings.paths.label_path}: {NO_CLASS}")
        names = ", ".join(sorted(skeletons))
        if category is not None and category not in skeletons:
            hint = suggest(category, skeletons)
            raise SettingsError(f"keypoints.category: no {category!r} in the labels{hint} known: {names}")
        chosen = {skeleton.names: skeleton for name, skeleton in skeletons.items() if category in (None, name)}
        if len(chosen) != 1:
            raise SettingsError(
                f"keypoints.category: the labels hold {names} with {len(chosen)} different sets of keypoints; "
                "choose one of them"
            )
        return next(iter(chosen.values()))

    @property
    def mirror_swap(self) -> tuple[int, ...]:
        """For each keypoint the one that takes its place in a mirrored picture.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> len(pose_task().source.labels.mirror_swap)
        7
        """
        flip_idx = self.skeleton.flip_idx
        return tuple(range(self.skeleton.num_keypoints)) if flip_idx is None else flip_idx

    @override
    def counts(self, instance: Instance) -> bool:
        fits = len(instance.keypoints) == self.skeleton.num_keypoints
        return fits and self.keypoints.category in (None, instance.category)

    @override
    def box_faults(self, picture: AnnotatedPicture) -> Iterator[str]:
        yield from box_faults(picture.instances, picture.size)

    @cached_property
    def max_instances(self) -> int:
        """Most animals of a sample.

        Raises
        ------
        DataError
            If a picture holds more than `keypoints.max_instances`.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> pose_task().labels.max_instances
        3
        """
        if "max_instances" in self.fixed:
            return self.fixed["max_instances"]
        if self.keypoints.instance_mode == "per_instance":
            return 1
        numbers = {picture.path: len(usable(picture)) for _, picture in self.pictures.values()}
        fullest = max(numbers, key=lambda path: numbers[path])
        limit = self.keypoints.max_instances
        if numbers[fullest] > limit:
            raise DataError(
                f"{fullest}: {numbers[fullest]} animals, but keypoints.max_instances is {limit}; "
                "raise it, or set keypoints.instance_mode: per_instance"
            )
        return max(numbers[fullest], 1)

    @cached_property
    def canvas(self) -> tuple[int, int]:
        """Height and width of every sample.

        Raises
        ------
        DataError
            If no picture can be read.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> pose_task().labels.canvas
        (96, 128)
        """
        if "canvas" in self.fixed:
            return self.fixed["canvas"]
        side, multiple = self.keypoints.short_side, self.multiple()
        if self.keypoints.instance_mode == "per_instance":
            return canvas_of([(1, 1)], side, multiple)
        sizes = [picture.size for _, picture in self.pictures.values() if picture.size is not None]
        if not sizes:
            raise DataError(f"{self.settings.paths.resolve('label_path')}: none of its pictures can be read")
        return canvas_of(sizes, side, multiple)

    @override
    def problems(self) -> Iterator[Finding]:
        yield from super().problems()
        yield from find_doubts(self.sets)


def join_skeletons(sets: Mapping[str, AnnotationSet], category: str | None = None) -> dict[str, Skeleton]:
    """Skeletons of all splits by category.

    Raises
    ------
    DataError
        If splits differ in the chosen category, or in any category if none is chosen.

    Examples
    --------
    >>> sets = {split: AnnotationSet([], {"fox": Skeleton((split, "tail"))}) for split in ("train", "val")}
    >>> list(join_skeletons(sets, "wolf"))
    ['fox']
    >>> join_skeletons(sets)
    Traceback (most recent call last):
        ...
    utils.errors.DataError: category 'fox': keypoint 1 is 'train' in train and 'val' in val; give both splits the \
same skeleton, or the category another name
    """
    skeletons: dict[str, tuple[str, Skeleton]] = {}
    for split, part in sets.items():
        for name, skeleton in part.skeletons.items():
            first, expected = skeletons.setdefault(name, (split, skeleton))
            if skeleton != expected and category in (None, name):
                what = skeleton_difference(expected, skeleton).format(first=first, second=split)
                cure = "give both splits the same skeleton, or the category another name"
                raise DataError(f"category {name!r}: {what}; {cure}")
    return {name: skeleton for name, (_, skeleton) in skeletons.items()}


def skeleton_difference(first: Skeleton, second: Skeleton) -> str:
    """Describe how two skeletons differ, with `{first}` and `{second}` for their places.

    Examples
    --------
    >>> skeleton_difference(Skeleton(("a",)), Skeleton(("a", "b")))
    '1 keypoints in {first} and 2 in {second}'
    >>> skeleton_difference(Skeleton(("a", "b"), (1, 0)), Skeleton(("a", "b")))
    'flip_idx is (1, 0) in {first} and None in {second}'
    """
    if first.num_keypoints != second.num_keypoints:
        return f"{first.num_keypoints} keypoints in {{first}} and {second.num_keypoints} in {{second}}"
    for index, (one, other) in enumerate(zip(first.names, second.names, strict=True), start=1):
        if one != other:
            quoted = [repr(name).replace("{", "{{").replace("}", "}}") for name in (one, other)]
            return f"keypoint {index} is {quoted[0]} in {{first}} and {quoted[1]} in {{second}}"
    if first.flip_idx != second.flip_idx:
        return f"flip_idx is {first.flip_idx} in {{first}} and {second.flip_idx} in {{second}}"
    return "the edges in {first} and {second} differ"
