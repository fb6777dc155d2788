"""COCO keypoints: annotations to instances and back, where pictures lie, and dialects that are refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.utils.formats.compare import find_differences
from utils.errors import DataError
from utils.formats.coco.read import read_coco
from utils.formats.coco.write import unsupported, write_coco
from utils.formats.read import read_annotations, read_poses
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Skeleton, keypoints_array

REAL = Path(__file__).resolve().parents[4].parent / "shared" / "data"
GOOD = {"id": 1, "image_id": 1, "category_id": 1, "keypoints": [3, 4, 2, 0, 0, 0], "bbox": [1, 2, 5, 6]}

needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data sets in {REAL}")


@pytest.fixture
def coco(tmp_path, draw_picture):
    """Write a COCO file with one picture of 40 x 60, and read it."""

    def write(*annotations, category: dict | None = None, **keys):
        draw_picture(tmp_path / "a.png")
        content = {
            "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}],
            "annotations": list(annotations),
            "categories": [{"id": 1, "name": "mouse", "keypoints": ["nose", "tail"], **(category or {})}],
            **keys,
        }
        (tmp_path / "labels.json").write_text(json.dumps(content))
        return read_coco(tmp_path / "labels.json")["all"]

    return write


def test_an_annotation_becomes_an_instance(coco):
    polygons = [[0, 0, 4, 0, 4, 3], [5, 5, 6, 5, 6, 6, 5, 6]]
    keys = {"iscrowd": 1, "area": 7.5, "segmentation": polygons, "track_id": 3, "score": 0.5, "bbox_head": [1, 2, 3, 4]}
    poses = coco({**GOOD, "id": 9, **keys})
    mouse = poses.pictures[0].instances[0]
    assert mouse.keypoints[0].tolist() == [3, 4, 2]
    assert np.isnan(mouse.keypoints[1, :2]).all()
    assert mouse.box_xyxy.tolist() == [1, 2, 6, 8]
    assert [polygon.shape for polygon in mouse.polygons] == [(3, 2), (4, 2)]
    assert (mouse.is_crowd, mouse.area, mouse.group, mouse.track_id, mouse.score) == (True, 7.5, 9, 3, 0.5)
    assert mouse.extra == {"bbox_head": [1, 2, 3, 4]}
    assert not poses.problems


def test_an_annotation_without_keypoints_is_a_box(coco):
    for keypoints in ({}, {"keypoints": []}, {"keypoints": [0] * 6}):
        box = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 5, 6], **keypoints}
        mouse = coco(box).pictures[0].instances[0]
        assert mouse.box_xyxy.tolist() == [1, 2, 6, 8]
        assert (mouse.keypoints[:, 2] == 0).all()
        assert mouse.group is None


def test_run_lengths_are_kept(coco, tmp_path):
    lengths = {"counts": [10, 20, 2370], "size": [40, 60]}
    poses = coco({**GOOD, "segmentation": lengths, "iscrowd": 1})
    assert poses.pictures[0].instances[0].mask == lengths
    write_coco({"all": poses}, tmp_path / "new")
    assert unsupported(poses) == []
    assert find_differences({"all": poses}, read_poses(tmp_path / "new")) == []


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"keypoints": [3, 4, 2]}, r"expected 6 keypoint values \(2 keypoints of 3\), got 3"),
        ({"keypoints": [3, 4, 2] * 3}, "expected 6 keypoint values"),
        ({"keypoints": [3, float("nan"), 2, 0, 0, 0]}, "NaN"),
        ({"keypoints": [3, 4, float("nan"), 0, 0, 0]}, "expected visibility"),
        ({"keypoints": [3, 4, 5, 0, 0, 0]}, "expected visibility 0, 1 or 2, got 5"),
        ({"keypoints": "all"}, "expected keypoints as a list of numbers"),
        ({"bbox": [1, 2, 3]}, "expected bbox as 4 finite numbers"),
        ({"bbox": [1, 2, float("nan"), 4]}, "expected bbox as 4 finite numbers"),
        ({"iscrowd": "false"}, "expected 0 or 1 as iscrowd, got 'false'"),
        ({"iscrowd": 2}, "expected 0 or 1 as iscrowd, got 2"),
        ({"iscrowd": [0]}, r"expected 0 or 1 as iscrowd, got \[0\]"),
        ({"category_id": 7}, "category 7 is unknown; known: 1"),
        ({"image_id": 7}, "image 7 is unknown"),
        ({"image_id": [1]}, r"image \[1\] is unknown"),
    ],
)
def test_a_bad_annotation_is_one_problem_and_costs_no_other(coco, keys, reason):
    poses = coco(GOOD, {**GOOD, "id": 2, **keys}, {**GOOD, "id": 3})
    assert [mouse.group for mouse in poses.pictures[0].instances] == [1, 3]
    assert len(poses.problems) == 1
    assert poses.problems[0].where.endswith("labels.json: annotation 2")
    assert re.search(reason, poses.problems[0].what)
    assert ("incomplete" in poses.pictures[0].extra) == ("image_id" not in keys)


def test_a_crowd_is_what_says_so_in_any_writing(coco):
    values = [0, "0", False, None, 1, "1", True]
    poses = coco(*({**GOOD, "id": index, "iscrowd": value} for index, value in enumerate(values)))
    assert [mouse.is_crowd for mouse in poses.pictures[0].instances] == [False] * 4 + [True] * 3
    assert not poses.problems


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"bbox": [1, 2, 0, 6]}, "bbox has no width or no height"),
        ({"segmentation": [[1, 2, 3, 4]]}, "polygon 1 is no list of 3 or more finite points"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "polygon 1"),
        ({"segmentation": ["x"]}, "polygon 1"),
        ({"area": float("nan")}, "area is no finite number"),
        ({"keypoint_scores": [0.5]}, "keypoint_scores has 1 values for 2 keypoints"),
        ({"id": 1}, "the id is a duplicate"),
    ],
)
def test_a_bad_part_costs_only_itself(coco, keys, reason):
    poses = coco(GOOD, {**GOOD, "id": 2, **keys})
    assert poses.num_instances == 2
    assert len(poses.problems) == 1
    assert reason in poses.problems[0].what
    assert poses.problems[0].picture == "a"
    assert "incomplete" not in poses.pictures[0].extra


def test_edges_count_from_one_or_zero_or_are_left_out(coco):
    assert coco(GOOD, category={"skeleton": [[1, 2]]}).skeletons["mouse"].edges == ((0, 1),)
    from_zero = coco(GOOD, category={"skeleton": [[0, 1]]})
    assert from_zero.skeletons["mouse"].edges == ((0, 1),)
    assert "counts keypoints from 0" in from_zero.problems[0].what
    wrong = coco(GOOD, category={"skeleton": [[1, 3]]})
    assert wrong.skeletons["mouse"].edges == ()
    assert "names keypoints that are not there" in wrong.problems[0].what


def test_sides_are_stated_or_inferred(coco):
    names = {"keypoints": ["eyeL", "eyeR"]}
    assert coco(GOOD, category=names).skeletons["mouse"].flip_idx == (1, 0)
    assert coco(GOOD, category={**names, "flip_idx": [0, 1]}).skeletons["mouse"].flip_idx is None
    assert coco(GOOD, category={"flip_pairs": [[0, 1]]}).skeletons["mouse"].flip_idx == (1, 0)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"categories": [{"id": 1, "name": "car"}]}, r"no category has keypoints \(car\)"),
        ({"categories": []}, r"no category has keypoints \(there is none\)"),
        ({"categories": [{"id": 1, "name": "a", "keypoints": ["x", "x"]}]}, "'x' is a duplicate"),
        ({"categories": [{"id": 1, "name": "a", "keypoints": ["x"], "flip_idx": [1]}]}, "flip_idx must name each"),
        (
            {"categories": [{"id": 1, "name": "a", "keypoints": ["x"]}] * 2},
            "is a duplicate; give each category its own",
        ),
        ({"categories": [{"name": "a"}]}, "category 1: expected an id and a name"),
        ({"categories": {}}, "not a COCO file of labels: no list of categories"),
        ({"images": 3}, "not a COCO file of labels: no list of images"),
        ({"images": [{"id": 1, "file_name": "b.png"}]}, r"no such picture: b.png; .*none of the 1 pictures is there"),
        ({"images": [{"id": 1, "file_name": "../../etc/x.png"}]}, "is outside of the data root"),
        ({"images": [{"id": 1, "file_name": "/etc/x.png"}]}, "is outside of the data root"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(coco, tmp_path, keys, reason):
    with pytest.raises(DataError, match=reason) as caught:
        coco(GOOD, **keys)
    assert str(tmp_path / "labels.json") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["face_kpts", "lefthand_kpts", "foot_valid"])
def test_whole_body_files_are_refused_with_the_reason(coco, key):
    with pytest.raises(DataError, match=f"COCO-WholeBody .*{key}.* would be lost"):
        coco({**GOOD, key: [1, 2, 3]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints": [10**400, 4, 2, 0, 0, 0]}, "expected finite keypoints, got NaN or infinity"),
        ({"bbox": [1, 2, 10**400, 6]}, "expected bbox as 4 finite numbers"),
        ({"segmentation": [[0, 0, 4, 0, 4, 10**400]]}, "polygon 1 is no list of 3 or more finite points"),
        ({"area": -(10**400)}, "area is no finite number"),
        ({"keypoint_scores": [10**400, 0.5, 0.5]}, "keypoint_scores has 3 values for 2 keypoints"),
    ],
)
def test_whole_numbers_that_no_float_can_hold_are_problems(coco, change, message):
    [problem] = coco({**GOOD, **change}, {**GOOD, "id": 2}).problems
    assert message in problem.what
    assert len(problem.what) < 200


@pytest.mark.parametrize("pairs", [5, "ab", {"0": 1}, True])
def test_flip_pairs_that_are_no_pairs_are_refused(coco, pairs):
    with pytest.raises(DataError, match="flip_pairs: expected pairs of keypoint indices from 0, got"):
        coco(GOOD, category={"flip_pairs": pairs})


@pytest.mark.parametrize(("first", "key"), [('{"images": ', "images"), ('"iscrowd": ', "iscrowd")])
def test_a_key_that_occurs_twice_is_refused_by_name(coco, tmp_path, first, key):
    """The parser keeps the last of them: annotations would vanish."""
    coco({**GOOD, "iscrowd": 0})
    path = tmp_path / "labels.json"
    brace = "{" if first.startswith("{") else ""
    path.write_text(path.read_text().replace(first, f'{brace}"{key}": [], {first.removeprefix("{")}', 1))
    with pytest.raises(DataError, match=rf"labels\.json: the key '{key}' is a duplicate in one object"):
        read_poses(path)


@pytest.mark.parametrize("text", ["[]", "[1]", '[{"bbox": [1, 2, 3, 4], "score": 0.5, "image_id": 1}]'])
def test_lists_of_detections_are_refused_with_the_reason(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match="detections or results"):
        read_poses(tmp_path / "a.json")


def test_missing_broken_and_doubled_pictures_are_problems(coco, tmp_path, draw_picture):
    draw_picture(tmp_path / "c.png", 40, 61)
    (tmp_path / "d.png").write_bytes(b"")
    images = [
        {"id": 1, "file_name": "a.png"},
        {"id": 2, "file_name": "b.png"},
        {"id": 3, "file_name": "c.png", "height": 61, "width": 40},
        {"id": 4, "file_name": "d.png"},
        {"id": 5, "file_name": "./a.png"},
        {"id": 1, "file_name": "c.png"},
        {"id": 6},
    ]
    poses = coco(GOOD, {**GOOD, "id": 2, "image_id": 2}, images=images)
    assert [(picture.id, picture.size) for picture in poses.pictures] == [("a", (40, 60)), ("c", (40, 61))]
    found = {problem.where.rpartition(": ")[2]: problem.what for problem in poses.problems}
    assert found.keys() == {"image 1", "image 2", "image 3", "image 4", "image 5", "image 7"}
    assert "the id is a duplicate" in found["image 1"]
    assert found["image 2"] == "no such picture: b.png"
    assert found["image 3"] == "height x width is 61 x 40, the picture is 40 x 61"
    assert "not a picture" in found["image 4"]
    assert found["image 5"].startswith("its file_name './a.png' is the picture ")
    assert found["image 5"].endswith("only image 1 is used, image 5 and its 0 annotations are left out")


@pytest.mark.parametrize(
    ("file", "name", "picture", "split"),
    [
        ("annotations/train.json", "a.png", "images/a.png", "train"),
        ("annotations/instances_val2017.json", "a.png", "val2017/a.png", "val"),
        ("Annotations/instances_val2017.json", "a.png", "val2017/a.png", "val"),
        ("ANNOTATIONS/train.json", "images/a.png", "images/a.png", "train"),
        ("annotations/instances_val2017.json", "a.png", "images/val2017/a.png", "val"),
        ("annotations/person_valid.json", "a.png", "images/valid/a.png", "val"),
        ("valid/annotations.json", "JPEGImages/a.png", "valid/JPEGImages/a.png", "val"),
        ("valid/annotations.json", "a.png", "valid/JPEGImages/a.png", "val"),
        ("train/_annotations.coco.json", "a.png", "train/a.png", "train"),
        ("annotations_train.json", "train/JPEGImages/a.png", "train/JPEGImages/a.png", "train"),
        ("annotations/val/seq1_test.json", "images/val/x/a.png", "images/val/x/a.png", "val"),
        ("annotations/all.json", "../images/a.png", "images/a.png", "all"),
        ("annotations/all.json", "images\\a.png", "images/a.png", "all"),
    ],
)
def test_pictures_and_splits_are_found_in_every_layout(coco, tmp_path, draw_picture, file, name, picture, split):
    coco(GOOD)
    content = json.loads((tmp_path / "labels.json").read_text())
    content["images"][0]["file_name"] = name
    path = draw_picture(tmp_path / "set" / picture)
    (tmp_path / "set" / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "set" / file).write_text(json.dumps(content))
    sets = read_poses(tmp_path / "set")
    assert {split: [p.path for p in part.pictures] for split, part in sets.items()} == {split: [path]}
    assert sets[split].pictures[0].id == picture.removesuffix(".png")


def test_a_folder_with_other_files_reads_the_labels_and_reports_the_rest(coco, tmp_path):
    coco(GOOD)
    (tmp_path / "detections.json").write_text('[{"bbox": [1, 2, 3, 4]}]')
    content = json.loads((tmp_path / "labels.json").read_text())
    content["categories"][0].pop("keypoints")
    (tmp_path / "instances.json").write_text(json.dumps(content))
    poses = read_poses(tmp_path)["all"]
    assert poses.num_instances == 1
    assert [Path(problem.where).name for problem in poses.problems] == ["detections.json", "instances.json"]
    (tmp_path / "labels.json").unlink()
    with pytest.raises(
        DataError,
        match=r"no COCO labels that can be used; first: .*detections.json: a list of 1 detections",
    ):
        read_poses(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{}", '"labels"', "null", '{"images": [', '{"images": [], "annotations": []}', "[]"]
)
@pytest.mark.parametrize("place", [".", "annotations"])
def test_a_split_of_a_folder_never_vanishes(coco, tmp_path, text, place):
    coco(GOOD)
    (tmp_path / place).mkdir(exist_ok=True)
    shutil.move(tmp_path / "labels.json", tmp_path / place / "val.json")
    assert list(read_poses(tmp_path)) == ["val"]
    (tmp_path / place / "train.json").write_text(text)
    with pytest.raises(DataError, match=r"train\.json: "):
        read_poses(tmp_path)


@pytest.fixture
def spec(coco, tmp_path, draw_picture):
    """Write a specification of a COCO file whose picture lies in `photos`, and read it."""

    def write(text: str, **keys):
        coco(GOOD, **keys)
        (tmp_path / "photos").mkdir(exist_ok=True)
        shutil.move(tmp_path / "a.png", tmp_path / "photos" / "a.png")
        (tmp_path / "data.yaml").write_text(f"format: coco\n{text}\n")
        return read_poses(tmp_path / "data.yaml")

    return write


@pytest.mark.parametrize("key", ["image_root", "images"])
def test_a_specification_names_files_pictures_and_keypoints(spec, key):
    names = "keypoint_names: [eyeL, eyeR]\nkpt_shape: [2, 3]\nedges: [[0, 1]]"
    poses = spec(f"train: labels.json\nval: [labels.json]\n{key}: photos\n{names}\nval_split: 0.1")
    assert poses["train"].skeletons == {"mouse": Skeleton(("eyeL", "eyeR"), (1, 0), ((0, 1),))}
    assert [problem.what for problem in poses["val"].problems] == ["the picture is in train and in val"]


def test_a_specification_gives_keypoints_to_a_file_without(spec, tmp_path):
    spec("all: labels.json\nimage_root: photos")
    content = json.loads((tmp_path / "labels.json").read_text())
    del content["categories"][0]["keypoints"]
    (tmp_path / "labels.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"no category has keypoints \(mouse\); give keypoint_names"):
        read_coco(tmp_path / "data.yaml")
    with open(tmp_path / "data.yaml", "a") as stream:
        stream.write("keypoint_names: [a, b]\n")
    poses = read_coco(tmp_path / "data.yaml")["all"]
    assert poses.pictures[0].instances[0].keypoints[0].tolist() == [3, 4, 2]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("train: gone.json", "train: no such file or folder: .*gone.json"),
        ("train: labels.json\nimage_root: nowhere", "image_root: no such folder"),
        ("train: labels.json", "no such picture: a.png"),
        ("train: labels.json\nimage_root: photos\nkpt_shape: [3, 3]", "kpt_shape says 3 keypoints, 'mouse' has 2"),
        ("train: labels.json\nimage_root: photos\nkeypoint_names: [a]", "1 keypoints for 'mouse', the COCO file has 2"),
        ("train: labels.json\nimage_root: photos\nkeypoint_names: [a, a]", "'a' is a duplicate"),
        ("image_root: photos", "no split"),
    ],
)
def test_a_specification_that_cannot_be_used_is_refused(spec, text, reason):
    with pytest.raises(DataError, match=reason) as caught:
        spec(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["val_split: 0.3", "val_seed: 1", "auto_val_split: false"])
def test_a_key_that_would_draw_a_split_is_refused(spec, key):
    with pytest.raises(DataError, match=rf"{key.split()[0]} is not read; drop the key and set (train|resources)\."):
        spec(f"train: labels.json\nimage_root: photos\n{key}")


def test_a_misspelled_key_is_reported(spec):
    poses = spec("train: labels.json\nimage_root: photos\nkeypoint_name: [a, b]")
    assert [problem.what for problem in poses["train"].problems] == ["unknown key 'keypoint_name'"]


@pytest.mark.parametrize("layout", ["annotations", "folders"])
@pytest.mark.parametrize("seed", range(8))
def test_there_and_back(seed, layout, maker, tmp_path):
    poses = maker.make(seed, full=True)
    assert all(unsupported(part) == [] for part in poses.values())
    written = write_coco(poses, tmp_path / "new", layout)
    read = read_coco(tmp_path / "new" / "data.yaml")
    assert not [str(problem) for part in read.values() for problem in part.problems]
    assert find_differences(poses, read) == []
    for path in written[1:]:  # each file alone, without the specification
        split = "train" if "train" in str(path.relative_to(tmp_path)) else "val"
        assert find_differences({split: poses[split]}, read_coco(path)) == []
    ids = [a["id"] for path in written[1:2] for a in json.loads(path.read_text())["annotations"]]
    assert len(set(ids)) == len(ids)
    assert all(id > 0 for id in ids)


def test_facts_about_pictures_and_their_ids_are_kept(coco, tmp_path):
    images = [{"id": 77, "file_name": "a.png", "license": 4, "flickr_url": "x"}]
    poses = coco({**GOOD, "id": 12, "image_id": 77}, images=images)
    write_coco({"all": poses}, tmp_path / "new")
    read = read_poses(tmp_path / "new")["all"]
    assert read.pictures[0].extra == {"image_id": 77, "license": 4, "flickr_url": "x"}
    assert read.pictures[0].instances[0].group == 12


def test_other_tools_find_box_and_area_in_every_annotation(tmp_path, draw_picture):
    square = np.array([[2.0, 3], [8, 3], [8, 9], [2, 9]])
    skeletons = {"mouse": Skeleton(("nose", "tail"))}
    points = keypoints_array([[1, 2], [4, 6]], [2, 1])
    animals = (
        Instance("mouse", points, polygons=(square,)),
        Instance("mouse", points),
        Instance("mouse", points + [[1, 1, 0]] * 2, area=5.0),
    )
    poses = AnnotationSet([AnnotatedPicture("a", draw_picture(tmp_path / "a.png"), (40, 60), animals)], skeletons)
    path = write_coco({"all": poses}, tmp_path / "new")[1]
    annotations = json.loads(path.read_text())["annotations"]
    assert [a["bbox"] for a in annotations] == [[2, 3, 6, 6], [1, 2, 3, 4], [2, 3, 3, 4]]
    assert [a["area"] for a in annotations] == [36, 12, 5]
    assert [a["num_keypoints"] for a in annotations] == [2, 2, 2]
    assert find_differences({"all": poses}, read_poses(tmp_path / "new")) == []


def test_segmentation_mode_writes_outlines_only(tmp_path, draw_picture):
    mouse = Instance("mouse", keypoints_array([[1, 2]], [2]), np.array([0.0, 1, 4, 6]))
    poses = AnnotationSet(
        [AnnotatedPicture("a", draw_picture(tmp_path / "a.png"), (40, 60), (mouse,))], {"mouse": Skeleton(("nose",))}
    )
    path = write_coco({"all": poses}, tmp_path / "new", mode="segmentation")[1]
    content = json.loads(path.read_text())
    assert content["annotations"][0]["segmentation"] == [[0, 1, 4, 1, 4, 6, 0, 6]]
    assert "keypoints" not in content["annotations"][0]
    assert content["categories"] == [{"id": 1, "name": "mouse"}]
    assert unsupported(poses, "segmentation") == ["keypoints: 1 of 1 instances"]


def test_unknown_layouts_and_modes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown layout 'flat'; known: annotations, folders"):
        write_coco({"all": AnnotationSet([], {})}, tmp_path, layout="flat")
    with pytest.raises(ValueError, match="unknown mode"):
        write_coco({"all": AnnotationSet([], {})}, tmp_path, mode="boxes")


def test_odd_values_anywhere_in_a_file_never_break_reading(maker, spoil, tmp_path):
    path = write_coco({"all": maker.make(3, full=True)["train"]}, tmp_path / "new")[1]
    text = path.read_text()
    generator = np.random.default_rng(1)
    for _ in range(300):
        content = json.loads(text)
        spoil(content, generator)
        path.write_text(json.dumps(content))
        try:
            sets = read_coco(path)
        except DataError as error:
            lines = [str(error)]
        else:
            lines = [str(problem) for problem in sets["all"].problems]
        assert all(line and "\n" not in line for line in lines)


def test_a_detection_file_has_boxes_outlines_masks_and_attributes(coco, tmp_path):
    lengths = {"counts": [10, 20, 2370], "size": [40, 60]}
    boxes = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 5, 6], "attributes": {"occluded": True}},
        {"id": 2, "image_id": 1, "category_id": 1, "segmentation": lengths, "iscrowd": 1},
        {"id": 3, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 3]], "track_id": 7},
    ]
    categories = {"categories": [{"id": 1, "name": "car"}, {"id": 4, "name": "dog"}]}
    with pytest.raises(DataError, match=r"no category has keypoints \(car, dog\)"):
        coco(*boxes, **categories)
    part = read_annotations(tmp_path)["all"]
    assert part.skeletons == {"car": Skeleton(()), "dog": Skeleton(())}
    box, crowd, outline = part.pictures[0].instances
    assert (box.category, box.box_xyxy.tolist(), box.tags) == ("car", [1, 2, 6, 8], {"occluded": True})
    assert (crowd.mask, crowd.is_crowd, crowd.polygons) == (lengths, True, ())
    assert (outline.polygons[0].tolist(), outline.track_id) == ([[0, 0], [4, 0], [4, 3]], 7)
    assert all(i.keypoints.shape == (0, 3) and not i.extra for i in part.pictures[0].instances)
    written = write_coco({"all": part}, tmp_path / "new")
    assert "keypoints" not in json.loads(written[1].read_text())["annotations"][0]
    assert unsupported(part) == []
    assert find_differences({"all": part}, read_annotations(tmp_path / "new")) == []


def test_attributes_of_another_kind_stay_what_they_are(coco):
    [mouse] = coco({**GOOD, "attributes": ["occluded"]}).pictures[0].instances
    assert (mouse.tags, mouse.extra) == ({}, {"attributes": ["occluded"]})


def test_masks_beside_outlines_are_listed():
    square = np.array([[0.0, 0], [2, 0], [2, 2]])
    both = Instance("car", polygons=(square,), mask={"counts": [0, 4], "size": [2, 2]})
    part = AnnotationSet([AnnotatedPicture("a", Path("a.png"), (40, 60), (both,))], {"car": Skeleton(())})
    assert unsupported(part) == ["outlines with holes or beside a mask (written as masks): 1 of 1 instances"]


@needs_real_data
@pytest.mark.real_data
def test_real_dialects_are_read_as_they_mean_it():
    tiger = read_poses(REAL / "kp_samples" / "atrw" / "test_atrw.json")["test"]
    assert tiger.skeletons["tiger"].edges[0] == (0, 2)
    crowd = read_poses(REAL / "kp_samples" / "crowdpose" / "test_crowdpose.json")["test"]
    assert crowd.skeletons["person"].edges == ()
    assert len(crowd.problems) == 1
    tracked = read_poses(REAL / "kp_samples" / "posetrack18" / "annotations" / "test_posetrack18_val.json")["val"]
    assert {i.track_id for i in tracked.pictures[0].instances} == set(range(len(tracked.pictures[0].instances)))
    person = read_poses(REAL / "kp_samples" / "coco" / "test_coco.json")["test"]
    assert person.skeletons["person"].flip_idx == (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
    assert sum(len(i.polygons) > 1 for picture in person.pictures for i in picture.instances) > 0


def test_an_outline_of_which_a_part_is_broken_is_left_out_whole(coco, tmp_path):
    parts = [[0, 0, 9, 0, 9, 9], [20, 20, 30, 20, 30, float("nan")]]
    keys = {"image_id": 1, "category_id": 1, "segmentation": parts}
    sliver = {**keys, "id": 3, "segmentation": [parts[0], [1, 2, 3, 4]]}
    with pytest.raises(DataError, match="no category has keypoints"):
        coco(
            {**keys, "id": 1, "bbox": [0, 0, 30, 30]}, {**keys, "id": 2}, sliver, categories=[{"id": 1, "name": "cow"}]
        )
    part = read_annotations(tmp_path)["all"]
    boxed, whole = part.pictures[0].instances
    assert (boxed.polygons, boxed.box_xyxy.tolist()) == ((), [0, 0, 30, 30])
    assert len(whole.polygons) == 1  # two points have no area
    assert part.pictures[0].extra["incomplete"]
    [lost] = [problem for problem in part.problems if problem.lost]
    assert "annotation 2: polygon 2 is no list of 3 or more finite points, and no bbox tells where" in str(lost)
