"""Annotations as labels of segmentation: the class of each name, the pictures that can be used, and their drawing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from typing_extensions import override

from config import expand_path
from tasks.labels import PictureLabels
from tasks.segmentation.items import SceneFiles
from tasks.segmentation.settings import SegmentationDataset, SegmentationSettings
from tasks.splits import refuse_unlistable
from utils.errors import DataError, SettingsError
from utils.formats.drawn_labels import DrawnLabels
from utils.formats.outline_rules import keep_areas
from utils.formats.read import read_annotations
from utils.formats.recognise import find_source
from utils.formats.taxonomy import EVERY_OTHER, family_of, read_taxonomy
from utils.formats.types import AnnotationSet, Instance
from utils.raster.class_table import class_index
from utils.raster.scene_paths import find_scenes

TAXONOMIES = Path(__file__).parent / "taxonomies"
OF_ANNOTATIONS = ("taxonomy", "overlap", "boxes", "convert_to")  # settings that only annotations have
OF_FILES = ("label_pattern", "label_layer", "label_attribute", "label_nodata")  # and those that only other labels have
RECOGNISED = frozenset(
    {"coco", "labelme", "yolo", "voc", "cvat", "fiftyone", "masks"}
)  # by content, where nothing else pairs
_NAMES_SHOWN = 40


def read_families(dataset: SegmentationDataset) -> dict[str, str]:
    """The family of each name by `dataset.taxonomy`; none without one.

    Examples
    --------
    >>> read_families(SegmentationDataset(taxonomy="agnostic")), read_families(SegmentationDataset())
    ({'*': 'coral'}, {})
    """
    value = dataset.taxonomy
    return {} if value is None else read_taxonomy(expand_path(value) if isinstance(value, str) else value, TAXONOMIES)


def classes_of_taxonomy(dataset: SegmentationDataset) -> list[str] | None:
    """Class names where only a taxonomy states them: the class of what is unlabelled, then the families in order.

    Examples
    --------
    >>> classes_of_taxonomy(SegmentationDataset(taxonomy="agnostic", unlabelled="background"))
    ['background', 'coral']
    >>> classes_of_taxonomy(SegmentationDataset(taxonomy={"Porites": "coral", "sand": "ignore"}))
    ['coral']
    """
    if dataset.taxonomy is None:
        return None
    names = dict.fromkeys([dataset.unlabelled, *read_families(dataset).values()])
    return [name for name in names if name != "ignore"]


def class_of_name(name: str, dataset: SegmentationDataset, families: Mapping[str, str], classes: Sequence[str]) -> int:
    """Index of the class that a name in the labels stands for; 255 for one that is ignored, -1 where there is none.

    `label_mapping` may name it or its family; else its family counts if it is a class, then a class of that very name,
    and last "*" of the mapping.

    Raises
    ------
    SettingsError
        If the mapping names no class.

    Examples
    --------
    >>> dataset, families = SegmentationDataset(label_mapping={"sand": "ignore", "*": 0}), {"Porites": "coral"}
    >>> [class_of_name(name, dataset, families, ["other", "coral"]) for name in ("Porites", "sand", "Fungia", "coral")]
    [1, 255, 0, 1]
    >>> class_of_name("Fungia", SegmentationDataset(), families, ["coral"])
    -1
    """
    mapping = {str(key).strip(): target for key, target in (dataset.label_mapping or {}).items()}
    family = family_of(name, families)
    targets: list[Any] = [mapping[key] for key in (name, family) if key in mapping]
    targets += [key for key in (family,) if key == "ignore" or key in classes]
    targets += [name] if name in classes else []
    targets += [mapping[EVERY_OTHER]] if EVERY_OTHER in mapping else []
    return class_index(targets[0], len(classes), classes) if targets else -1


class SegmentationLabels(PictureLabels):
    """Reads annotations once, with what is drawn of them.

    Parameters
    ----------
    settings : SegmentationSettings
        Paths and data set.
    classes : list of str
        Class names.

    Examples
    --------
    >>> from tasks.example import annotated_task
    >>> labels = annotated_task().source.scenes.annotations
    >>> sorted(labels.pictures), labels.classes, labels.class_of
    (['pictures/scene_0', 'pictures/scene_1'], ['dark', 'light'], {'light': 1})
    """

    settings: SegmentationSettings

    def __init__(self, settings: SegmentationSettings, classes: list[str]):
        super().__init__(settings)
        self.classes = classes
        self.whole: dict[str, AnnotationSet] = {}  # as they were read
        self.paths = sources_of(settings)
        self.path = self.paths[0]

    @override
    def read(self, source: str, root: str | None) -> dict[str, AnnotationSet]:
        dataset = self.settings.dataset
        _, found = find_source(Path(source), dataset.format)
        if found == "masks" and dataset.unlabelled != "ignore":
            raise SettingsError(
                f"dataset.unlabelled: {dataset.unlabelled}, but {source} holds masks, which have a value for each "
                "pixel: 255 is not labelled; drop it"
            )
        whole = self._keep_named(read_annotations(source, dataset.format, root), Path(source))
        known = {os.path.realpath(picture.path) for part in self.whole.values() for picture in part.pictures}
        for part in whole.values():  # an earlier source labels some of them
            again = {picture.id for picture in part.pictures if os.path.realpath(picture.path) in known}
            part.pictures = [picture for picture in part.pictures if picture.id not in again]
            part.problems = [problem for problem in part.problems if problem.picture not in again]
        merge_sets(self.whole, whole)
        return keep_areas(whole, found, dataset.boxes)

    @override
    def counts(self, instance: Instance) -> bool:
        return True

    @cached_property
    @override
    def sets(self) -> dict[str, AnnotationSet]:
        found: dict[str, AnnotationSet] = {}
        self.whole = {}
        for source in self.paths:
            merge_sets(found, self._read_from_roots(source))
        self._refuse_embedded(found)
        named = self.named_pictures
        if named is not None:
            real = {os.path.realpath(picture.path) for part in found.values() for picture in part.pictures}
            self.unlabelled = sorted(path for place, path in named.items() if place not in real)
        return {split: part for split, part in found.items() if part.pictures or part.problems}

    def _read_from_roots(self, source: Path) -> dict[str, AnnotationSet]:
        """Read one source, whose pictures lie where it says, else in a folder of `paths.raw_images_dir`.

        Examples
        --------
        >>> from tasks.example import annotated_task
        >>> labels = annotated_task().source.scenes.annotations
        >>> labels.whole.clear()
        >>> [len(part.pictures) for part in labels._read_from_roots(labels.path).values()]
        [2]
        """
        paths, failed = self.settings.paths, None
        pictures = paths.resolve("raw_images_dir")
        folders = [pictures] if isinstance(pictures, str) else pictures or []
        for root in (expand_path(paths.data_root) if paths.data_root else None, *filter(os.path.isdir, folders)):
            try:
                return self.read(str(source), root)
            except DataError as error:
                failed = failed or error
        assert failed is not None, "the first root is always tried"
        raise failed

    @cached_property
    def named_pictures(self) -> dict[str, str] | None:
        """The pictures of `paths.raw_images_dir` by their resolved paths; None where it is not set.

        Examples
        --------
        >>> from tasks.example import annotated_task
        >>> labels = annotated_task("paths.raw_images_dir=pictures").source.scenes.annotations
        >>> len(labels.named_pictures), annotated_task().source.scenes.annotations.named_pictures
        (2, None)
        """
        source = self.settings.paths.resolve("raw_images_dir")
        return None if source is None else {os.path.realpath(path): str(path) for path in find_scenes(source)}

    def _keep_named(self, sets: dict[str, AnnotationSet], path: Path) -> dict[str, AnnotationSet]:
        """Keep the pictures of a source that are in `paths.raw_images_dir`, if it is set.

        Raises
        ------
        DataError
            If none of them is labelled.

        Examples
        --------
        >>> from tasks.example import annotated_task
        >>> labels = annotated_task("paths.raw_images_dir=pictures/scene_1.png").source.scenes.annotations
        >>> sorted(labels.pictures), labels.unlabelled
        (['pictures/scene_1'], [])
        """
        named = self.named_pictures
        if named is None:
            return sets
        paths = [os.path.realpath(picture.path) for part in sets.values() for picture in part.pictures]
        if not named.keys() & set(paths):
            some = paths[0] if paths else "none"
            raise DataError(
                f"paths.raw_images_dir: the labels in {path} name none of {len(named)} pictures in it, but {some}; "
                "name the pictures that were labelled, or drop it: the labels name their pictures"
            )
        for part in sets.values():
            part.pictures = [picture for picture in part.pictures if os.path.realpath(picture.path) in named]
        return {split: part for split, part in sets.items() if part.pictures}

    def _refuse_embedded(self, sets: Mapping[str, AnnotationSet]) -> None:
        """Refuse pictures that are inside their label file.

        Raises
        ------
        DataError
            For the first of them.

        Examples
        --------
        >>> from tasks.example import annotated_task
        >>> labels = annotated_task().source.scenes.annotations
        >>> labels._refuse_embedded(labels.sets)
        """
        pictures = [picture for part in sets.values() for picture in part.pictures]
        inside = [picture.path for picture in pictures if picture.extra.get("image_data") == "embedded"]
        if inside:
            raise DataError(
                f"{inside[0]}: the picture is inside this file (as those of {len(inside)} files), where windows cannot "
                "be read; save pictures beside their labels (labelme_export_json), and set imagePath"
            )

    @cached_property
    def class_of(self) -> dict[str, int]:
        """Index of the class of each name that occurs, 255 for one that is ignored.

        Raises
        ------
        DataError
            With all names that are of no class.
        SettingsError
            If the mapping names no class.

        Examples
        --------
        >>> from tasks.example import annotated_task
        >>> annotated_task("dataset.label_mapping={light: dark}").source.scenes.annotations.class_of
        {'light': 0}
        >>> annotated_task("dataset.classes=[sun, moon]").source.scenes.annotations.class_of
        Traceback (most recent call last):
            ...
        utils.errors.DataError: ...labels.json: 1 names are no class: light (3 objects); known: sun, moon; give ...
        """
        dataset, families = self.settings.dataset, read_families(self.settings.dataset)
        counted = Counter(i.category for part in self.sets.values() for p in part.pictures for i in p.instances)
        found = {name: class_of_name(name, dataset, families, self.classes) for name in counted}
        unknown = [(name, count) for name, count in counted.most_common() if found[name] < 0]
        if unknown:
            shown = ", ".join(f"{name} ({count} objects)" for name, count in unknown[:_NAMES_SHOWN])
            more = f" and {len(unknown) - _NAMES_SHOWN} more" if len(unknown) > _NAMES_SHOWN else ""
            raise DataError(
                f"{self.path}: {len(unknown)} names are no class: {shown}{more}; known: {', '.join(self.classes)}; "
                "give each a class or 'ignore' in dataset.label_mapping ('*' stands for every other name), or a family "
                "in dataset.taxonomy"
            )
        return found

    def files(self) -> dict[str, SceneFiles]:
        """The labelled pictures that can be used, by id.

        Raises
        ------
        SettingsError
            If a setting is set that these labels have not.
        DataError
            If no picture can be used.

        Examples
        --------
        >>> from tasks.example import annotated_task
        >>> files = annotated_task().source.scenes.annotations.files()["pictures/scene_0"]
        >>> [path.name for path in files.sources], files.label.name, len(files.labels_digest)
        (['scene_0.png'], 'labels.json', 16)
        """
        refuse_other_settings(self.settings.dataset, OF_FILES, "labels that name their pictures")
        found = {
            id: SceneFiles((picture.path,), self.path, picture, split) for id, (split, picture) in self.pictures.items()
        }
        refuse_unlistable(found)
        return found

    @cached_property
    def drawn(self) -> DrawnLabels:
        """The labels of all pictures on their pixels.

        Examples
        --------
        >>> from tasks.example import annotated_task
        >>> annotated_task("dataset.overlap=area").source.scenes.annotations.drawn.overlap
        'area'
        """
        dataset = self.settings.dataset
        return DrawnLabels(
            self.path,
            [picture for _, picture in self.pictures.values()],
            self.class_of,
            len(self.classes),
            self.classes,
            unlabelled=dataset.unlabelled,
            line_width=dataset.line_width,
            overlap=dataset.overlap,
        )


def sources_of(settings: SegmentationSettings) -> list[Path]:
    """The paths of `paths.label_path`.

    Examples
    --------
    >>> sources_of(SegmentationSettings(paths={"label_path": ["a.json", "b.json"], "data_root": "/d"}))
    [PosixPath('/d/a.json'), PosixPath('/d/b.json')]
    """
    paths = settings.paths.resolve("label_path")
    return [Path(path) for path in ([paths] if isinstance(paths, str) else paths or [])]


def merge_sets(sets: dict[str, AnnotationSet], others: Mapping[str, AnnotationSet]) -> None:
    """Add the pictures, categories and problems of other sets to sets, split by split.

    Examples
    --------
    >>> from utils.formats.types import Skeleton
    >>> sets = {"train": AnnotationSet([], {"cat": Skeleton(())})}
    >>> merge_sets(sets, {"train": AnnotationSet([], {"dog": Skeleton(())}), "val": AnnotationSet([], {})})
    >>> {split: list(part.skeletons) for split, part in sets.items()}
    {'train': ['cat', 'dog'], 'val': []}
    """
    for split, part in others.items():
        own = sets.setdefault(split, AnnotationSet([], {}))
        own.pictures += part.pictures
        own.problems += part.problems
        own.skeletons |= {name: skeleton for name, skeleton in part.skeletons.items() if name not in own.skeletons}


def refuse_other_settings(dataset: SegmentationDataset, names: Sequence[str], labels: str) -> None:
    """Refuse settings that nothing reads for labels of a kind.

    Raises
    ------
    SettingsError
        If one of the names has another value than by default.

    Examples
    --------
    >>> refuse_other_settings(SegmentationDataset(), OF_FILES, "annotations")
    >>> refuse_other_settings(SegmentationDataset(label_layer="a"), OF_FILES, "labels that name their pictures")
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: dataset.label_layer: set, but not read from labels that name their pictures; drop it
    """
    standard = SegmentationDataset()
    found = [name for name in names if getattr(dataset, name) != getattr(standard, name)]
    if found:
        raise SettingsError(*(f"dataset.{name}: set, but not read from {labels}; drop it" for name in found))


def names_annotations(settings: SegmentationSettings) -> bool:
    """Whether labels are annotations whatever else may pair with pictures: `dataset.format`, or a file that holds them.

    Examples
    --------
    >>> from tasks.example import annotated_task, scene_task
    >>> names_annotations(annotated_task().settings), names_annotations(scene_task().settings)
    (True, False)
    """
    if settings.dataset.format != "auto":
        return True
    sources = sources_of(settings)
    return len(sources) > 1 or any(
        path.suffix.lower() in (".json", ".yaml", ".yml", ".xml") and path.is_file() for path in sources
    )


def find_annotations(settings: SegmentationSettings, classes: list[str]) -> SegmentationLabels | None:
    """The labels as annotations, if `dataset.format` says so or their content does; else None.

    Examples
    --------
    >>> from tasks.example import annotated_task, scene_task
    >>> found = [find_annotations(task.settings, ["a"]) for task in (annotated_task(), scene_task())]
    >>> [None if labels is None else labels.path.name for labels in found]
    ['labels.json', None]
    """
    sources = sources_of(settings)
    absent = [path for path in sources if not path.exists()]
    if absent or not sources:
        return None
    if settings.dataset.format == "auto":
        try:
            found = [find_source(path)[1] for path in sources]
        except DataError:
            if len(sources) > 1:
                raise
            return None
        if not set(found) <= RECOGNISED:
            return None
    return SegmentationLabels(settings, classes)
