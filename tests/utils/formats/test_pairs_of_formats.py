"""COCO, YOLO and LabelMe into each other: what is read again is what was read, after the losses that are listed."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from tests.utils.formats.compare import find_differences
from utils.formats.convert import convert_labels, what_is_lost
from utils.formats.extents import extent_of
from utils.formats.mask_outlines import mask_of_instance
from utils.formats.read import read_annotations, read_boxes
from utils.formats.sets import in_drawing_order
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Skeleton, encode_mask, polygon_area

REAL = Path(__file__).resolve().parents[3].parent / "shared" / "data"
FORMATS = ("coco", "labelme", "yolo")
SIZE = (80, 120)
CATEGORIES = ("cow", "road/lane", "fire hydrant")

needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data sets in {REAL}")

# Line of `what_is_lost` -> fields of `Instance` that may then differ.
FIELDS = {
    "outlines with holes": {"polygons", "holes", "mask"},
    "holes (cut into": {"polygons", "holes"},
    "outlines of several parts": {"polygons"},
    "masks (written as outlines)": {"polygons", "mask"},
    "lines": {"lines", "box_xyxy"},  # COCO writes the box around them
    "boxes": {"box_xyxy", "polygons"},
    "z_order": {"z_order"},
    "is_crowd": {"is_crowd"},
    "area": {"area"},
    "group": {"group"},
    "tags": {"tags"},
    "track_id": {"track_id"},
    "extra facts": {"extra"},
}


def ring(generator: np.random.Generator, x: float, y: float, radius: float, corners: int = 12) -> np.ndarray:
    """An outline around a place, with corners at places of a fraction of a pixel."""
    angles = np.sort(generator.uniform(0, 2 * np.pi, corners))
    radii = radius * generator.uniform(0.7, 1, corners)
    return np.array([x, y]) + radii[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])


def objects(generator: np.random.Generator) -> tuple[Instance, ...]:
    """An object of every kind, one over another."""
    mask = np.zeros(SIZE, bool)
    mask[10:40, 20:70] = generator.random((30, 50)) < 0.8
    whole = np.zeros(SIZE, bool)
    whole[50:60, 5:30] = True
    square = np.array([[70.0, 40], [110, 40], [110, 75], [70, 75]])
    found = (
        Instance("cow", polygons=(ring(generator, 30, 40, 20),), z_order=3, tags={"occluded": True}),
        Instance("cow", box_xyxy=np.array([3.0, 4, 45.5, 60]), area=70.0, group=7),
        Instance("cow", polygons=(ring(generator, 20, 20, 9), ring(generator, 50, 20, 9)), track_id=4),
        Instance("road/lane", polygons=(square,), holes=(ring(generator, 82, 55, 6), ring(generator, 100, 60, 6))),
        Instance("road/lane", mask=encode_mask(mask), box_xyxy=np.array([20.0, 10, 70, 40])),
        Instance("fire hydrant", mask=encode_mask(whole), is_crowd=True),
        Instance("fire hydrant", lines=(np.array([[5.0, 5], [60, 20.5]]), ring(generator, 60, 40, 20)), z_order=-1),
        Instance("cow", polygons=(ring(generator, 90, 20, 15),), box_xyxy=np.array([70.0, 2, 110, 39])),
    )
    return tuple(found[place] for place in generator.permutation(len(found)))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, AnnotationSet]:
    """Pictures with an object of every kind, in two splits."""
    folder, generator = tmp_path_factory.mktemp("made"), np.random.default_rng(5)
    sets = {}
    for split in ("train", "val"):
        pictures = []
        for number in range(3):
            path = folder / f"{split}{number}.png"
            cv2.imwrite(str(path), np.full((*SIZE, 3), 40 * number, np.uint8))
            pictures.append(AnnotatedPicture(path.stem, path, SIZE, objects(generator) if number else ()))
        sets[split] = AnnotationSet(pictures, {name: Skeleton(()) for name in CATEGORIES})
    return sets


def copy(sets: dict[str, AnnotationSet], folder: Path, format: str) -> dict[str, AnnotationSet]:
    """What is read of a copy; it has no problem."""
    convert_labels(sets, folder, format)
    read = read_annotations(folder)
    assert [str(problem) for part in read.values() for problem in part.problems] == []
    return read


def assert_same_areas(first: dict[str, AnnotationSet], second: dict[str, AnnotationSet], is_yolo: bool) -> None:
    """Every object covers the same pixels, within the same extent, in the same order from the lowest to the highest."""
    for split, part in first.items():
        for ours, theirs in zip(part.pictures, second[split].pictures, strict=True):
            kept = list(in_drawing_order(ours, holds_crowds=not is_yolo))
            if is_yolo:
                kept = [instance for instance in kept if not instance.lines]
            assert len(kept) == len(theirs.instances)
            for one, other in zip(kept, theirs.instances, strict=True):
                assert one.category == other.category
                if not (is_yolo and one.box_xyxy is not None):  # it has the outline's extent then
                    np.testing.assert_allclose(extent_of(one), extent_of(other), atol=1e-6)
                if one.polygons or one.mask:
                    assert np.array_equal(mask_of_instance(one, SIZE), mask_of_instance(other, SIZE))


@pytest.mark.parametrize(("first", "second"), list(itertools.product(FORMATS, FORMATS)))
def test_what_is_read_again_is_what_was_read(first, second, made, tmp_path):
    source = copy(made, tmp_path / "first", first)
    found = copy(source, tmp_path / "second", second)
    lost = what_is_lost(source, second)
    words = {word for word in FIELDS if any(line.partition(": ")[2].startswith(word) for line in lost)}
    ignored = set().union(*(FIELDS[word] for word in words))
    lines_lost = second == "yolo" and any(
        i.lines for part in source.values() for p in part.pictures for i in p.instances
    )
    if second != "yolo" and not any("z_order" in line for line in lost):
        assert find_differences(source, found, ignored) == []
    else:
        reordered = {split: in_order(part, lines_lost, second != "yolo") for split, part in source.items()}
        assert find_differences(reordered, found, ignored) == []


def in_order(part: AnnotationSet, without_lines: bool, holds_crowds: bool) -> AnnotationSet:
    pictures = []
    for picture in part.pictures:
        kept = in_drawing_order(picture, holds_crowds)
        kept = [instance for instance in kept if not (without_lines and instance.lines)]
        pictures.append(
            AnnotatedPicture(picture.id, picture.path, picture.size, tuple(kept), picture.extra, picture.tags)
        )
    return AnnotationSet(pictures, part.skeletons)


@pytest.mark.parametrize("format", FORMATS)
def test_a_copy_covers_the_same_pixels(format, made, tmp_path):
    assert_same_areas(made, copy(made, tmp_path / "new", format), is_yolo=format == "yolo")


@pytest.mark.parametrize(("first", "second"), list(itertools.product(FORMATS, FORMATS)))
def test_areas_survive_two_copies(first, second, made, tmp_path):
    source = copy(made, tmp_path / "first", first)
    assert_same_areas(source, copy(source, tmp_path / "second", second), is_yolo=second == "yolo")


def test_pycocotools_finds_the_areas_boxes_and_masks(made, tmp_path):
    convert_labels(made, tmp_path / "coco", "coco")
    for split, part in made.items():
        coco = COCO(str(tmp_path / "coco" / "annotations" / f"{split}.json"))
        for picture, image in zip(part.pictures, coco.loadImgs(coco.getImgIds()), strict=True):
            ordered = sorted(picture.instances, key=lambda instance: instance.z_order)
            for instance, annotation in zip(ordered, coco.loadAnns(coco.getAnnIds(image["id"])), strict=True):
                x, y, width, height = annotation["bbox"]
                np.testing.assert_allclose([x, y, x + width, y + height], extent_of(instance), atol=1e-9)
                if not instance.polygons and not instance.mask:
                    continue
                covered = mask_of_instance(instance, SIZE)
                found = coco.annToMask(annotation).astype(bool)
                if instance.mask or instance.holes:
                    assert np.array_equal(found, covered)
                    assert annotation["area"] == covered.sum()
                else:
                    assert (found ^ covered).sum() <= 0.15 * covered.sum()  # it draws edges by a rule of its own
                    assert annotation["area"] == pytest.approx(polygon_area(instance.polygons))


def test_a_mask_alone_has_a_box_and_an_area_in_coco(made, tmp_path):
    convert_labels(made, tmp_path / "coco", "coco")
    content = json.loads((tmp_path / "coco" / "annotations" / "val.json").read_text())
    crowds = [annotation for annotation in content["annotations"] if annotation["iscrowd"]]
    assert [(crowd["bbox"], crowd["area"]) for crowd in crowds] == [([5, 50, 25, 10], 250)] * 2


@needs_real_data
@pytest.mark.real_data
@pytest.mark.parametrize("format", FORMATS)
def test_real_outlines_survive_every_format(format, tmp_path):
    folder = REAL / "photo_coco"
    source = read_annotations(folder / "instance_segmentation" / "config.yaml", root=folder)
    source = {"train": AnnotationSet(source["train"].pictures[:25], source["train"].skeletons)}
    convert_labels(source, tmp_path / "new", format)
    assert what_is_lost(source, format) == []
    assert find_differences(source, read_annotations(tmp_path / "new"), ["group", "skeletons"]) == []


@needs_real_data
@pytest.mark.real_data
@pytest.mark.parametrize("format", FORMATS)
def test_real_boxes_survive_every_format(format, tmp_path):
    folder = REAL / "photo_coco"
    source = read_boxes(folder / "object_detection" / "config.yaml", root=folder)
    source = {"train": AnnotationSet(source["train"].pictures[:40], source["train"].skeletons)}
    convert_labels(source, tmp_path / "new", format)
    assert what_is_lost(source, format) == []
    assert find_differences(source, read_annotations(tmp_path / "new"), ["group", "skeletons"]) == []


@needs_real_data
@pytest.mark.real_data
@pytest.mark.parametrize("format", FORMATS)
def test_the_examples_of_labelme_survive_every_format(format, tmp_path):
    source = read_annotations(REAL / "labelme_examples")
    convert_labels(source, tmp_path / "new", format)
    found = read_annotations(tmp_path / "new")["all"]
    assert [str(problem) for problem in found.problems if problem.blocks] == []
    for ours, theirs in zip(source["all"].pictures, found.pictures, strict=True):
        shown = [i for i in ours.instances if i.polygons or i.mask or i.box_xyxy is not None]
        kept = [i for i in theirs.instances if i.polygons or i.mask or (i.box_xyxy is not None and not i.lines)]
        if format == "coco":  # of lines it has the boxes around them
            shown = [i for i in ours.instances if extent_of(i) is not None]
        assert len(shown) == len(kept)
        for one, other in zip(shown, kept, strict=True):
            assert one.category == other.category
            if one.polygons or one.mask:
                covered = mask_of_instance(one, ours.size)
                differing = covered ^ mask_of_instance(other, ours.size)
                share = 0.001 if format == "yolo" else 0  # it rounds: edges through the centres of pixels move
                assert differing.sum() <= share * covered.sum()
