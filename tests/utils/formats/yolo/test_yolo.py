"""YOLO pose: rows to instances and back, every way to write data.yaml, and bad rows."""

from __future__ import annotations

import multiprocessing
import re
from pathlib import Path

import numpy as np
import pytest

from tests.utils.formats.compare import find_differences
from utils.errors import DataError
from utils.formats import box_rules
from utils.formats.labelme.read import read_labelme
from utils.formats.read import read_annotations, read_boxes, read_poses
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Skeleton, keypoints_array, missing_keypoints
from utils.formats.yolo.read import label_path, read_yolo
from utils.formats.yolo.rows import RowReader
from utils.formats.yolo.write import unsupported, write_yolo

REAL = Path(__file__).resolve().parents[4].parent / "shared" / "data"
GOOD = "0 .5 .5 .5 .5 .25 .5 2 .5 .75 1\n"

needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data sets in {REAL}")


@pytest.fixture
def data(tmp_path, draw_picture):
    """A set of one picture, 40 x 60, and a function that writes its label and specification and reads it."""

    def read(rows: str | None = GOOD, keys: str = "kpt_shape: [2, 3]\nnames: [mouse]"):
        draw_picture(tmp_path / "images" / "a.png")
        if rows is not None:
            (tmp_path / "labels").mkdir(exist_ok=True)
            (tmp_path / "labels" / "a.txt").write_text(rows)
        (tmp_path / "data.yaml").write_text(f"train: images\n{keys}\n")
        return read_yolo(tmp_path / "data.yaml")["train"]

    return read


def test_a_row_becomes_pixels(data):
    mouse = data().pictures[0].instances[0]
    assert mouse.keypoints.tolist() == [[15, 20, 2], [30, 30, 1]]
    assert mouse.box_xyxy.tolist() == [15, 10, 45, 30]
    assert mouse.category == "mouse"


def test_two_values_per_keypoint(data):
    mouse = data("0 .5 .5 .5 .5 .25 .5 0 0\n", "kpt_shape: [2, 2]").pictures[0].instances[0]
    assert mouse.keypoints[:, 2].tolist() == [2, 0]
    assert np.isnan(mouse.keypoints[1, :2]).all()


def test_visibility_is_rounded_and_missing_points_have_no_place(data):
    mouse = data("0 .5 .5 .5 .5 .25 .5 1.6 .5 .75 0.2\n").pictures[0].instances[0]
    assert mouse.keypoints[:, 2].tolist() == [2, 0]
    assert np.isnan(mouse.keypoints[1, :2]).all()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("0 .5 .5 .5 .5 .25 .5 2", "expected 11 values"),
        ("0 .5 .5 .5 .5 .25 .5 2 .5 .75 1 .9", "expected 11 values .*got 12"),
        ("0 .5 .5 .5 .5 .25 nan 2 .5 .75 1", "NaN"),
        ("0 .5 .5 .5 .5 .25 inf 2 .5 .75 1", "infinity"),
        ("0 .5 .5 .5 .5 .25 x 2 .5 .75 1", "expected numbers"),
        ("0 .5 .5 .5 .5 .2_5 .5 2 .5 .75 1", "expected numbers"),
        ("0 .5 .5 .5 .5 .\uff12\uff15 .5 2 .5 .75 1", "expected numbers"),
        ("1 .5 .5 .5 .5 .25 .5 2 .5 .75 1", "class 1 is unknown; there are classes 0 to 0"),
        ("-1 .5 .5 .5 .5 .25 .5 2 .5 .75 1", "class -1 is unknown"),
        ("0.5 .5 .5 .5 .5 .25 .5 2 .5 .75 1", "class 0.5 is unknown"),
        ("0 .5 .5 .5 .5 .25 .5 3 .5 .75 1", "expected visibility 0, 1 or 2"),
        ("0 .5 .5 .5 .5 1.2 .5 2 .5 .75 1", "expected keypoints as shares of the picture, 0 to 1, got 1.2"),
        ("0 300 200 50 50 .2 .5 2 .5 .75 1", "expected the box as shares of the picture, 0 to 1, got 300"),
        ("0 .5 .5 0 .5 .2 .5 2 .5 .75 1", "a box with a width and a height"),
    ],
)
def test_a_bad_row_is_one_problem_and_costs_no_other_row(data, row, reason):
    poses = data(f"{GOOD}\n{row}\n{GOOD}")
    assert len(poses.pictures[0].instances) == 2
    assert len(poses.problems) == 1
    assert poses.problems[0].where.endswith("labels/a.txt:3")
    assert poses.problems[0].picture == poses.pictures[0].id == "images/a"
    assert poses.pictures[0].extra["incomplete"]
    assert re.search(reason, poses.problems[0].what)


