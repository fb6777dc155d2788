"""YOLO without keypoints: class numbers with gaps, sets of which a part is there, and outlines as one ring each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import supervision as sv

from utils.errors import DataError
from utils.formats.convert import convert_labels, what_is_lost
from utils.formats.extents import extent_of
from utils.formats.mask_outlines import mask_of_instance
from utils.formats.read import read_annotations, read_boxes
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Skeleton, encode_mask
from utils.formats.yolo.read import read_yolo
from utils.formats.yolo.write import unsupported, write_yolo

REAL = Path(__file__).resolve().parents[4].parent / "shared" / "data"

needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data sets in {REAL}")


def square(x: float, y: float, side: float) -> np.ndarray:
    return np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]])


@pytest.fixture
def data(tmp_path, draw_picture):
    """Write a set of pictures with rows each (None: no label file) and its specification; gives the specification."""

    def write(keys: str, **rows: str | None) -> Path:
        for name, text in rows.items():
            draw_picture(tmp_path / "set" / "images" / f"{name}.png")
            if text is not None:
                (tmp_path / "set" / "labels").mkdir(exist_ok=True)
                (tmp_path / "set" / "labels" / f"{name}.txt").write_text(text)
        (tmp_path / "set" / "data.yaml").write_text(keys)
        return tmp_path / "set" / "data.yaml"

    return write


def test_class_numbers_may_begin_anywhere_and_leave_some_out(data):
    rows = "1 .5 .5 .5 .25\n90 .5 .5 .25 .25\n2 .5 .5 .5 .5\n0 .5 .5 .5 .5\n"
    part = read_annotations(data("train: images\nnames: {90: brush, 1: cow}", a=rows))["train"]
    assert list(part.skeletons) == ["cow", "brush"]
    assert [i.category for i in part.pictures[0].instances] == ["cow", "brush"]
    assert [problem.what for problem in part.problems] == [
        f"class {number} is unknown; there are classes 1 to 90, of which names has 2" for number in (2, 0)
    ]
    assert part.pictures[0].extra["incomplete"]


def test_outlines_with_gaps_in_their_classes(data):
    part = read_annotations(data("train: images\nnames: {3: cow, 7: pig}", a="7 0 0 .5 0 .5 .25\n"))["train"]
    [pig] = part.pictures[0].instances
    assert (pig.category, pig.polygons[0].tolist()) == ("pig", [[0, 0], [30, 0], [30, 10]])


def test_keypoints_are_named_by_class_numbers_with_gaps(data):
    keys = "train: images\nnames: {3: cow, 7: pig}\nkpt_shape: [1, 2]\nkpt_names: {3: [horn], 7: [snout]}"
    part = read_yolo(data(keys, a="7 .5 .5 .5 .25 .5 .5\n"))["train"]
    assert {name: skeleton.names for name, skeleton in part.skeletons.items()} == {"cow": ("horn",), "pig": ("snout",)}
    assert part.pictures[0].instances[0].category == "pig"


@pytest.mark.parametrize("key", ["val", "valid", "test"])
def test_a_val_that_is_not_there_is_told_and_train_is_read(data, key, caplog):
    part = read_annotations(data(f"train: images\n{key}: images/gone\nnames: [cow]", a="0 .5 .5 .5 .25\n"))
    assert list(part) == ["train"]
    [problem] = part["train"].problems
    assert problem.where.endswith(f"data.yaml: {key}")
    assert problem.what.startswith("no such file or folder: ")
    assert problem.what.endswith("images/gone; it is left out, and the other splits are read")
    assert not problem.blocks  # split lists may take its place
    assert "images/gone; it is left out" in caplog.text


def test_a_train_that_is_not_there_is_refused(data):
    with pytest.raises(DataError, match=r"data.yaml: train: no such file or folder: .*gone"):
        read_annotations(data("train: gone\nval: images\nnames: [cow]", a="0 .5 .5 .5 .25\n"))


def test_pictures_without_a_label_are_unlabelled_where_the_file_says_so(data):
    keys, rows = "train: images\nnames: [cow]\n", {"a": "0 .5 .5 .5 .25\n", "b": None, "c": ""}
    assert [len(p.instances) for p in read_annotations(data(keys, **rows))["train"].pictures] == [1, 0, 0]
    part = read_annotations(data(f"{keys}skip_if_label_file_missing: true", **rows))["train"]
    assert [(picture.path.name, len(picture.instances)) for picture in part.pictures] == [("a.png", 1), ("c.png", 0)]
    [note] = part.problems
    assert note.what == "pictures without a label file, left out as skip_if_label_file_missing says: 1, such as b.png"
    assert not note.blocks
    with pytest.raises(DataError, match="expected 0 or 1 as skip_if_label_file_missing, got 'often'"):
        read_annotations(data(f"{keys}skip_if_label_file_missing: often", **rows))


def test_labels_beside_the_specification_are_those_of_pictures_below_the_data_root(tmp_path, draw_picture):
    draw_picture(tmp_path / "images" / "a.png")
    for name, box in (("boxes", ".5"), ("others", ".25")):
        (tmp_path / name / "labels").mkdir(parents=True)
        (tmp_path / name / "labels" / "a.txt").write_text(f"0 .5 .5 {box} {box}\n")
        (tmp_path / name / "data.yaml").write_text("path: .\ntrain: images\nval: gone\nnames: [cow]\n")
    for name, width in (("boxes", 30), ("others", 15)):
        part = read_boxes(tmp_path / name / "data.yaml", root=tmp_path)["train"]
        x1, _, x2, _ = part.pictures[0].instances[0].box_xyxy
        assert x2 - x1 == width


@pytest.fixture
def written(tmp_path, draw_picture):
    """Write objects in a picture of 40 x 60 as YOLO, and read them."""

    def write(*objects: Instance) -> tuple[AnnotationSet, AnnotationSet]:
        picture = AnnotatedPicture("a", draw_picture(tmp_path / "a.png"), (40, 60), objects)
        part = AnnotationSet([picture], {name: Skeleton(()) for name in dict.fromkeys(i.category for i in objects)})
        convert_labels({"train": part}, tmp_path / "new", "yolo")
        return part, read_annotations(tmp_path / "new")["train"]

    return write


def test_outlines_are_written_as_they_are(written):
    part, read = written(Instance("cow", polygons=(square(2.5, 3, 9),)), Instance("pig", polygons=(square(20, 3, 7),)))
    assert unsupported(part) == []
    for ours, theirs in zip(part.pictures[0].instances, read.pictures[0].instances, strict=True):
        assert ours.category == theirs.category
        np.testing.assert_allclose(ours.polygons[0], theirs.polygons[0], rtol=1e-12)


def test_parts_holes_and_masks_are_one_ring_that_covers_the_same_pixels(written):
    mask = np.zeros((40, 60), bool)
    mask[20:35, 30:50] = True
    mask[22:30, 35:40] = False
    mask[25:27, 36:38] = True
    objects = (
        Instance("parts", polygons=(square(2, 3, 9), square(20, 3, 7), square(40, 2, 5))),
        Instance("over", polygons=(square(2, 3, 9), square(5, 6, 9))),
        Instance("ring", polygons=(square(2, 3, 20),), holes=(square(5, 6, 4), square(12, 12, 5))),
        Instance("mask", mask=encode_mask(mask)),
        Instance("box", box_xyxy=np.array([3.0, 4, 20, 30])),
        Instance("wide", polygons=(square(-10, -20, 50),)),
        Instance("line", lines=(np.array([[1.0, 1], [9, 9]]),)),
    )
    part, read = written(*objects)
    found = {i.category: i for i in read.pictures[0].instances}
    assert list(found) == ["parts", "over", "ring", "mask", "box", "wide"]
    assert all(len(i.polygons) == 1 for i in found.values())
    for instance in objects[:4]:
        expected = mask_of_instance(instance, (40, 60))
        assert np.array_equal(mask_of_instance(found[instance.category], (40, 60)), expected), instance.category
    assert mask_of_instance(found["box"], (40, 60)).sum() == 17 * 26
    np.testing.assert_allclose(extent_of(found["wide"]), [0, 0, 40, 30])
    assert what_is_lost({"train": part}, "yolo") == [
        "train: outlines beyond the picture (cut to it): 1",
        "train: neither box, outline nor mask (left out): 1 of 7 instances",
        "train: boxes (written as outlines of four corners): 1 of 7 instances",
        "train: holes (cut into the outline, and read as a part of it): 1 of 7 instances",
        "train: outlines of several parts (joined to one): 2 of 7 instances",
        "train: masks (written as outlines): 1 of 7 instances",
        "train: lines: 1 of 7 instances",
    ]


def test_a_higher_order_is_written_later(written):
    over = Instance("over", polygons=(square(2, 3, 9),), z_order=3)
    part, read = written(over, Instance("under", polygons=(square(2, 3, 9),)))
    assert [i.category for i in read.pictures[0].instances] == ["under", "over"]
    assert unsupported(part) == ["z_order (written as the order of the objects): 1 of 2 instances"]


def test_boxes_without_any_outline_stay_boxes(tmp_path, written):
    part, read = written(Instance("cow", box_xyxy=np.array([3.0, 4, 20, 30])))
    assert unsupported(part) == []
    assert (tmp_path / "new" / "labels" / "train" / "a.txt").read_text().count(" ") == 4
    np.testing.assert_allclose(read.pictures[0].instances[0].box_xyxy, [3, 4, 20, 30])


def test_outlines_open_in_supervision_with_their_masks(tmp_path, draw_picture):
    objects = (Instance("ring", polygons=(square(5, 5, 80), square(100, 20, 30)), holes=(square(20, 20, 30),)),)
    picture = AnnotatedPicture("a", draw_picture(tmp_path / "a.png", 100, 150), (100, 150), objects)
    write_yolo({"val": AnnotationSet([picture], {"ring": Skeleton(())})}, tmp_path / "new")
    parts = [str(tmp_path / "new" / name) for name in ("images/val", "labels/val", "data.yaml")]
    [(_, _, found)] = sv.DetectionDataset.from_yolo(*parts, force_masks=True)
    expected = mask_of_instance(objects[0], (100, 150))
    assert len(found) == 1
    assert found.mask[0].sum() == pytest.approx(expected.sum(), rel=0.06)  # it draws the edges too
    assert not found.mask[0][25:45, 25:45].any()


@needs_real_data
@pytest.mark.real_data
def test_real_sets_of_which_val_is_not_there_are_read_where_they_lie():
    folder = REAL / "photo_coco"
    boxes = read_boxes(folder / "object_detection" / "config.yaml", root=folder)["train"]
    assert (len(boxes.pictures), boxes.num_instances) == (128, 929)
    part = read_annotations(folder / "instance_segmentation" / "config.yaml", root=folder)["train"]
    assert len(part.pictures) == 100
    assert any("left out as skip_if_label_file_missing says: 28" in problem.what for problem in part.problems)
    assert (next(iter(part.skeletons)), len(part.skeletons)) == ("person", 80)
    assert all(i.polygons and i.box_xyxy is None for picture in part.pictures for i in picture.instances)
    assert not any(picture.extra.get("incomplete") for picture in part.pictures)
