"""FiftyOne: exports as FiftyOneDataset writes them to instances and back."""

from __future__ import annotations

import base64
import io
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.utils.formats.compare import find_differences
from tests.utils.formats.conftest import draw, spoil_value
from utils.errors import DataError
from utils.formats.convert import convert_labels, what_is_lost
from utils.formats.mask_outlines import draw_outlines
from utils.formats.read import read_annotations, read_boxes, read_poses
from utils.formats.run_lengths import decode_runs, read_counts
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Skeleton, encode_mask

SQUARE = [[0.1, 0.1], [0.5, 0.1], [0.5, 0.5], [0.1, 0.5]]


def packed(array: np.ndarray) -> dict[str, Any]:
    """An array as FiftyOne's `serialize_numpy_array` and MongoDB's JSON write it."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return {"$binary": {"base64": base64.b64encode(zlib.compress(stream.getvalue())).decode(), "subType": "00"}}


def label(kind: str, name: str, **keys) -> dict[str, Any]:
    """A label with what every one of an export has."""
    head = {"_id": {"$oid": "65f0c0ffee0123456789abcd"}, "_cls": kind, "attributes": {}, "tags": [], "label": name}
    return head | {"index": None, "confidence": None} | keys


def listed(kind: str, *labels: dict[str, Any]) -> dict[str, Any]:
    return {"_cls": kind, kind.lower(): list(labels)}


class Export:
    """Write an export of FiftyOne with one sample of 40 x 60 pixels or several, and read it."""

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, *samples: dict[str, Any], **metadata: Any) -> Path:
        found = []
        for number, keys in enumerate(samples):
            path = keys.get("filepath", f"data/{number}.png")
            if path.startswith("data/"):
                draw(self.folder / path)
            size = {"_cls": "ImageMetadata", "size_bytes": 99, "width": 60, "height": 40, "num_channels": 3}
            head = {"_id": {"$oid": "65f0c0ffee01"}, "filepath": path, "tags": [], "metadata": size, "_rand": 0.5}
            found.append(head | {"_media_type": "image"} | keys)
        (self.folder / "samples.json").write_text(json.dumps({"samples": found}))
        fields = [{"name": "filepath", "ftype": "fiftyone.core.fields.StringField"}]
        head = {"_id": {"$oid": "65f0"}, "version": "1.3.0", "media_type": "image", "sample_fields": fields}
        (self.folder / "metadata.json").write_text(json.dumps(head | metadata))
        return self.folder

    def read(self, *samples: dict[str, Any], split: str = "all", **metadata: Any) -> AnnotationSet:
        return read_annotations(self.write(*samples, **metadata))[split]


@pytest.fixture
def export(tmp_path) -> Export:
    return Export(tmp_path)


def test_filled_polylines_are_outlines_with_holes_and_others_are_lines(export):
    hole, apart = [[0.2, 0.2], [0.4, 0.2], [0.3, 0.4]], [[0.7, 0.7], [0.9, 0.7], [0.9, 0.9]]
    part = export.read(
        {
            "gt_polylines": listed(
                "Polylines",
                label("Polyline", "Pocillopora", points=[SQUARE, hole, apart], closed=True, filled=True),
                label("Polyline", "border", points=[SQUARE], closed=True, filled=False),
                label("Polyline", "rope", points=[hole], closed=False, filled=False, tags=["hard"], depth=3.5),
            )
        },
        default_classes=["rope", "Porites/massive", "Pocillopora"],
    )
    assert part.problems == []
    assert list(part.skeletons) == ["rope", "Porites/massive", "Pocillopora", "border"]
    coral, border, rope = part.pictures[0].instances
    assert coral.polygons[0].tolist() == [[6, 4], [30, 4], [30, 20], [6, 20]]
    assert len(coral.polygons) == 2
    np.testing.assert_allclose(coral.holes[0], [[12, 8], [24, 8], [18, 16]])
    assert border.lines[0].tolist()[-1] == border.lines[0].tolist()[0]
    assert len(rope.lines[0]) == 3
    assert rope.tags == {"hard": True, "depth": 3.5}
    assert rope.polygons == ()


def test_a_ring_inside_a_hole_is_filled_as_fiftyone_fills_it(export):
    rings = [[[0, 0], [1, 0], [1, 1], [0, 1]], SQUARE, [[0.2, 0.2], [0.3, 0.2], [0.3, 0.3], [0.2, 0.3]]]
    part = export.read({"truth": listed("Polylines", label("Polyline", "a", points=rings, closed=True, filled=True))})
    [coral] = part.pictures[0].instances
    drawn = [draw_outlines([np.array(ring) * [60, 40]], (), (40, 60)) for ring in rings]
    assert (decode_runs(coral.mask) == (drawn[0] & (~drawn[1] | drawn[2]))).all()


@pytest.mark.parametrize("shape", [(20, 15), (10, 5), (40, 60)])
def test_masks_of_detections_are_stretched_over_their_box(shape, export):
    mask = np.zeros(shape, bool)
    mask[: shape[0] // 2, : shape[1] // 5] = True  # the upper half of the left fifth of a box of 20 x 15
    keys = {"bounding_box": [0.5, 0.25, 0.25, 0.5], "mask": packed(mask), "iscrowd": 1, "area": 7.5}
    part = export.read({"truth": listed("Detections", label("Detection", "cow", **keys))})
    [cow] = part.pictures[0].instances
    expected = np.zeros((40, 60), bool)
    expected[10:20, 30:33] = True
    assert cow.mask == encode_mask(expected)
    assert cow.box_xyxy.tolist() == [30, 10, 45, 30]
    assert (cow.is_crowd, cow.area) == (True, 7.5)


def test_a_mask_path_names_a_picture_below_the_folder(export, tmp_path):
    keys = {"bounding_box": [0.5, 0.5, 0.5, 0.5]}
    for name, value in (("in.png", 255), ("three.png", 1)):
        (tmp_path / "fields" / "truth").mkdir(parents=True, exist_ok=True)
        mask = np.full((20, 30), value, np.uint8)
        cv2.imwrite(str(tmp_path / "fields" / "truth" / name), mask if "in" in name else np.dstack([mask] * 3))
    paths = ["fields/truth/in.png", "fields/truth/three.png", "../../secret.png", "fields/truth/gone.png"]
    labels = [label("Detection", "cow", mask_path=path, **keys) for path in paths]
    part = export.read({"truth": listed("Detections", *labels)})
    assert [sum(read_counts(cow.mask)[1::2]) for cow in part.pictures[0].instances] == [600, 600]
    assert [str(problem).partition("label ")[2][:60] for problem in part.problems] == [
        "3: " + f"{tmp_path}/samples.json: mask_path: '../../secret.png' is"[:57],
        "4: no such mask: fields/truth/gone.png; mend or remove the l",
    ]


def test_keypoints_have_the_skeleton_of_their_field_and_nan_is_missing(export):
    nan = {"$numberDouble": "NaN"}
    points = [[0.5, 0.5], [nan, nan], [0.1, 0.2]]
    fox = label("Keypoint", "fox", points=points, occluded=[False, False, True])
    skeleton = {"poses": {"labels": ["nose", "eyeL", "eyeR"], "edges": [[0, 1], [0, 2]]}}
    folder = export.write({"poses": listed("Keypoints", fox | {"confidence": []})}, skeletons=skeleton)
    part = read_poses(folder)["all"]
    assert part.skeletons == {"fox": Skeleton(("nose", "eyeL", "eyeR"), (0, 2, 1), ((0, 1), (0, 2)))}
    [found] = part.pictures[0].instances
    assert found.keypoints[[0, 2]].tolist() == [[30, 20, 2], [6, 8, 1]]
    assert found.keypoints[1, 2] == 0
    assert part.problems == []


def test_masks_of_classes_are_one_object_each_and_none_for_detection(export):
    mask = np.zeros((40, 60), np.uint8)
    mask[:10], mask[20:, 5:9], mask[39, 59] = 3, 1, 9
    truth = {"_cls": "Segmentation", "tags": [], "mask": packed(mask)}
    part = export.read({"truth": truth}, default_mask_targets={"1": "cow", "3": "sky", "#ff00ff": "x"})
    assert {i.category: sum(read_counts(i.mask)[1::2]) for i in part.pictures[0].instances} == {"cow": 80, "sky": 600}
    assert list(part.skeletons) == ["cow", "sky", "x"][:2]
    [problem] = part.problems
    assert problem.what == "values of the mask without a name: 9"
    assert part.pictures[0].extra["incomplete"]
    with pytest.raises(DataError, match="masks of classes tell no objects apart"):
        read_boxes(export.folder)
    small = {"_cls": "Segmentation", "mask": packed(mask[:20])}
    assert "a mask of 20 x 60 pixels, but its picture has 40 x 60" in export.read({"truth": small}).problems[0].what


def test_tags_are_splits_and_tags_and_order_stays(export):
    box = listed("Detections", label("Detection", "cow", bounding_box=[0.1, 0.1, 0.5, 0.5]))
    sky = {"_cls": "Classification", "label": "cloudy", "confidence": None}
    guess = {"_cls": "Classification", "label": "rain", "confidence": 0.5}
    folder = export.write(
        {"truth": box, "tags": ["val", "checked"], "sky": sky, "guess": guess},
        {"truth": box, "tags": ["train"]},
        {"truth": box},
        {"truth": box, "tags": ["train", "test"]},
        {"truth": box, "tags": ["TRAIN"]},
    )
    sets = read_annotations(folder)
    assert {split: [p.id for p in part.pictures] for split, part in sets.items()} == {
        "train": ["data/1", "data/4"],
        "val": ["data/0"],
        "all": ["data/2"],
    }
    assert sets["val"].pictures[0].tags == {"checked": True, "sky": "cloudy"}
    assert "sample 4: its tags name several splits: train, test" in str(sets["train"].problems[0])


def test_of_several_fields_the_one_without_confidences_is_read_and_else_one_must_be_named(export, tmp_path):
    box = label("Detection", "cow", bounding_box=[0.1, 0.1, 0.5, 0.5])
    outline = label("Polyline", "cow", points=[SQUARE], closed=True, filled=True)
    model = listed("Detections", box | {"confidence": 0.9})
    part = export.read({"truth": listed("Detections", box), "model": model})
    assert part.num_instances == 1
    assert [problem.what for problem in part.problems] == [
        "the field truth is read, and passed over: model (Detections, predictions)"
    ]
    export.write({"truth": listed("Detections", box), "more": listed("Polylines", outline)})
    with pytest.raises(
        DataError, match=r"several fields of labels: truth \(Detections\), more \(Polylines\); name one"
    ):
        read_annotations(tmp_path)
    (tmp_path / "data.yaml").write_text("{format: fiftyone, path: ., all: samples.json, label_field: more}")
    assert len(read_annotations(tmp_path)["all"].pictures[0].instances[0].polygons) == 1
    (tmp_path / "data.yaml").write_text("{format: fiftyone, path: ., all: samples.json, label_field: mor}")
    with pytest.raises(DataError, match="label_field: no field 'mor' with labels"):
        read_annotations(tmp_path)


def test_predictions_are_no_labels(export):
    box = label("Detection", "cow", bounding_box=[0.1, 0.1, 0.5, 0.5])
    with pytest.raises(DataError, match="predictions, no labels: each of its 1 objects has a score"):
        export.read({"truth": listed("Detections", box | {"confidence": 0.5})})
    part = export.read({"truth": listed("Detections", box, box | {"confidence": {"$numberDouble": "0.5"}})})
    assert "1 of its 2 objects are predictions, as their scores say (object 2: 0.5)" in part.problems[0].what
    point = label("Keypoint", "fox", points=[[0.1, 0.2]], confidence=[0.25])
    with pytest.raises(DataError, match="predictions, no labels"):
        read_poses(export.write({"truth": listed("Keypoints", point)}))


def test_a_confidence_of_100_for_all_is_what_nobody_stated_and_is_told(export):
    """As FiftyOne takes it over from CVAT, where people declare it from 0 to 100, with 100 as its default."""
    box = label("Detection", "cow", bounding_box=[0.1, 0.1, 0.5, 0.5])
    part = export.read({"truth": listed("Detections", box | {"confidence": 100}, box | {"confidence": 100.0})})
    assert [instance.score for instance in part.pictures[0].instances] == [None, None]
    [note] = part.problems
    assert note.what.startswith("truth: the confidence of 2 labels is 100, as CVAT has it where nobody changed it")
    assert not note.blocks
    with pytest.raises(DataError, match="predictions, no labels: each of its 2 objects has a score"):
        export.read({"truth": listed("Detections", box | {"confidence": 100}, box | {"confidence": 87})})


def test_samples_without_labels_are_left_out_and_those_with_an_empty_list_are_labelled(export):
    part = export.read({"truth": listed("Detections", label("Detection", "cow", bounding_box=[0, 0, 1, 1]))},
                       {"truth": None}, {"truth": listed("Detections")}, {})  # fmt: skip
    assert [picture.id for picture in part.pictures] == ["data/0", "data/2"]
    [note] = part.problems
    assert note.what == "samples without labels (null) in truth, left out: 2, such as data/1.png, data/3.png"
    assert not note.blocks


def test_paths_of_another_computer_are_found_and_those_that_lead_out_refused(tmp_path):
    box = listed("Detections", label("Detection", "cow", bounding_box=[0, 0, 1, 1]))
    draw(tmp_path / "data" / "deep" / "a.png")
    paths = ["/home/me/fiftyone/set/data/deep/a.png", "../../etc/passwd.png", 7]
    content = {"samples": [{"filepath": path, "truth": box} for path in paths]}
    (tmp_path / "samples.json").write_text(json.dumps(content))
    part = read_annotations(tmp_path)["all"]
    assert [picture.id for picture in part.pictures] == ["data/deep/a"]
    assert "'../../etc/passwd.png' is outside of the data root" in part.problems[0].what
    assert "sample 3: expected a sample with a filepath" in str(part.problems[1])


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"bounding_box": [0.1, 0.1, float("nan"), 0.5]}, "expected bounding_box as left, top, width and height"),
        ({"bounding_box": [6, 4, 30, 20]}, "expected bounding_box as left, top, width and height in shares"),
        ({"bounding_box": [0.1, 0.1, 0, 0.5]}, "expected a bounding_box with a width and a height, got 0 x 0.5"),
        ({"bounding_box": [0, 0, 1, 1], "mask": {"$binary": "!"}}, "a mask that is damaged"),
        ({"bounding_box": [0, 0, 1, 1], "mask": 5}, "expected a mask as $binary, got 5"),
        ({"bounding_box": [0, 0, 1, 1], "mask": packed(np.zeros((2, 2)))}, "expected a mask of whole numbers"),
        ({"bounding_box": [0, 0, 1, 1], "iscrowd": "yes"}, "expected 0 or 1 as iscrowd, got 'yes'"),
        ({"bounding_box": [0, 0, 1, 1], "confidence": "high"}, "expected a finite number as confidence, got 'high'"),
        ({"bounding_box": [0, 0, 1, 1], "label": None}, "label: expected a name, got None"),
        ({"bounding_box": [0, 0, 1, 1], "index": "one"}, "expected a number, got 'one'"),
    ],
)
def test_a_label_that_cannot_be_read_is_told_and_its_picture_is_incomplete(keys, words, export):
    good = label("Detection", "cow", bounding_box=[0, 0, 1, 1])
    part = export.read({"truth": listed("Detections", good, label("Detection", "cow") | keys)})
    [problem] = part.problems
    assert str(problem).startswith(f"{export.folder}/samples.json: sample 1: truth: label 2: {words}")
    assert problem.lost
    assert part.num_instances == 1
    assert part.pictures[0].extra == {"incomplete": True}


def test_an_array_of_objects_is_not_loaded(export):
    stream = io.BytesIO()
    np.save(stream, np.array([[Path("x")]], dtype=object), allow_pickle=True)
    text = base64.b64encode(zlib.compress(stream.getvalue())).decode()
    part = export.read({"truth": listed("Detections", label("Detection", "c", bounding_box=[0, 0, 1, 1], mask=text))})
    assert "a mask that is no array of NumPy" in part.problems[0].what


def test_a_folder_of_a_file_for_each_sample_is_read(export, tmp_path):
    box = listed("Detections", label("Detection", "cow", bounding_box=[0, 0, 1, 1]))
    export.write({"truth": box}, {"truth": box})
    samples = json.loads((tmp_path / "samples.json").read_text())["samples"]
    (tmp_path / "samples.json").unlink()
    (tmp_path / "samples").mkdir()
    for number, sample in enumerate(samples):
        (tmp_path / "samples" / f"{number:06d}-65f0.json").write_text(json.dumps(sample))
    assert read_annotations(tmp_path)["all"].num_instances == 2


def test_sizes_and_pictures_beside_the_samples_are_compared(export, tmp_path):
    box = listed("Detections", label("Detection", "cow", bounding_box=[0, 0, 1, 1]))
    draw(tmp_path / "data" / "other.png")
    part = export.read({"truth": box, "metadata": {"_cls": "ImageMetadata", "width": 61, "height": 40}})
    assert [problem.what for problem in part.problems] == [
        "height x width is 40 x 61, the picture is 40 x 60",
        "pictures without a sample with labels, left out: 1, such as other.png",
    ]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_written_is_read_back(seed, maker, tmp_path):
    sets = maker.make(seed, full=True)
    generator = np.random.default_rng(seed)
    for part in sets.values():
        for index, picture in enumerate(part.pictures):
            animals = tuple(_plain(animal, generator, picture.size) for animal in picture.instances)
            tags = {"checked": True, "sky": "clear", "seen": ["a", "b"]} if index % 2 else {}
            part.pictures[index] = replace(picture, instances=animals, tags=tags)
    assert what_is_lost(sets, "fiftyone") == []
    convert_labels(sets, tmp_path / "new", "fiftyone")
    for read in (read_annotations(tmp_path / "new"), read_poses(tmp_path / "new")):
        assert not any(part.problems for part in read.values())
        assert find_differences(sets, read) == []
        assert [p.tags for p in read["val"].pictures] == [p.tags for p in sets["val"].pictures]


def _plain(animal: Instance, generator: np.random.Generator, size: tuple[int, int]) -> Instance:
    """An instance of only what FiftyOne holds; parts of an outline do not overlap."""
    kept = {"score": None, "keypoint_scores": None, "extra": {}, "z_order": int(generator.integers(-1, 3))}
    square = np.array([[2.0, 2], [12, 2], [12, 12], [2, 12]])
    polygons = [(), (square,), (square, square + 12.5)][generator.integers(3)]
    holes = (square / 4 + 2,) if polygons and generator.random() < 0.5 else ()
    lines = tuple(generator.uniform(0, 30, (int(n), 2)) for n in generator.integers(2, 5, generator.integers(3)))
    is_pose = bool((animal.keypoints[:, 2] > 0).any())
    mask, box = None, None if polygons and not is_pose else animal.box_xyxy
    if not polygons and generator.random() < 0.5:
        covered = np.zeros(size, bool)
        x1, y1, x2, y2 = [3, 4, 20, 22]
        covered[y1:y2, x1:x2] = generator.random((y2 - y1, x2 - x1)) < 0.5
        mask, box = encode_mask(covered), np.array([2.75, 3.5, 20.25, 22.0])
    if box is None and not polygons and not (animal.keypoints[:, 2] > 0).any():
        box = np.array([1.0, 2, 5, 8])
    tags = {**animal.tags, "age": 3, "name": 'A & "B"', "old": 2.5, "hidden": False}
    return replace(animal, **kept, polygons=polygons, holes=holes, lines=lines, mask=mask, box_xyxy=box, tags=tags)


def test_what_overlaps_is_written_as_one_area_and_told(tmp_path, draw_picture):
    square = np.array([[2.0, 2], [12, 2], [12, 12], [2, 12]])
    coral = Instance("a/b", polygons=(square, square + 5, square / 2 + 3))
    picture = AnnotatedPicture("a", draw_picture(tmp_path / "in" / "a.png"), (40, 60), (coral,))
    sets = {"all": AnnotationSet([picture], {"a/b": Skeleton(())})}
    assert what_is_lost(sets, "fiftyone") == [
        "all: outlines whose parts overlap (written as one area): 1 of 1 instances"
    ]
    convert_labels(sets, tmp_path / "new", "fiftyone")
    [found] = read_annotations(tmp_path / "new")["all"].pictures[0].instances
    assert found.category == "a/b"
    same = [draw_outlines(i.polygons, i.holes, (40, 60)) for i in (coral, found)]
    assert (same[0] == same[1]).all()


def test_a_written_file_says_what_fiftyone_reads(tmp_path, draw_picture):
    """The rules of its importer: without a version `info` is read, and each sample and label names its class."""
    cow = Instance("cow", np.array([[3.0, 4, 2], [np.nan, np.nan, 0]]), np.array([1.0, 2, 30, 20]))
    picture = AnnotatedPicture("a", draw_picture(tmp_path / "in" / "a.png"), (40, 60), (cow,))
    convert_labels(
        {"test": AnnotationSet([picture], {"cow": Skeleton(("nose", "tail"))})}, tmp_path / "new", "fiftyone"
    )
    metadata = json.loads((tmp_path / "new" / "metadata.json").read_text())
    assert "version" not in metadata
    assert metadata["info"]["skeletons"] == {"gt_keypoints": {"labels": ["nose", "tail"], "edges": []}}
    assert metadata["info"]["default_classes"] == ["cow"]
    [sample] = json.loads((tmp_path / "new" / "samples.json").read_text())["samples"]
    assert (tmp_path / "new" / sample["filepath"]).is_file()
    assert sample["tags"] == ["test"]
    [box], [points] = sample["ground_truth"]["detections"], sample["gt_keypoints"]["keypoints"]
    assert (box["_cls"], points["_cls"], box["index"], points["index"]) == ("Detection", "Keypoint", 1, 1)
    assert points["points"] == [[0.05, 0.1], [{"$numberDouble": "NaN"}] * 2]


@pytest.mark.parametrize("seed", range(24))
def test_whatever_a_value_is_what_is_read_is_sound_or_one_error_says_where(seed, export):
    generator = np.random.default_rng(seed)
    keys = {"bounding_box": [0.1, 0.1, 0.5, 0.5], "mask": packed(np.ones((3, 4), bool))}
    fox = label("Keypoint", "fox", points=[[0.5, 0.5], [0.1, 0.2]], index=1)
    ring = label("Polyline", "fox", points=[SQUARE], closed=True, filled=True, index=2)
    export.write(
        {
            "a": listed("Detections", label("Detection", "cow", index=1, **keys)),
            "b": listed("Keypoints", fox),
            "c": listed("Polylines", ring),
        },
        skeletons={"b": {"labels": ["x", "y"], "edges": [[0, 1]]}},
    )
    path = export.folder / ("samples.json" if seed % 4 else "metadata.json")
    content = json.loads(path.read_text())
    spoil_value(content, generator)
    path.write_text(json.dumps(content))
    try:
        part = next(iter(read_annotations(export.folder).values()))
    except DataError as error:
        told = str(error)
        place = str(export.folder)
        assert told.startswith(place), told
        return
    for picture in part.pictures:
        for instance in picture.instances:
            assert all(np.isfinite(ring).all() for ring in (*instance.polygons, *instance.lines))
            assert instance.mask is None or sum(read_counts(instance.mask, picture.size)) == 2400