def test_a_little_beyond_the_picture_is_rounding(data):
    poses = data("0 .5 .5 1.005 .5 1.004 .5 2 -.004 .75 1\n")
    assert not poses.problems
    assert poses.pictures[0].instances[0].keypoints[0, 0] == pytest.approx(1.004 * 60)


def test_an_empty_label_says_no_animal_and_a_missing_one_says_nothing(tmp_path, data, draw_picture):
    draw_picture(tmp_path / "images" / "b.png")
    poses = data("")
    empty, unlabelled = poses.pictures
    assert empty.instances == ()
    assert "incomplete" not in empty.extra
    assert unlabelled.extra["incomplete"]
    assert [problem.where for problem in poses.problems] == [str(tmp_path / "labels" / "b.txt")]
    (tmp_path / "labels" / "a.txt").unlink()
    with pytest.raises(DataError, match=r"train: none of the 2 pictures has a label, such as .*labels/a.txt"):
        read_yolo(tmp_path / "data.yaml")


@pytest.mark.parametrize("content", [b"", b"broken"])
def test_a_picture_of_zero_size_is_one_problem(tmp_path, data, content):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "b.png").write_bytes(content)
    poses = data()
    assert [picture.id for picture in poses.pictures] == ["images/a"]
    assert [problem.picture for problem in poses.problems] == ["images/b"]


@pytest.mark.parametrize(
    "keys",
    [
        "names: {0: mouse}\nkpt_names: {0: [nose, tail]}",
        "names: [mouse]\nkpt_names: [nose, tail]",
        "names: [mouse]\nkeypoint_names: [nose, tail]",
        "names: [mouse]\nkpt_labels: {0: nose, 1: tail}",
        "names: [mouse]\nkpt_labels: {mouse: {0: nose, 1: tail}}",
        "names: [mouse]\nkpt_labels: [nose, tail]\nkpt_names: {0: [nose, tail]}",
    ],
)
def test_keypoint_names_in_every_way(data, keys):
    assert data(keys=f"kpt_shape: [2, 3]\n{keys}").skeletons == {"mouse": Skeleton(("nose", "tail"))}


