"""Labels of tasks that look for objects in pictures: read once, with what of them can be used and what cannot."""

from __future__ import annotations

import functools
import logging
import os
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tasks.item import Finding
from tasks.result_files import is_overlay
from utils.errors import DataError, SettingsError
from utils.formats.names import alike
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance
from utils.raster.inputs import find_inputs

logger = logging.getLogger(__name__)

NO_CLASS = "the labels name no class, as no object is labelled; label some, or list names in a data.yaml"
PROBLEMS_NAMED = 3  # in the log of runs without verify
REACH = 3.0  # largest width or height of a box, relative to its picture


class PictureLabels(ABC):
    """Reads the labels once; the description of a checkpoint can replace what is found out from them.

    Parameters
    ----------
    settings : TaskConfig
        With `paths.label_path` and `evaluate`.
    fixed : dict
        Values of a checkpoint in place of the labels; empty where the task is not made from one.

    Attributes
    ----------
    unlabelled : list of str
        Pictures in `evaluate.inputs` that the labels do not name.
    """

    def __init__(self, settings: Any, fixed: Mapping[str, Any] | None = None):
        self.settings = settings
        self.fixed = dict(fixed or {})
        self.unlabelled: list[str] = []

    @abstractmethod
    def read(self, source: str, root: str | None) -> dict[str, AnnotationSet]:
        """Read labels, whose pictures lie below a root."""

    @abstractmethod
    def counts(self, instance: Instance) -> bool:
        """Whether an object is of this task."""

    def box_faults(self, picture: AnnotatedPicture) -> Iterator[str]:
        """Describe the boxes of a picture that cannot be used; none where the reader has taken these out.

        Examples
        --------
        >>> from tasks.detection.example import fox_task
        >>> labels = fox_task().labels
        >>> list(labels.box_faults(labels.sets["val"].pictures[0]))
        []
        """
        return iter(())

    def align(self, sets: dict[str, AnnotationSet]) -> dict[str, AnnotationSet]:
        """Bring labels into the form that a checkpoint asks for.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> labels = pose_task().labels
        >>> PictureLabels.align(labels, labels.sets) is labels.sets
        True
        """
        return sets

    def is_result(self, path: Path) -> bool:
        """Whether a file among the inputs was written by inference.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> pose_task().labels.is_result(Path("chase.mp4"))
        False
        """
        return is_overlay(path)

    @cached_property
    def sets(self) -> dict[str, AnnotationSet]:
        """Labelled pictures by split; `all` if the source has no splits.

        Raises
        ------
        SettingsError, DataError
            If no labels are named, or nothing can be read.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> list(pose_task().labels.sets)
        ['train', 'val']
        """
        source = self.settings.paths.resolve("label_path")
        if source is None:
            raise SettingsError(
                "paths.label_path: not set; name the labels: a data.yaml, a COCO json, a LabelMe folder or a csv"
            )
        if not Path(source).exists():
            raise DataError(f"paths.label_path: {source}: no such file or folder; give a data set file or a folder")
        inputs = named_inputs(self.settings) if self.fixed else []
        try:
            sets = self.read(source, self.settings.paths.data_root)
        except DataError:
            if len(inputs) != 1 or not Path(inputs[0]).is_dir():
                raise
            sets = self.read(source, inputs[0])  # the labels name pictures that lie in this folder
        if inputs:
            sets, self.unlabelled = keep_inputs(
                sets, inputs, self.is_result, lambda copies: self._lead(source, inputs, copies)
            )
        return self.align(sets) if self.fixed else sets

    def _lead(self, source: str, inputs: Sequence[str], copies: Sequence[Path]) -> str:
        """Words that lead labels to copies of their pictures in another folder, which are tried before they are said.

        Examples
        --------
        >>> import shutil, tempfile
        >>> from tasks.keypoints.example import pose_task
        >>> labels, folder = pose_task().labels, tempfile.mkdtemp()
        >>> copy = Path(shutil.copy(labels.sets["val"].pictures[1].path, folder))
        >>> source = labels.settings.paths.locate("annotations/val.json")
        >>> told = labels._lead(source, [folder], [copy])
        >>> told.replace(folder, "F").replace(source, "L")
        'write paths.data_root=F evaluate.inputs=F evaluate.labels=L after the command'
        """
        shared = Path(os.path.commonpath([path.absolute().parent for path in copies]))
        resolved, why = set(map(os.path.realpath, copies)), ""
        for root in (shared, *shared.parents)[:4]:
            try:
                sets = self.read(source, str(root))
            except DataError as error:
                why = why or f": {error}"
                continue
            if any(os.path.realpath(picture.path) in resolved for part in sets.values() for picture in part.pictures):
                entries = [os.path.abspath(entry) for entry in inputs]  # relative ones start in the data root
                named = entries[0] if len(entries) == 1 else f"[{', '.join(entries)}]"
                words = {"paths.data_root": root, "evaluate.inputs": named, "evaluate.labels": os.path.abspath(source)}
                listed = " ".join(shlex.quote(f"{key}={value}") for key, value in words.items())
                return f"write {listed} after the command"
        cure = "correct those names, or name the originals"
        return f"no paths.data_root leads from the names in the labels to them; {cure}{why}"

    @cached_property
    def faults(self) -> dict[str, Finding]:
        """The first box of each picture that cannot be used, by picture.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> labels = pose_task().labels
        >>> labels.sets["val"].pictures[1].instances[0].box_xyxy[2] = 1e300
        >>> print(*labels.faults.values())
        images/val_001: animal 1: its box of 1e+300 x 78 pixels is more than 3 times as wide or high as the picture; \
correct or remove it
        """
        faults: dict[str, Finding] = {}
        for picture in (picture for part in self.sets.values() for picture in part.pictures):
            fault = next(self.box_faults(self.of_task(picture)), None)
            if fault is not None:
                faults.setdefault(picture.id, Finding(picture.id, fault, "correct or remove it"))
        return faults

    def of_task(self, picture: AnnotatedPicture) -> AnnotatedPicture:
        """A picture with the objects of this task only.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> wolf = Instance("wolf", np.zeros((3, 3)))
        >>> pose_task().labels.of_task(AnnotatedPicture("a", Path("a.png"), None, (wolf,))).instances
        ()
        """
        return replace(picture, instances=tuple(filter(self.counts, picture.instances)))

    @cached_property
    def pictures(self) -> dict[str, tuple[str, AnnotatedPicture]]:
        """Every labelled picture by id, with the split that its source puts it in; objects of this task only.

        Pictures whose labels cannot be read completely are left out, since missing objects would be learned as
        background; `verify` lists them.

        Raises
        ------
        DataError
            If a picture is in two splits, or no picture has labels that can be read.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> sorted({split for split, _ in pose_task().labels.pictures.values()})
        ['train', 'val']
        """
        pictures: dict[str, tuple[str, AnnotatedPicture]] = {}
        incomplete = self.incomplete()
        unusable = set(incomplete)
        for split, part in self.sets.items():
            for picture in part.pictures:
                if picture.id in unusable:
                    continue
                if picture.id in pictures:
                    raise DataError(f"{picture.path}: is in {pictures[picture.id][0]} and in {split}; keep one")
                pictures[picture.id] = split, self.of_task(picture)
        if incomplete:
            summary = (
                f"{len(incomplete)} pictures, such as {incomplete[0]}, have labels that cannot be read or used whole"
            )
            if not pictures:
                raise DataError(f"{self.settings.paths.label_path}: all {summary}; first: {next(self.problems())}")
            logger.warning("%s; they are left out until the labels are corrected; verify lists them", summary)
        return pictures

    def incomplete(self, split: str | None = None) -> list[str]:
        """Ids of the pictures that are left out of a split, or of all, as their labels cannot be read or used whole.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> labels = pose_task().labels
        >>> labels.sets["val"].pictures[1].extra["incomplete"] = True
        >>> labels.incomplete(), labels.incomplete("train"), "images/val_001" in labels.pictures
        (['images/val_001'], [], False)
        """
        return [
            picture.id
            for own, part in self.sets.items()
            for picture in part.pictures
            if (picture.extra.get("incomplete") or picture.id in self.faults) and split in (None, own)
        ]

    def problems(self) -> Iterator[Finding]:
        """Problems that readers found in the labels, and boxes that cannot be used.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> list(pose_task().labels.problems())
        []
        """
        for part in self.sets.values():
            for problem in part.problems:
                yield Finding(problem.where, problem.what, problem.cure, problem.blocks)
        yield from self.faults.values()

    def warn_of_problems(self) -> None:
        """Name the first problems, once in a command, for runs without verify.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> labels = pose_task().labels
        >>> labels.warn_of_problems(), len(list(labels.problems()))
        (None, 0)
        """
        problems = list(self.problems())
        if not problems:
            return
        some = "; ".join(map(str, problems[:PROBLEMS_NAMED]))
        more = len(problems) - PROBLEMS_NAMED
        rest = f"; and {more} more, all of which verify lists (verify.enable=true)" if more > 0 else ""
        number = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        _warn_once(str(self.settings.paths.resolve("label_path")), f"{number} in the labels: {some}{rest}")


