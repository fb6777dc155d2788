"""LabelMe: which shapes make one animal, where the picture is, and what a file may not do."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.utils.formats.compare import find_differences
from utils.errors import DataError
from utils.formats.coco.write import write_coco
from utils.formats.labelme.read import read_labelme
from utils.formats.labelme.write import unsupported, write_labelme
from utils.formats.pictures import picture_bytes
from utils.formats.read import read_annotations, read_poses
from utils.formats.run_lengths import decode_runs
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Skeleton, keypoints_array, missing_keypoints

REAL = Path(__file__).resolve().parents[4].parent / "shared" / "data"

needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data sets in {REAL}")


def point(label: str, x: float = 1, y: float = 2, group: object = None, **keys) -> dict:
    return {"label": label, "points": [[x, y]], "group_id": group, "shape_type": "point", **keys}


def box(label: str, *corners: float, group: object = None) -> dict:
    return {"label": label, "points": [corners[:2], corners[2:]], "group_id": group, "shape_type": "rectangle"}


def polygon(label: str, group: object = None, points: object = ((0, 0), (8, 0), (8, 6))) -> dict:
    return {"label": label, "points": points, "group_id": group, "shape_type": "polygon"}


@pytest.fixture
def label(tmp_path, draw_picture):
    """Write a LabelMe file and its picture of 40 x 60, and read them."""

    def write(*shapes, spec: str | None = None, **keys):
        draw_picture(tmp_path / "set" / "a.png")
        content = {"version": "5.0.0", "shapes": list(shapes), "imagePath": "a.png", "imageData": None, **keys}
        (tmp_path / "set" / "a.json").write_text(json.dumps(content))
        if spec is None:
            return read_labelme(tmp_path / "set")["all"]
        (tmp_path / "data.yaml").write_text(f"format: labelme\npath: set\nall: .\n{spec}")
        return read_labelme(tmp_path / "data.yaml")["all"]

    return write


def test_a_hidden_point_may_be_told_as_text_or_number_and_other_text_is_a_problem(label):
    values = [False, 0, "0", True, "1", "false"]
    poses = label(*(point("nose", 5, 6, group, flags={"kp_visible": value}) for group, value in enumerate(values)))
    assert [mouse.keypoints[0, 2] for mouse in poses.pictures[0].instances] == [1, 1, 1, 2, 2]
    assert [problem.what for problem in poses.problems] == ["expected 0 or 1 as kp_visible, got 'false'"]


def test_a_group_is_one_animal(label):
    poses = label(
        point("nose", 5, 6, 3), polygon("mouse", 3), box("mouse", 9, 8, 1, 2, group=3), point("nose", 7, 8, 4),
        spec="keypoint_names: [tail, nose]\nnames: [mouse]",
    )  # fmt: skip
    first, second = poses.pictures[0].instances
    assert first.group == 3
    assert first.box_xyxy.tolist() == [1, 2, 9, 8]
    assert first.polygons[0].tolist() == [[0, 0], [8, 0], [8, 6]]
    assert first.keypoints[1].tolist() == [5, 6, 2]
    assert np.isnan(first.keypoints[0, 0])
    assert (second.category, second.box_xyxy, second.group) == ("mouse", None, 4)
    assert not poses.problems
    assert "incomplete" not in poses.pictures[0].extra


def test_loose_shapes_are_one_animal_where_that_is_possible(label):
    poses = label(point("nose"), point("tail", 3), box("mouse_rect", 0, 0, 5, 5), polygon("outline"))
    assert poses.num_instances == 1
    assert poses.pictures[0].instances[0].category == "mouse_rect"
    assert poses.pictures[0].instances[0].group is None
    assert list(poses.skeletons) == ["mouse_rect"]
    assert not poses.problems


@pytest.mark.parametrize(
    "shapes",
    [
        (point("nose"), point("tail"), point("nose", 9)),
        (point("nose"), box("mouse", 0, 0, 5, 5), box("mouse", 6, 6, 9, 9)),
        (point("nose"), box("mouse", 0, 0, 5, 5), box("rat", 6, 6, 9, 9)),
        (point("nose"), polygon("mouse"), polygon("mouse")),
    ],
)
def test_loose_points_of_several_animals_are_a_problem_and_not_merged(label, shapes):
    poses = label(*shapes, point("nose", 20, 20, group=7))
    assert [(i.keypoints[:, 2] > 0).sum() for i in poses.pictures[0].instances if i.group == 7] == [1]
    assert all((i.keypoints[:, 2] == 0).all() for i in poses.pictures[0].instances if i.group != 7)
    assert len(poses.problems) == 1
    assert "points of several objects without group_id" in poses.problems[0].what
    assert poses.problems[0].picture == poses.pictures[0].id
    assert poses.pictures[0].extra["incomplete"]


def test_loose_outlines_without_points_are_instances_of_their_own(label):
    poses = label(box("cat", 0, 0, 5, 5), box("cat", 6, 6, 9, 9), polygon("dog"), polygon("cow", 0), polygon("cow", 0))
    assert [i.category for i in poses.pictures[0].instances] == ["cat", "cat", "dog", "cow"]  # as they lie on another
    assert len(poses.pictures[0].instances[3].polygons) == 2
    assert poses.skeletons == {name: Skeleton(()) for name in ("cat", "dog", "cow")}


def test_of_a_doubled_keypoint_the_more_visible_one_is_taken(label):
    hidden = {"flags": {"kp_visibility": 1}}
    for shapes in (
        [point("nose", 5, 5, 1, **hidden), point("nose", 9, 9, 1)],
        [point("nose", 9, 9, 1), point("nose", 5, 5, 1, **hidden)],
    ):
        poses = label(*shapes)
        assert poses.pictures[0].instances[0].keypoints.tolist() == [[9, 9, 2]]
        assert [problem.what for problem in poses.problems] == [
            "'nose' is a duplicate in one group; the more visible one is taken"
        ]


@pytest.mark.parametrize(
    ("keys", "visibility"),
    [
        ({}, 2),
        ({"flags": {"kp_visibility": 0}}, 0),
        ({"flags": {"kp_visibility": "1"}}, 1),
        ({"flags": {"visibility": 1}}, 1),
        ({"flags": {"kp_visible": False}}, 1),
        ({"flags": {"kp_visible": True}, "description": "0"}, 2),
        ({"description": "1"}, 1),
        ({"description": "left of the cage"}, 2),
        ({"description": None, "flags": None}, 2),
        ({"flags": {"kp_visibility": 0, "kp_visible": True}}, 0),
    ],
)
def test_visibility_in_every_convention(label, keys, visibility):
    assert label(point("nose", group=1, **keys)).pictures[0].instances[0].keypoints[0, 2] == visibility


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (point("nose", float("nan")), "finite numbers"),
        (point("nose", float("inf")), "finite numbers"),
        (point("nose", "1_0"), "finite numbers"),
        (point("snout", group=1), "'snout' is no keypoint; known: nose"),
        (point("nsoe", group=1), "did you mean 'nose'"),
        (point("nose", group="first"), "whole number as group_id"),
        (point("nose", group=1.5), "whole number as group_id"),
        (point("nose", group=1, flags={"kp_visibility": 5}), "expected visibility 0, 1 or 2, got 5"),
        (point("nose", description="7"), "expected visibility 0, 1 or 2"),
        ({"label": "nose", "shape_type": "point"}, "expected points"),
        ({"label": "nose", "shape_type": "point", "points": [[1, 2, 3]]}, "expected points"),
        ({"label": "nose", "shape_type": "point", "points": []}, "expected points"),
        (polygon("mouse", points=[[1, 2], [3, 4]]), "a polygon needs 3 points"),
        ({"label": "mouse", "shape_type": "linestrip", "points": [[1, 2]]}, "a linestrip needs 2 points"),
        ({"label": "mouse", "shape_type": "points", "points": [[1, 2], [3, 4]]}, "'points' is neither point, outline"),
        ({"shape_type": ["point"], "points": [[1, 2]]}, "a label and points"),
        ("shape", "a label and points"),
    ],
)
def test_a_bad_shape_is_one_problem_and_costs_no_other_shape(label, shape, reason):
    poses = label(point("nose", group=9), shape, spec="keypoint_names: [nose]")
    assert [i.group for i in poses.pictures[0].instances] == [9]
    assert len(poses.problems) == 1
    assert reason in poses.problems[0].what
    assert poses.problems[0].where.endswith("a.json: shape 2")
    assert poses.pictures[0].extra["incomplete"]


def mask_shape(text: object, group: int = 2) -> dict:
    return {"label": "ball", "shape_type": "mask", "points": [[1, 2], [5, 9]], "mask": text, "group_id": group}


def test_circles_masks_and_marks_around_keypoints(label):
    circle = {"label": "ball", "shape_type": "circle", "points": [[10, 10], [13, 14]], "group_id": 1}
    mark = {"label": "nose", "shape_type": "circle", "points": [[1, 2], [1, 4]], "group_id": 2}
    poses = label(circle, mask_shape("iVBOR"), mark, point("nose", group=2))
    ball, masked = poses.pictures[0].instances
    radii = np.linalg.norm(ball.polygons[0] - 10, axis=1)
    np.testing.assert_allclose(radii, 5)
    assert masked.box_xyxy.tolist() == [1, 2, 6, 10]  # the last pixel is inside
    assert (masked.polygons, masked.mask) == ((), None)
    assert [problem.what for problem in poses.problems] == [
        "expected a mask as PNG in base64, got 'iVBOR'; only the box is read"
    ]


def test_a_mask_becomes_run_lengths_of_the_whole_picture(label):
    pixels = np.zeros((8, 5), np.uint8)
    pixels[0, :2] = pixels[3:, 4] = 255
    text = base64.b64encode(cv2.imencode(".png", pixels)[1]).decode()
    part = label(mask_shape(text), mask_shape(text, group=3))
    counts = part.pictures[0].instances[0].mask["counts"]
    covered = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(60, 40).T
    expected = np.zeros((40, 60), bool)
    expected[2:10, 1:6] = pixels > 0
    assert (covered == expected).all()
    assert not part.problems
    whole = base64.b64encode(cv2.imencode(".png", np.full((50, 70), 255, np.uint8))[1]).decode()
    larger = label(mask_shape(whole))
    assert larger.problems[0].what == "a mask of 50 x 70 pixels in a picture of 40 x 60; only the box is read"
    assert larger.pictures[0].extra["incomplete"]
    outside = label({**mask_shape(text), "points": [[-1, 2], [3, 9]]})
    assert outside.problems[0].what == "its mask reaches beyond the picture; it is cut at the edge"
    expected[:] = False
    expected[2:10, :4] = pixels[:, 1:] > 0
    assert (decode_runs(outside.pictures[0].instances[0].mask) == expected).all()


def test_flags_are_tags_of_pictures_and_instances(label, tmp_path):
    shapes = [
        {**polygon("car", 1), "flags": {"occluded": True, "truncated": False}},
        {**polygon("car", 1), "flags": {"occluded": False}},
        {**point("wheel", group=1), "flags": {"kp_visible": False}},
        box("dog", 0, 0, 5, 5),
    ]
    part = label(*shapes, flags={"rain": True, "night": False})
    picture = part.pictures[0]
    assert picture.tags == {"rain": True, "night": False}
    assert "flags" not in picture.extra
    assert [i.tags for i in picture.instances] == [{"occluded": True, "truncated": False}, {}]
    assert picture.instances[0].keypoints[0, 2] == 1
    write_labelme({"all": part}, tmp_path / "new")
    assert unsupported(part) == []
    read = read_labelme(tmp_path / "new")
    assert read["all"].pictures[0].tags == picture.tags
    assert find_differences({"all": part}, read) == []
    write_coco({"all": part}, tmp_path / "coco")
    read = read_poses(tmp_path / "coco")
    assert read["all"].pictures[0].tags == picture.tags
    assert find_differences({"all": part}, read, ignore=["group"]) == []


def test_boxes_and_outlines_without_any_point_are_read_as_they_are(label, tmp_path):
    label(box("car", 9, 8, 1, 2), polygon("dog"))
    part = read_annotations(tmp_path / "set")["all"]
    car, dog = part.pictures[0].instances
    assert (car.category, car.box_xyxy.tolist(), car.keypoints.shape) == ("car", [1, 2, 9, 8], (0, 3))
    assert (dog.category, dog.polygons[0].tolist()) == ("dog", [[0, 0], [8, 0], [8, 6]])


def test_run_lengths_survive_in_a_labelme_file(tmp_path, draw_picture):
    lengths = {"counts": [10, 20, 2370], "size": [40, 60]}
    car = Instance("car", box_xyxy=np.array([0.0, 0, 5, 5]), mask=lengths)
    picture = AnnotatedPicture("a", draw_picture(tmp_path / "a.png"), (40, 60), (car,))
    write_labelme({"all": AnnotationSet([picture], {"car": Skeleton(())})}, tmp_path / "new")
    assert read_labelme(tmp_path / "new")["all"].pictures[0].instances[0].mask == lengths


def test_an_outline_of_no_category_is_a_problem(label):
    poses = label(polygon("cage"), box("rat", 0, 0, 3, 3, group=1), spec="keypoint_names: [nose]\nnames: [mouse, rat]")
    assert [i.category for i in poses.pictures[0].instances] == ["rat"]
    assert [problem.what for problem in poses.problems] == ["'cage' is no category; known: mouse, rat"]


def test_points_alone_belong_to_the_category_that_has_them(label):
    spec = "names: [mouse, rat, frog]\nkpt_names: {mouse: [nose, tail], rat: [nose, ear], frog: [nose, eye]}"
    poses = label(point("ear", group=1), point("nose", group=1), point("nose", group=2), spec=spec)
    assert [i.category for i in poses.pictures[0].instances] == ["rat"]
    assert "an instance of points only is no category" in poses.problems[0].what


def test_keypoints_are_collected_in_their_order_or_given(label, tmp_path):
    poses = label(point("tail", group=1), point("nose", group=1))
    assert poses.skeletons == {"animal": Skeleton(("tail", "nose"))}
    given = read_labelme(tmp_path / "set", keypoint_names=["nose", "ear", "tail"])["all"]
    assert given.skeletons["animal"].names == ("nose", "ear", "tail")
    assert given.pictures[0].instances[0].keypoints[:, 2].tolist() == [2, 0, 2]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("kpt_shape: [4, 3]", "kpt_shape says 4 keypoints, the files have 2: tail, nose"),
        ("keypoint_names: [nose, nose]", "'nose' is a duplicate"),
        ("kpt_shape: [3, 3]\nkeypoint_names: [nose, tail]", "kpt_shape says 3 keypoints, keypoint_names has 2"),
        ("train: nowhere", "train: no such file or folder"),
    ],
)
def test_a_specification_that_cannot_be_used_is_refused(label, spec, reason):
    with pytest.raises(DataError, match=reason) as caught:
        label(point("tail"), point("nose"), spec=spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["../../etc/x.png", "/etc/x.png", "..\\..\\x.png", "C:\\Users\\bob\\x.png"])
def test_an_image_path_that_leaves_the_data_root_is_a_problem_of_that_file(label, tmp_path, draw_picture, text):
    label(point("nose"))
    folder = tmp_path / "set"
    draw_picture(tmp_path / "x.png")  # outside of the root
    (folder / "b.json").write_text(json.dumps({"shapes": [point("nose")], "imagePath": text}))
    part = read_labelme(folder)["all"]
    assert [picture.id for picture in part.pictures] == ["a"]
    assert re.search(r"b.json: imagePath: .*x.png' is outside of the data root .*set, and no", str(part.problems[0]))
    (folder / "a.json").unlink()
    with pytest.raises(DataError, match=r"none of the 1 files has a picture; first: .*is outside of the data root"):
        read_labelme(folder)


@pytest.mark.parametrize("name", ["i.jsonl", "i.txt"])
@pytest.mark.parametrize("absolute", [False, True])
def test_an_index_that_leaves_the_data_root_is_refused(label, tmp_path, draw_picture, name, absolute):
    label(point("nose"))
    outside = draw_picture(tmp_path / "outside.png")
    shutil.copy(tmp_path / "set" / "a.json", tmp_path / "outside.json")
    text = str(outside) if absolute else "../outside.png"
    line = text if name == "i.txt" else json.dumps({"json_path": "a.json", "image_path": text})
    (tmp_path / "set" / name).write_text(line)
    with pytest.raises(DataError, match=rf"first: .*{name}:1: image_path: .*outside.png' is outside of the data root"):
        read_poses(tmp_path / "set" / name, root=tmp_path / "set")
    assert read_poses(tmp_path / "set" / name, root=tmp_path)["all"].pictures[0].id == "outside"


def test_a_wider_root_allows_pictures_beside_the_folder_of_labels(tmp_path, draw_picture):
    draw_picture(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.json").write_text(json.dumps({"shapes": [], "imagePath": "..\\images\\a.png"}))
    with pytest.raises(DataError, match="outside of the data root"):
        read_poses(tmp_path / "labels")
    assert read_poses(tmp_path / "labels", root=tmp_path)["all"].pictures[0].id == "images/a"


@pytest.mark.parametrize(
    ("place", "keys", "found_by"),
    [
        ("labels/b.png", {"imagePath": "b.png"}, "imagePath"),
        ("images/b.png", {"imagePath": "../images/b.png"}, "imagePath"),
        ("labels/a.JPG", {"imagePath": "gone/b.png"}, "sidecar"),
        ("labels/b.png", {"imagePath": "gone/b.png"}, "sidecar"),
        ("labels/a.png", {"imagePath": "a.json"}, "sidecar"),
        ("labels/a.png", {}, "sidecar"),
        ("images/a.png", {"imagePath": "..\\imgs\\a.png"}, "images"),
    ],
)
def test_the_picture_is_found(tmp_path, draw_picture, place, keys, found_by):
    path = draw_picture(tmp_path / place)
    (tmp_path / "labels").mkdir(exist_ok=True)
    (tmp_path / "labels" / "a.json").write_text(json.dumps({"shapes": [], **keys}))
    picture = read_labelme(tmp_path)["all"].pictures[0]
    assert (picture.path, picture.extra["found_by"], picture.size) == (path, found_by, (40, 60))


def test_an_embedded_picture_is_read_and_written(tmp_path, draw_picture):
    data = draw_picture(tmp_path / "a.jpg").read_bytes()
    (tmp_path / "set").mkdir()
    content = {"shapes": [point("nose")], "imagePath": "gone.png", "imageData": base64.b64encode(data).decode()}
    (tmp_path / "set" / "a.json").write_text(json.dumps(content))
    poses = read_labelme(tmp_path / "set")
    picture = poses["all"].pictures[0]
    assert (picture.path.name, picture.size, picture.extra["image_data"]) == ("a.json", (40, 60), "embedded")
    assert picture_bytes(picture) == data
    write_labelme(poses, tmp_path / "new")
    assert (tmp_path / "new" / "all" / "a.jpg").read_bytes() == data
    assert find_differences(poses, read_poses(tmp_path / "new")) == []
    content["imageData"] = "no base64!"
    (tmp_path / "set" / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"none of the 1 files has a picture; first: .*imageData is damaged"):
        read_labelme(tmp_path / "set")


def test_missing_and_broken_pictures_and_files_are_problems(label, tmp_path):
    label(point("nose"))
    folder = tmp_path / "set"
    (folder / "b.json").write_text(json.dumps({"shapes": [], "imagePath": "b.png"}))
    (folder / "c.json").write_text(json.dumps({"shapes": [], "imagePath": "c.png"}))
    (folder / "c.png").write_bytes(b"")
    (folder / "d.json").write_text("{")
    (folder / "e.json").write_text('{"shapes": {}}')
    (folder / "f.json").write_bytes(b"\xff\xfe\x00")
    shutil.copy(folder / "a.json", folder / "g.json")
    poses = read_labelme(folder)["all"]
    assert [picture.id for picture in poses.pictures] == ["a"]
    found = {Path(problem.where).name: problem.what for problem in poses.problems}
    assert found.keys() == {f"{name}.json" for name in "bcdefg"}
    assert "no picture: looked for imagePath 'b.png'" in found["b.json"]
    assert "not a picture" in found["c.json"]
    assert "not JSON" in found["d.json"]
    assert "no list 'shapes'" in found["e.json"]
    assert "UTF-8" in found["f.json"]
    assert "is labelled by" in found["g.json"]


def test_a_folder_without_any_labelme_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no LabelMe file"):
        read_labelme(tmp_path)
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(DataError, match=r"none of the 1 files is a LabelMe file; first: .*a.json: not a LabelMe file"):
        read_labelme(tmp_path)


def test_another_size_than_the_file_says_is_reported(label):
    poses = label(point("nose"), imageHeight=60, imageWidth=40)
    assert poses.pictures[0].size == (40, 60)
    assert [problem.what for problem in poses.problems] == [
        "imageHeight x imageWidth is 60 x 40, the picture is 40 x 60"
    ]


def test_lists_indexes_and_folders_give_the_same(label, tmp_path):
    expected = label(point("nose", 4, 5))
    (tmp_path / "set" / "train.txt").write_text("a.json\n")
    (tmp_path / "val.list").write_text("set/a.png\n\nset/no.json\n")
    (tmp_path / "index.jsonl").write_text('{"image_path": "set/a.png", "json_path": "set/a.json"}\n{"image_path": 1}\n')
    sources = {"set/train.txt": "train", "val.list": "val", "index.jsonl": "all", "set/a.json": "all", "set": "all"}
    for source, split in sources.items():
        found = read_poses(tmp_path / source, "labelme", root=tmp_path)[split]
        assert [picture.id for picture in found.pictures] == ["set/a"]
        assert find_differences({"all": expected}, {"all": found}) == []
    problems = read_poses(tmp_path / "val.list", "labelme")["val"].problems
    assert [problem.where for problem in problems] == [f"{tmp_path}/val.list:3"]
    problems = read_poses(tmp_path / "index.jsonl")["all"].problems
    assert "expected {" in problems[0].what


@pytest.mark.parametrize("seed", range(10))
def test_there_and_back(seed, maker, tmp_path):
    poses = maker.make(seed, full=True)
    written = write_labelme(poses, tmp_path / "new")
    lost = {split: unsupported(part) for split, part in poses.items()}
    assert lost == {"train": [], "val": []}
    read = read_labelme(tmp_path / "new" / "data.yaml")
    assert not [str(problem) for part in read.values() for problem in part.problems]
    assert find_differences(poses, read) == []
    assert len(written) == 11
    write_labelme(read, tmp_path / "again")
    for path in written:
        assert (tmp_path / "again" / path.relative_to(tmp_path / "new")).read_text() == path.read_text()


def test_facts_about_an_outline_are_forgotten_when_it_is_edited(tmp_path, draw_picture):
    square = np.array([[0.0, 0], [8, 0], [8, 8], [0, 8]])
    mouse = Instance(
        "mouse", keypoints_array([[1, 2]], [2]), np.array([0.0, 0, 9, 9]), (square,), area=60.0, track_id=4
    )
    poses = AnnotationSet(
        [AnnotatedPicture("a", draw_picture(tmp_path / "a.png"), (40, 60), (mouse,))], {"mouse": Skeleton(("nose",))}
    )
    path = write_labelme({"all": poses}, tmp_path / "new")[1]
    content = json.loads(path.read_text())
    content["shapes"][0]["points"][2] = [8, 9]
    path.write_text(json.dumps(content))
    edited = read_labelme(tmp_path / "new")["all"].pictures[0].instances[0]
    assert (edited.box_xyxy, edited.area, edited.track_id) == (None, None, 4)


def test_an_instance_of_nothing_is_left_out_and_listed(tmp_path, draw_picture):
    nothing = Instance("mouse", missing_keypoints(1))
    poses = AnnotationSet(
        [AnnotatedPicture("a", draw_picture(tmp_path / "a.png"), (40, 60), (nothing,))], {"mouse": Skeleton(("nose",))}
    )
    assert unsupported(poses) == ["neither box, outline, line, mask nor keypoint (left out): 1 of 1 instances"]
    write_labelme({"all": poses}, tmp_path / "new")
    assert read_labelme(tmp_path / "new")["all"].num_instances == 0


def test_damaged_facts_are_a_problem(label):
    shape = {**box("mouse", 0, 0, 5, 5), "dinolith": {"keypoint_scores": "high"}}
    poses = label(shape)
    assert poses.num_instances == 1
    assert "'dinolith' cannot be used" in poses.problems[0].what
    assert "must be a mapping" in label({**shape, "dinolith": 3}).problems[0].what


def test_odd_values_anywhere_in_a_file_never_break_reading(maker, spoil, tmp_path):
    write_labelme({"all": maker.make(3, full=True)["train"]}, tmp_path / "new")
    source = max((tmp_path / "new" / "all").rglob("*.json"), key=lambda path: path.stat().st_size)
    picture = next(path for path in source.parent.iterdir() if path.stem == source.stem and path != source)
    (tmp_path / "odd").mkdir()
    shutil.copy(picture, tmp_path / "odd" / f"a{picture.suffix}")
    generator = np.random.default_rng(1)
    for _ in range(300):
        content = json.loads(source.read_text())
        spoil(content, generator)
        (tmp_path / "odd" / "a.json").write_text(json.dumps(content))
        try:
            sets = read_labelme(tmp_path / "odd")
        except DataError as error:
            lines = [str(error)]
        else:
            lines = [str(problem) for problem in sets["all"].problems]
        assert all(line and "\n" not in line for line in lines)


@needs_real_data
@pytest.mark.real_data
def test_all_examples_of_labelme_are_read():
    folder = REAL / "labelme_examples"
    poses = read_labelme(folder)["all"]
    assert len(poses.pictures) == 18
    assert {Path(problem.where.partition(": ")[0]).name for problem in poses.problems} == {"primitives.json"}
    by_id = {picture.id: picture for picture in poses.pictures}
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text())
        picture = by_id[str(path.relative_to(folder).with_suffix(""))]
        assert picture.size == (content["imageHeight"], content["imageWidth"])
        if path.name != "primitives.json":
            outlines = [len(i.polygons) + (i.box_xyxy is not None) for i in picture.instances]
            assert sum(outlines) == len(content["shapes"])
    (person,) = (i for i in by_id["instance_segmentation/data_annotated/2011_000003"].instances if len(i.polygons) == 2)
    assert (person.category, person.group) == ("person", 0)


@needs_real_data
@pytest.mark.real_data
def test_a_real_embedded_picture_is_read(tmp_path):
    source = REAL / "labelme_examples" / "tutorial"
    content = json.loads((source / "apc2016_obj3.json").read_text())
    (tmp_path / "alone.json").write_text(json.dumps(content))
    picture = read_labelme(tmp_path)["all"].pictures[0]
    assert (picture.size, picture.extra["found_by"]) == ((907, 1210), "embedded")


@needs_real_data
@pytest.mark.real_data
def test_real_pictures_beside_the_folder_of_labels_need_the_wider_root():
    folder = REAL / "kp_mousepose_formats"
    with pytest.raises(DataError, match=r"labels: none of the 6 files has a picture; first: .*paths\.data_root"):
        read_poses(folder / "labels")
    poses = read_poses(folder / "labels", root=folder)["all"]
    found = sorted(picture.extra["found_by"] for picture in poses.pictures)
    assert found == ["imagePath"] * 4 + ["images"] * 2
    assert all((i.keypoints[:, 2] == 2).all() for picture in poses.pictures for i in picture.instances)