def test_flip_idx_is_taken_or_inferred(data):
    names = "names: [mouse]\nkpt_shape: [2, 3]\nkpt_names: [eyeL, eyeR]"
    assert data(keys=names).skeletons["mouse"].flip_idx == (1, 0)
    assert data(keys=f"{names}\nflip_idx: [0, 1]").skeletons["mouse"].flip_idx is None


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ("names: [mouse]", "no kpt_shape"),
        ("kpt_shape: [1000000000, 3]", "kpt_shape: expected"),
        ("kpt_shape: [2]", r"kpt_shape: expected \[number of keypoints up to 1000, 2 or 3\]"),
        ("kpt_shape: [2, 4]", "kpt_shape"),
        ("kpt_shape: two", "kpt_shape"),
        ("kpt_shape: [2, 3]\nkpt_names: [nose, nose]", "keypoint names must differ, but 'nose' is a duplicate"),
        ("kpt_shape: [2, 3]\nkpt_names: [nose, tail, ear]", "kpt_shape says 2 keypoints, kpt_names has 3"),
        (
            "kpt_shape: [2, 3]\nkpt_names: [a, b]\nkpt_labels: [a, c]",
            "kpt_names and kpt_labels|kpt_labels and kpt_names",
        ),
        ("kpt_shape: [2, 3]\nkpt_names: {0: [a, b], 1: [a, b]}", "2 categories, but names has 1"),
        ("kpt_shape: [2, 3]\nnames: {a: 1}", "names: expected a list of names or a mapping from numbers to names"),
        ("kpt_shape: [2, 3]\nnames: {1: a, '01': b}", "names: expected a list of names or a mapping from numbers"),
        ("kpt_shape: [2, 3]\nnames: [a, a]", "duplicate name"),
        ("kpt_shape: [2, 3]\nnames: [a]\nnc: 2", "nc is 2, but there are 1 names"),
        ("kpt_shape: [2, 3]\nflip_idx: [1, 2]", "flip_idx must name each of the 2 keypoints once"),
        ("kpt_shape: [2, 3]\nflip_idx: [0, 1, 2]", "flip_idx must name each"),
        ("kpt_shape: [2, 3]\nedges: [[0]]", "edges: expected pairs of keypoint indices"),
        ("kpt_shape: [2, 3]\nedges: [[0, 7]]", "edge \\[0, 7\\] names no keypoint"),
        ("kpt_shape: [2, 3]\nkpt_shape: [2, 3]", "duplicate key"),
        ("kpt_shape: [2, 3]\npath: nowhere", "is no folder"),
        ("kpt_shape: [2, 3]\ntrain: nowhere", "train: no such file or folder|duplicate key"),
        ("kpt_shape: [2, 3", "not valid YAML"),
    ],
)
def test_a_specification_that_cannot_be_used_is_refused_in_one_line(tmp_path, data, keys, reason):
    with pytest.raises(DataError, match=reason) as caught:
        data(keys=keys)
    assert str(tmp_path / "data.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_misspelled_key_is_reported(data):
    poses = data(keys="kpt_shape: [2, 3]\nflip_indx: [1, 0]\nyolo_version: 8")
    assert [problem.what for problem in poses.problems] == ["unknown key 'flip_indx'"]


def test_splits_as_folders_lists_of_folders_and_lists_of_pictures(tmp_path, draw_picture):
    for name in ("x/images/a.png", "x/images/deep/b.png", "y/images/c.PNG"):
        label = label_path(draw_picture(tmp_path / name))
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 .5 .5 .5 .5 .5 .5\n")
    (tmp_path / "lists").mkdir()
    lines = ["../x/images/a.png", "y\\images\\c.PNG", str(tmp_path / "x/images/deep/b.png"), "", "x/images/no.png"]
    (tmp_path / "lists" / "val.txt").write_text("\n".join(lines))
    (tmp_path / "data.yaml").write_text("train: [x/images, y/images]\nvalid: lists/val.txt\nkpt_shape: [1, 2]\n")
    sets = read_yolo(tmp_path / "data.yaml")
    assert [picture.id for picture in sets["train"].pictures] == ["x/images/a", "x/images/deep/b", "y/images/c"]
    assert [picture.id for picture in sets["val"].pictures] == ["x/images/a", "y/images/c", "x/images/deep/b"]
    missing = sets["val"].problems[0]
    assert (missing.where, missing.what) == (f"{tmp_path}/lists/val.txt:5", "no such picture: x/images/no.png")


def test_labels_replace_the_last_images_folder_and_else_the_first(tmp_path, draw_picture):
    picture = draw_picture(tmp_path / "images" / "set" / "images" / "a.png")
    first, last = tmp_path / "labels/set/images/a.txt", tmp_path / "images/set/labels/a.txt"
    first.parent.mkdir(parents=True)
    first.write_text("0 .5 .5 .5 .5 .25 .5\n")
    (tmp_path / "data.yaml").write_text("train: images\nkpt_shape: [1, 2]\n")
    assert label_path(picture) == last
    assert read_yolo(tmp_path / "data.yaml")["train"].pictures[0].instances[0].keypoints[0, 0] == 15
    last.parent.mkdir(parents=True)
    last.write_text("0 .5 .5 .5 .5 .75 .5\n")
    assert read_yolo(tmp_path / "data.yaml")["train"].pictures[0].instances[0].keypoints[0, 0] == 45


def test_a_given_root_replaces_the_files(tmp_path, data):
    data()
    (tmp_path / "other").mkdir()
    (tmp_path / "data.yaml").rename(tmp_path / "other" / "data.yaml")
    assert read_poses(tmp_path / "other" / "data.yaml", root=tmp_path)["train"].num_instances == 1


@pytest.mark.parametrize("seed", range(10))
def test_there_and_back(seed, maker, tmp_path):
    poses = maker.make(seed, full=False)
    assert all(unsupported(part) == [] for part in poses.values())
    write_yolo(poses, tmp_path / "new")
    assert find_differences(poses, read_yolo(tmp_path / "new" / "data.yaml")) == []


@pytest.mark.parametrize("seed", range(6))
def test_what_is_lost_is_listed(seed, maker, tmp_path):
    same = {"mouse": Skeleton(("a", "b", "c", "d")), "rat": Skeleton(("e", "f", "g", "h"))}
    poses = maker.make(seed, full=True, skeletons=same)
    write_yolo(poses, tmp_path / "new")
    read = read_yolo(tmp_path / "new" / "data.yaml")
    assert not [str(problem) for part in read.values() for problem in part.problems]
    words = {
        "box_xyxy": "no box", "polygons": "polygons", "is_crowd": "is_crowd", "area": "area", "group": "group",
        "score": "scores", "keypoint_scores": "scores", "track_id": "track_id", "extra": "extra facts", "tags": "tags",
    }  # fmt: skip
    for split, part in poses.items():
        listed = " ".join(unsupported(part))
        ignore = [field for field, word in words.items() if word in listed]
        assert find_differences({split: part}, {split: read[split]}, ignore) == []


def test_boxes_and_points_beyond_the_picture_are_cut_and_listed(tmp_path, draw_picture):
    path = draw_picture(tmp_path / "a.png")
    points = keypoints_array([[70, 5], [5, 5]], [1, 2])
    beyond = Instance("mouse", points, np.array([-10.0, 0, 80, 30]))
    flat = Instance("mouse", points, np.array([5.0, 5, 5, 9]))
    single = Instance("mouse", keypoints_array([[0, 0], [59.9, 39.9]], [0, 2]))
    nothing = Instance("mouse", missing_keypoints(2))
    poses = AnnotationSet(
        [AnnotatedPicture("a", path, (40, 60), (beyond, flat, single, nothing))], {"mouse": Skeleton(("a", "b"))}
    )
    assert unsupported(poses) == [
        "no box (the tight box of the keypoints is written): 1",
        "boxes beyond the picture or flat (cut to it): 2",
        "keypoints beyond the picture (written as missing): 2",
        "neither box, keypoint, outline, line nor mask (left out): 1 of 4 instances",
    ]
    write_yolo({"all": poses}, tmp_path / "new")
    read = read_yolo(tmp_path / "new" / "data.yaml")["all"]
    assert not read.problems
    assert read.pictures[0].instances[0].box_xyxy.tolist() == pytest.approx([0, 0, 60, 30])
    assert [mouse.keypoints[:, 2].tolist() for mouse in read.pictures[0].instances] == [[0, 2], [0, 2], [0, 2]]


def test_sides_that_differ_between_categories_are_listed():
    skeletons = {"a": Skeleton(("x", "y"), (1, 0)), "b": Skeleton(("x", "y"))}
    assert unsupported(AnnotationSet([], skeletons)) == [
        "flip_idx that differs between categories (inferred from the names when read)"
    ]


def test_categories_with_different_numbers_of_keypoints_are_refused(tmp_path):
    poses = AnnotationSet([], {"a": Skeleton(("x",)), "b": Skeleton(("x", "y"))})
    assert unsupported(poses) == ["2 different numbers of keypoints"]
    with pytest.raises(DataError, match="a has 1, b has 2"):
        write_yolo({"all": poses}, tmp_path)


@needs_real_data
@pytest.mark.real_data
def test_labelme_and_yolo_files_of_the_same_pictures_agree(tmp_path):
    folder = REAL / "kp_mousepose_formats"
    spec = tmp_path / "data.yaml"
    spec.write_text(f"path: {folder}\nall: images\nkpt_shape: [7, 3]\nnames: [mouse]\n")
    yolo = read_yolo(spec)["all"]
    labelme = read_labelme(folder)["all"]
    assert len(yolo.pictures) == 6
    assert not yolo.problems
    assert not labelme.problems
    by_id = {picture.id: picture for picture in labelme.pictures}
    for picture in yolo.pictures:
        (ours,), (theirs,) = picture.instances, by_id[picture.id].instances
        np.testing.assert_allclose(ours.keypoints, theirs.keypoints, rtol=1e-6)
        np.testing.assert_allclose(ours.box_xyxy, theirs.box_xyxy, rtol=1e-6)
        assert (ours.keypoints[:, 2] == 2).all()


@needs_real_data
@pytest.mark.real_data
def test_a_list_from_another_computer_is_refused(tmp_path):
    folder = REAL / "kp_mousepose_formats"
    spec = tmp_path / "data.yaml"
    spec.write_text(f"path: {folder}\ntrain: train-clip.txt\nkpt_shape: [7, 3]\n")
    with pytest.raises(
        DataError, match=r"no picture in train-clip.txt; first: .*train-clip.txt:1: no such picture: data"
    ):
        read_yolo(spec)


def test_a_set_without_keypoints_has_boxes_and_outlines(data, tmp_path):
    rows = "1 .5 .5 .5 .25\n0 0 0 .5 0 .5 .25\n"
    with pytest.raises(DataError, match="no kpt_shape, so the number of keypoints is unknown"):
        data(rows, "names: [car, dog]")
    for path in (tmp_path, tmp_path / "data.yaml"):
        part = read_annotations(path)["train"]
        dog, car = part.pictures[0].instances
        assert (dog.category, dog.box_xyxy.tolist(), dog.polygons) == ("dog", [15, 15, 45, 25], ())
        assert (car.category, car.box_xyxy) == ("car", None)
        assert car.polygons[0].tolist() == [[0, 0], [30, 0], [30, 10]]
        assert dog.keypoints.shape == car.keypoints.shape == (0, 3)
        assert part.skeletons == {"car": Skeleton(()), "dog": Skeleton(())}
        assert not part.problems


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("0 .5 .5 .5 .5 .25", r"expected 5 values \(class, box of 4, as most rows of this set\), got 6"),
        ("0 .5 .5 .5", r"expected 5 values .*got 4"),
        ("0 .5 .5 .5 .5 .25 1.2", "expected an outline as shares of the picture, 0 to 1, got 1.2"),
        ("2 .5 .5 .5 .5", "class 2 is unknown; there are classes 0 to 1"),
    ],
)
def test_a_bad_row_of_a_set_without_keypoints_is_one_problem(data, tmp_path, row, reason):
    with pytest.raises(DataError):
        data(f"0 .5 .5 .5 .5\n{row}\n", "names: [car, dog]")
    part = read_annotations(tmp_path)["train"]
    assert [i.category for i in part.pictures[0].instances] == ["car"]
    assert len(part.problems) == 1
    assert re.search(reason, part.problems[0].what)