@functools.cache
def _warn_once(source: str, text: str) -> None:
    """Log a warning about labels, once in a process, as each phase reads them anew.

    Examples
    --------
    >>> known = _warn_once.cache_info().currsize
    >>> for source in ("a.json", "a.json", "b.json"):
    ...     _warn_once(source, "a label")
    >>> _warn_once.cache_info().currsize - known
    2
    """
    logger.warning("%s", text)


def doubt_classes(names: Sequence[str]) -> Iterator[Finding]:
    """Doubt classes whose names are alike; a note, as letters may be classes.

    Examples
    --------
    >>> print(*doubt_classes(["cat", "dog", "Cat"]))
    classes: 'cat', 'Cat' differ only by case or spaces; give a class one name in all labels
    """
    for group in alike(names):
        listed = ", ".join(map(repr, group))
        yield Finding(
            "classes", f"{listed} differ only by case or spaces", "give a class one name in all labels", blocks=False
        )


def box_fault(box_xyxy: np.ndarray, size: tuple[int, int] | None, needs_area: bool = True) -> str:
    """Say why a box (4,) cannot be used in a picture of a size: without area, or far larger; empty where it can.

    Examples
    --------
    >>> box_fault(np.array([3.0, 4, 3, 9]), (4, 6)), box_fault(np.array([1.0, 0, 5, 4]), (4, 6))
    ('its box has no area (0 x 5 pixels)', '')
    >>> box_fault(np.array([0.0, 0, 1e9, 5]), (4, 6))
    'its box of 1e+09 x 5 pixels is more than 3 times as wide or high as the picture'
    """
    width, height = box_xyxy[2:] - box_xyxy[:2]
    if needs_area and not min(width, height) > 0:
        return f"its box has no area ({width:g} x {height:g} pixels)"
    if size is not None and not (width <= REACH * size[1] and height <= REACH * size[0]):
        what = f"its box of {width:.4g} x {height:.4g} pixels"
        return f"{what} is more than {REACH:g} times as wide or high as the picture"
    return ""