def test_a_box_in_a_set_of_poses_is_written_with_missing_keypoints(tmp_path, draw_picture):
    mouse = Instance("mouse", box_xyxy=np.array([15.0, 10, 45, 30]))
    picture = AnnotatedPicture("a", draw_picture(tmp_path / "a.png"), (40, 60), (mouse,))
    write_yolo({"all": AnnotationSet([picture], {"mouse": Skeleton(("nose", "tail"))})}, tmp_path / "new")
    assert (tmp_path / "new/labels/all/a.txt").read_text() == "0 0.5 0.5 0.5 0.5 0 0 0 0 0 0\n"


def test_a_picture_without_a_label_holds_no_object_in_a_set_of_boxes(data, tmp_path, draw_picture):
    draw_picture(tmp_path / "images" / "b.png")
    with pytest.raises(DataError):
        data("0 .5 .5 .5 .25\n", "names: {0: car}")
    part = read_annotations(tmp_path)["train"]
    assert {picture.id: len(picture.instances) for picture in part.pictures} == {"images/a": 1, "images/b": 0}
    assert not any(picture.extra for picture in part.pictures)
    assert not part.problems
    (tmp_path / "labels" / "a.txt").unlink()  # all labels elsewhere are no set of empty pictures
    with pytest.raises(DataError, match="none of the 2 pictures has a label"):
        read_annotations(tmp_path)


BOXES = "0 .5 .5 .5 .25\n0 .25 .5 .25 .25\n1 .5 .25 .5 .25\n"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("0 .5 .5 .5", r"expected 5 values .* got 4"),
        ("0 .5 .5 .5 .25 .9", r"got 6, as a prediction with its confidence or an object with its track has"),
        ("0 .1 .1 .5 .1 .5 .5 .9", r"got 8, as a prediction with its confidence or an object with its track has"),
        ("0 .5 .5 .5 .25 .9 .1", r"expected 5 values \(class, box of 4, as most rows of this set\), got 7"),
        ("2 .5 .5 .5 .25", "class 2 is unknown; there are classes 0 to 1"),
        ("0 .5 nan .5 .25", "NaN"),
        ("0 .5 .5 0 .25", "a box with a width and a height, got 0 x 0.25"),
        ("0 .5 .5 .5 -.25", "a box with a width and a height"),
        ("0 30 20 10 5", "expected the box as shares of the picture, 0 to 1, got 30"),
        ("0,.5,.5,.5,.25", "expected 5 values"),
    ],
)
def test_a_bad_row_of_boxes_is_one_problem_with_file_and_line(data, tmp_path, row, reason):
    with pytest.raises(DataError):
        data(f"{BOXES}{row}\n", "names: [car, dog]")
    part = read_boxes(tmp_path)["train"]
    assert len(part.pictures[0].instances) == 3
    [problem] = part.problems
    assert problem.where == f"{tmp_path}/labels/a.txt:4"
    assert re.search(reason, problem.what)
    assert part.pictures[0].extra["incomplete"]