def named_inputs(settings: Any) -> list[str]:
    """The entries of `evaluate.inputs` if the labels of the task are those of `evaluate.labels`; else none.

    Examples
    --------
    >>> from tasks.keypoints.settings import KeypointsSettings
    >>> evaluate = {"inputs": "new", "labels": "new.json"}
    >>> named_inputs(KeypointsSettings(evaluate=evaluate, paths={"label_path": "new.json"}))
    ['new']
    >>> named_inputs(KeypointsSettings(evaluate=evaluate))
    []
    """
    inputs = settings.evaluate.inputs
    if inputs is None or settings.evaluate.labels != settings.paths.label_path:
        return []
    return [settings.paths.locate(entry) for entry in ([inputs] if isinstance(inputs, str) else inputs)]


def keep_inputs(
    sets: Mapping[str, AnnotationSet],
    inputs: Sequence[str],
    is_result: Callable[[Path], bool],
    lead: Callable[[Sequence[Path]], str],
) -> tuple[dict[str, AnnotationSet], list[str]]:
    """Keep the labelled pictures that are among the inputs.

    Parameters
    ----------
    sets : mapping of str to AnnotationSet
        All that the labels name.
    inputs : sequence of str
        Files, folders and globs.
    is_result : callable
        Tells files that inference wrote, which are an input only where they are named.
    lead : callable
        Says how labels get to inputs that only have the names of their pictures.

    Returns
    -------
    kept : dict of str to AnnotationSet
        Without the other pictures.
    unlabelled : list of str
        Inputs that the labels do not name.

    Raises
    ------
    DataError
        If the labels name none of the inputs.

    Examples
    --------
    >>> from tasks.keypoints.example import pose_task
    >>> sets = pose_task().labels.sets
    >>> path = sets["val"].pictures[1].path
    >>> kept, unlabelled = keep_inputs(sets, [str(path)], lambda path: False, str)
    >>> [len(part.pictures) for part in kept.values()], unlabelled
    ([0, 1], [])
    """
    found = {os.path.realpath(path): path for path in find_inputs(inputs, is_result=is_result)}
    kept = {
        split: replace(part, pictures=[picture for picture in part.pictures if os.path.realpath(picture.path) in found])
        for split, part in sets.items()
    }
    named = {os.path.realpath(picture.path) for part in sets.values() for picture in part.pictures}
    if not named & found.keys():
        some, names = ", ".join(sorted(named)[:2]), {Path(path).name for path in named}
        moved = [Path(path) for path in found.values() if Path(path).name in names]
        what = f"{len(moved)} inputs have the names of such pictures, but lie in another folder"
        copies = f"; {what}: {lead(moved)}" if moved else ""
        raise DataError(f"evaluate.inputs: the labels name none of {len(found)} inputs; they name {some}, ...{copies}")
    return kept, sorted(str(path) for resolved, path in found.items() if resolved not in named)