def test_a_box_beyond_the_picture_is_cut_at_its_edge_and_not_moved(data, tmp_path):
    with pytest.raises(DataError):
        data("0 .9 .5 .4 .5\n0 0 0 .5 .5\n", "names: [car]")
    boxes = [instance.box_xyxy.tolist() for instance in read_boxes(tmp_path)["train"].pictures[0].instances]
    np.testing.assert_allclose(boxes, [[42, 10, 60, 30], [0, 0, 15, 10]])


def test_a_doubled_row_is_read_once(data, tmp_path):
    with pytest.raises(DataError):
        data(f"{BOXES}0 .5 .5 .5 .25\n", "names: [car, dog]")
    part = read_boxes(tmp_path)["train"]
    assert len(part.pictures[0].instances) == 3
    assert "object 1 once more" in part.problems[0].what
    assert "incomplete" not in part.pictures[0].extra


@pytest.mark.parametrize("names", ["classes.txt", "labels/classes.txt", "obj.names", None])
@pytest.mark.parametrize("layout", ["images/{split}", "{split}/images", "{split}"])
def test_a_folder_without_a_specification(tmp_path, draw_picture, layout, names):
    for split, name in (("train", "a"), ("valid", "b")):
        picture = draw_picture(tmp_path / layout.format(split=split) / f"{name}.png")
        label_path(picture).parent.mkdir(parents=True, exist_ok=True)
        label_path(picture).write_text("1 .5 .5 .5 .25\n")
    if names:
        (tmp_path / names).parent.mkdir(exist_ok=True)
        (tmp_path / names).write_text("car\ndog\n")
    sets = read_annotations(tmp_path)
    known = ["car", "dog"] if names else ["0", "1"]
    assert {split: list(part.skeletons) for split, part in sets.items()} == {"train": known, "val": known}
    assert sets["val"].pictures[0].instances[0].category == known[1]
    with pytest.raises(DataError, match="no kpt_shape"):
        read_poses(tmp_path)


def test_a_specification_without_names_calls_classes_by_number(data, tmp_path):
    with pytest.raises(DataError):
        data("3 .5 .5 .5 .25\n", "format: yolo")
    assert list(read_annotations(tmp_path)["train"].skeletons) == ["0", "1", "2", "3"]


@needs_real_data
@pytest.mark.real_data
def test_real_photos_of_everyday_things(tmp_path):
    source = REAL / "photo_coco"
    for name, target in {"images": source / "images", "labels": source / "object_detection" / "labels"}.items():
        (tmp_path / name).symlink_to(target)
    spec = (source / "object_detection" / "config.yaml").read_text().replace("images/val2017", "images/train2017")
    (tmp_path / "data.yaml").write_text(spec)
    part = read_boxes(tmp_path)["train"]
    instances = [instance for picture in part.pictures for instance in picture.instances]
    counts = (len(part.pictures), sum(not picture.instances for picture in part.pictures), len(part.skeletons))
    assert counts == (128, 2, 80)
    assert (len(instances), sum(i.category == "person" for i in instances)) == (929, 254)
    [orphans] = [problem for problem in part.problems if "no picture" in problem.what]  # of 12 more boxes, 7 persons
    assert "2 label files have no picture, such as 000000000656.txt" in str(orphans)
    assert not any(picture.extra.get("incomplete") for picture in part.pictures)


ODD_ROWS = [
    *("0 .5 .5 .5 .25", "+1 5e-1 .5 5.E-1 0.25", "1.0 .5 .5 .5 .25", "0.5 .5 .5 .5 .25", "2 .5 .5 .5 .25"),
    *("-1 .5 .5 .5 .25", "0 .5 .5 0 .25", "0 .5 .5 -.5 .25", "0 nan .5 .5 .25", "0 inf .5 .5 .25", "0 1e999 .5 .5 .25"),
    *("0 1.011 .5 .5 .25", "0 1.009 .5 .5 .25", "0 -.011 .5 .5 .25", "0 .5 .5 .5", "0 .5 .5 .5 .25 .9"),
    *(
        "0 0 0 .5 0 .5 .25",
        "0 .5\t.5  .5 .25",
        "0 .5 .5 .5 .2_5",
        "0 .5 .5 .5 x",
        "0x0 .5 .5 .5 .25",
        "0 .5.5 .5 .5 .25",
    ),
    *("0 .5 .5 .5 .\uff12\uff15", "0 .5\u00a0.5 .5 .25"),
]


@pytest.mark.parametrize("shape", [(0, 2), (1, 2), (2, 3)])
def test_rows_read_at_once_are_those_read_one_by_one(shape):
    """To the last bit; what is not read at once is what is an outline or wrong."""
    generator = np.random.default_rng(3)
    rows = list(ODD_ROWS)
    if shape[0]:
        points = {2: ("0 0", "1.5 .5", ".5 -.005", ".5 -.02"), 3: ("0 0 0", "7 7 0", "7 7 1", ".5 .25 2.4", ".5 .5 3")}
        rows = [f"{row} {' '.join(generator.choice(points[shape[1]], shape[0]))}" for row in ODD_ROWS for _ in range(6)]
    for _ in range(200):
        values = generator.uniform(0, 1, 4 + shape[0] * shape[1])
        values[4 + 2 :: 3] = 2 if shape[1] == 3 else values[4 + 2 :: 3]
        rows.append(" ".join([str(generator.integers(2)), *map(repr, values.tolist())]))
    reader = RowReader({name: Skeleton(tuple("ab"[: shape[0]])) for name in ("cow", "dog")}, *shape)
    plain = 0
    for row, at_once in zip(rows, reader.read_plain(rows, (37, 53)), strict=True):
        try:
            alone = reader.read(row, (37, 53))
        except ValueError:
            assert at_once is None, row
            continue
        if at_once is not None:
            assert (at_once.category, at_once.polygons) == (alone.category, alone.polygons)
            assert at_once.box_xyxy.tobytes() == alone.box_xyxy.tobytes()
            np.testing.assert_array_equal(at_once.keypoints, alone.keypoints)
        else:
            assert alone.polygons or "\u00a0" in row, row
        plain += at_once is not None
    assert plain > 200
    assert reader.read_plain([], (37, 53)) == []


def test_only_rows_that_need_it_are_read_one_by_one(tmp_path, draw_picture, monkeypatch):
    """A file may have a million: the others are read, and their boxes looked at, together."""
    calls = {"read": 0, "cut": 0}

    def count(name, function):
        def call(*values):
            calls[name] += 1
            return function(*values)

        return call

    monkeypatch.setattr(RowReader, "read", count("read", RowReader.read))
    monkeypatch.setattr(box_rules, "cut_to_picture", count("cut", box_rules.cut_to_picture))
    rows = [f"0 .5 .5 {(index + 100) / 4000!r} .5" for index in range(3000)]
    rows[1234], rows[2345] = "0 .5 .5 nan .5", "0 .875 .5 .35 .25"
    draw_picture(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("\n".join(rows))
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cow]\n")
    part = read_boxes(tmp_path / "data.yaml")["train"]
    assert calls == {"read": 1, "cut": 1}
    assert part.num_instances == 2999
    bad, beyond = part.problems
    assert bad.where.endswith("a.txt:1235")
    assert beyond.where.endswith("a.png: object 2345")  # of those that are read
    assert part.pictures[0].instances[2344].box_xyxy.tolist() == pytest.approx([42, 15, 60, 25])


def test_a_long_row_of_pixels_with_a_value_too_many_is_told_at_once():
    """17 keypoints; a number that can be split in several ways takes a time that doubles with each of them."""
    reader = RowReader({"man": Skeleton(tuple(map(str, range(17))))}, 17, 3)
    row = "0 320 240 100 120 " + " ".join(["320 240 2"] * 17) + " 0.9"
    done = multiprocessing.get_context("fork").Process(target=reader.read_plain, args=([row], (480, 640)))
    done.start()
    done.join(5)
    ended = done.exitcode
    done.kill()
    assert ended == 0
    with pytest.raises(ValueError, match="got 57, as a prediction"):
        reader.read(row, (480, 640))


@pytest.mark.filterwarnings("error")
def test_a_number_that_no_float_holds_is_told_without_a_warning():
    reader = RowReader({"mouse": Skeleton(("nose",))}, 1, 3)
    rows = ["0 .5 .5 1e400 .5 .5 .5 2", "0 1e400 .5 .5 .5 .5 .5 2", "0 .5 .5 .5 .5 1e400 .5 2", "0 .5 .5 .5 .5 .5 .5 2"]
    assert [found is None for found in reader.read_plain(rows, (48, 64))] == [True, True, True, False]
    with pytest.raises(ValueError, match="expected finite numbers"):
        reader.read(rows[0], (48, 64))
