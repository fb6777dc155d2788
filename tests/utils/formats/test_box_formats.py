"""Boxes written in every format that holds them: read back the same, and opened in the readers that people have."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import supervision as sv
from pycocotools.coco import COCO

from tests.utils.formats.compare import find_differences
from utils.errors import DataError
from utils.formats.box_rules import keep_boxes
from utils.formats.convert import STAMP, convert_labels, what_is_lost
from utils.formats.read import read_annotations, read_boxes
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Skeleton, keypoints_array

NAMES = ("zebra", 'oak, "red"', "Wüstenmaus & Co")
FORMATS = ("yolo", "coco", "voc", "labelme", "csv", "cvat", "fiftyone")


@pytest.fixture
def boxes(tmp_path, draw_picture) -> dict[str, AnnotationSet]:
    """Two splits of three pictures, one of them without an object; edges are whole pixels."""
    generator = np.random.default_rng(4)
    sets = {}
    for split in ("train", "val"):
        pictures = []
        for number in range(3):
            path = draw_picture(tmp_path / "source" / split / f"picture {number}, a.png", 40 + number, 60)
            corners = np.sort(generator.integers(0, 20, (4 * (number % 2) + 2 * (number == 2), 2, 2)), axis=1)
            found = (corners + np.array([[0, 0], [1, 1]])) * [[3, 2]]
            instances = tuple(
                Instance(NAMES[generator.integers(3)], box_xyxy=box.ravel().astype(float)) for box in found
            )
            pictures.append(AnnotatedPicture(f"{split}/picture {number}, a", path, (40 + number, 60), instances))
        sets[split] = AnnotationSet(pictures, {name: Skeleton(()) for name in NAMES})
    return sets


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_written_is_read_back(format, boxes, tmp_path):
    assert not what_is_lost(boxes, format)
    written = convert_labels(boxes, tmp_path / "new", format)
    assert all(path.is_file() for path in written)
    assert convert_labels(boxes, tmp_path / "new", format) == []
    found = read_boxes(tmp_path / "new")
    ignore = {"group", "area"}  # of COCO and LabelMe, which number their objects
    assert find_differences(boxes, found, ignore) == []
    assert [list(part.skeletons) for part in found.values()] == [list(NAMES)] * 2
    assert not any(part.problems for part in found.values())


@pytest.mark.parametrize("format", ["coco", "voc", "labelme", "csv", "fiftyone"])
def test_crowds_stay_crowds(format, boxes, tmp_path):
    boxes["val"].pictures[0] = AnnotatedPicture(
        "val/picture 0, a",
        boxes["val"].pictures[0].path,
        (40, 60),
        (Instance("zebra", box_xyxy=np.array([1.0, 2, 3, 4]), is_crowd=True),),
    )
    convert_labels(boxes, tmp_path / "new", format)
    crowds = [i for picture in read_boxes(tmp_path / "new")["val"].pictures for i in picture.instances if i.is_crowd]
    assert [crowd.box_xyxy.tolist() for crowd in crowds] == [[1, 2, 3, 4]]
    assert [line for line in what_is_lost(boxes, "yolo") if "is_crowd: 1 of" in line]


@pytest.mark.parametrize("format", FORMATS)
def test_writing_over_the_source_or_beside_other_files_is_refused(format, boxes, tmp_path):
    with pytest.raises(DataError, match="the source lies in it"):
        convert_labels(boxes, tmp_path, format)
    if format != "coco":  # its files list what belongs to them
        folder = {"yolo": "labels/train", "cvat": "images/Train", "fiftyone": "data/train"}.get(format, "train")
        convert_labels(boxes, tmp_path / "new", format)[-1].unlink()  # so that it is written again
        (tmp_path / "new" / folder / "other.txt").write_text("")
        with pytest.raises(DataError, match="not of the data set that is to be written here"):
            convert_labels(boxes, tmp_path / "new", format)


@pytest.mark.parametrize("format", FORMATS)
def test_a_copy_replaces_nothing_but_an_earlier_copy_of_its_format(format, boxes, tmp_path):
    folder, mine = tmp_path / "mine", tmp_path / "mine" / "images" / "train" / "a.png"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(DataError, match="mine: holds images; labels are written into an empty"):
        convert_labels(boxes, folder, format)
    assert mine.read_text() == "mine"
    for folder, held in (("files", "[1, 2]"), ("hidden", None)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / ".DS_Store").touch()
        if held:  # a file of the stamp's name that another program wrote
            (tmp_path / folder / STAMP).write_text(held)
    with pytest.raises(DataError, match=f"files: holds {STAMP}; labels are written into an empty folder"):
        convert_labels(boxes, tmp_path / "files", format)
    assert convert_labels(boxes, tmp_path / "hidden", format)
    written = convert_labels(boxes, tmp_path / "new", format)
    other = next(name for name in FORMATS if name != format)
    with pytest.raises(DataError, match=f"holds a copy as {format}, not as {other}"):
        convert_labels(boxes, tmp_path / "new", other)
    before = written[-1].read_bytes()
    written[-1].unlink()
    assert convert_labels(boxes, tmp_path / "new", format) == written
    assert written[-1].read_bytes() == before


def test_shares_are_no_pixels_and_boxes_far_beyond_their_picture_are_noted(boxes):
    picture = boxes["train"].pictures[0]
    height, width = picture.size

    def kept(*corners):
        instances = tuple(Instance("zebra", box_xyxy=np.array(box)) for box in corners)
        return keep_boxes({"all": AnnotationSet([replace(picture, instances=instances)], {})})["all"]

    with pytest.raises(DataError, match=r"box of 0\.5 x 0\.25 is smaller than a pixel; pixels are expected, no shares"):
        kept((0.25, 0.5, 0.75, 0.75))
    whole = kept((0.0, 0.0, 1.0, 1.0), (1.0, 1.0, width + 1.0, height))
    assert [instance.box_xyxy.tolist() for instance in whole.pictures[0].instances] == [
        [0, 0, 1, 1],
        [1, 1, width, height],
    ]
    assert whole.problems == []
    [note] = kept((1.0, 1.0, width + 9.0, height), (1.0, 1.0, 1e300, 3.0)).problems
    assert not note.blocks
    assert "object 1: this box, and 1 others, reach beyond their picture by more than 2 pixels" in f"{note}"


def test_a_link_to_the_pictures_is_no_place_for_a_copy(boxes, tmp_path):
    pictures = boxes["train"].pictures[0].path.parent
    (tmp_path / "link").symlink_to(pictures)
    before = sorted(pictures.iterdir())
    with pytest.raises(DataError, match="the source lies in it"):
        convert_labels(boxes, tmp_path / "link", "yolo")
    assert sorted(pictures.iterdir()) == before


def test_outlines_become_boxes_where_a_format_has_no_outlines(boxes, tmp_path):
    triangle = Instance("zebra", polygons=(np.array([[3.0, 4], [9, 4], [6, 8]]),))
    one = AnnotatedPicture("a", boxes["val"].pictures[0].path, (40, 60), (triangle,))
    sets = {"all": AnnotationSet([one], {"zebra": Skeleton(())})}
    for format in FORMATS:
        convert_labels(sets, tmp_path / format, format)
        [found] = read_boxes(tmp_path / format)["all"].pictures[0].instances
        np.testing.assert_allclose(found.box_xyxy, [3, 4, 9, 8])


def test_keypoints_without_boxes_are_refused(tmp_path, draw_picture):
    mouse = Instance("mouse", keypoints_array([[1, 2]], [2]))
    picture = AnnotatedPicture("a", draw_picture(tmp_path / "a.png"), (40, 60), (mouse,))
    convert_labels({"all": AnnotationSet([picture], {"mouse": Skeleton(("nose",))})}, tmp_path / "new", "labelme")
    with pytest.raises(DataError, match=r"no object of these labels has a box that can be used; .*neither box nor out"):
        read_boxes(tmp_path / "new")


def in_order(boxes: list) -> list:
    return sorted(tuple(np.round(np.asarray(box, float), 3).tolist()) for box in boxes)


def expected_of(part: AnnotationSet) -> list:
    return in_order([i.box_xyxy for picture in part.pictures for i in picture.instances])


def test_yolo_opens_in_supervision(boxes, tmp_path):
    convert_labels(boxes, tmp_path / "new", "yolo")
    parts = [str(tmp_path / "new" / name) for name in ("images/train", "labels/train", "data.yaml")]
    found = sv.DetectionDataset.from_yolo(*parts)
    assert found.classes == list(NAMES)
    np.testing.assert_allclose(
        in_order([box for _, _, detections in found for box in detections.xyxy]), expected_of(boxes["train"]), atol=0.01
    )


def test_coco_opens_in_pycocotools_and_supervision(boxes, tmp_path):
    convert_labels(boxes, tmp_path / "new", "coco")
    file = tmp_path / "new" / "annotations" / "train.json"
    coco = COCO(str(file))
    entries = coco.loadAnns(coco.getAnnIds())
    assert in_order([(x, y, x + w, y + h) for x, y, w, h in (e["bbox"] for e in entries)]) == expected_of(
        boxes["train"]
    )
    assert [entry["area"] for entry in entries] == [entry["bbox"][2] * entry["bbox"][3] for entry in entries]
    found = sv.DetectionDataset.from_coco(str(tmp_path / "new" / "images"), str(file))
    assert in_order([box for _, _, detections in found for box in detections.xyxy]) == expected_of(boxes["train"])


def test_voc_opens_in_supervision_and_counts_from_1(boxes, tmp_path):
    convert_labels(boxes, tmp_path / "new", "voc")
    folder = str(tmp_path / "new" / "train")
    found = sv.DetectionDataset.from_pascal_voc(folder, folder)
    assert set(found.classes) <= set(NAMES)
    assert in_order([box for _, _, detections in found for box in detections.xyxy]) == expected_of(boxes["train"])
    [path] = (tmp_path / "new" / "train").glob("picture 1*.xml")
    numbers = [int(node.text) for node in ElementTree.parse(path).iter() if node.tag in ("xmin", "ymin")]
    assert min(numbers) >= 1


def test_a_table_opens_as_deepforest_reads_it(boxes, tmp_path):
    """The rules of DeepForest 1.5 (`utilities.read_file`, `datasets.training`): these columns, zeros for no object."""
    convert_labels(boxes, tmp_path / "new", "csv")
    with open(tmp_path / "new" / "train.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["image_path", "xmin", "ymin", "xmax", "ymax", "label"]
    corners = [[float(row[name]) for name in ("xmin", "ymin", "xmax", "ymax")] for row in rows]
    assert in_order([box for box in corners if any(box)]) == expected_of(boxes["train"])
    assert sum(not any(box) for box in corners) == 1
    assert all((tmp_path / "new" / row["image_path"]).is_file() for row in rows)


def test_a_folder_of_two_formats_says_which_is_read(boxes, tmp_path, caplog):
    convert_labels({"all": boxes["train"]}, tmp_path / "new", "voc")
    (tmp_path / "new" / "data.yaml").unlink()
    (tmp_path / "new" / "all" / "x.csv").write_text("image,x1,y1,x2,y2,label\npicture 1. a.png,1,2,3,4,x\n")
    part = read_annotations(tmp_path / "new")["all"]
    assert Path(part.pictures[0].path).suffix == ".png"
    assert "VOC (xml) are read, and tables of boxes (csv) in it passed over" in caplog.text


@pytest.mark.parametrize("seed", range(4))
def test_slivers_at_the_edge_are_no_objects_and_thin_boxes_are_told(seed):
    """Of a box that the edge cuts, a pixel or more must be left; one that is drawn thin is kept."""
    generator = np.random.default_rng(seed)
    low = generator.uniform(-20, 60, (400, 2))
    boxes = np.hstack([low, low + 10 ** generator.uniform(-2, 1.5, (400, 2))])
    boxes = boxes[((boxes[:, 2:] - boxes[:, :2]).max(axis=1) >= 1)]
    inside = np.clip(boxes, 0, [60, 40, 60, 40])
    sides, shown = boxes[:, 2:] - boxes[:, :2], inside[:, 2:] - inside[:, :2]
    meets = (shown > 0).all(axis=1)
    sliver = meets & ((shown < 1) & (inside != boxes).reshape(-1, 2, 2).any(axis=1)).any(axis=1)
    thin = meets & ~sliver & (sides < 1).any(axis=1)
    assert min(sliver.sum(), thin.sum(), (meets & ~sliver).sum()) > 1
    found = tuple(Instance("cow", box_xyxy=box) for box in boxes)
    part = keep_boxes({"all": AnnotationSet([AnnotatedPicture("a", Path("a.png"), (40, 60), found)], {})})["all"]
    kept = np.array([instance.box_xyxy for instance in part.pictures[0].instances])
    assert np.array_equal(kept, inside[meets & ~sliver])
    told = [problem.what for problem in part.problems if not problem.blocks]
    assert (
        f"of this box, and {sliver.sum() - 1} others, less than a pixel lies in the picture: they are left out" in told
    )
    assert f"this box, and {thin.sum() - 1} others, are less than a pixel wide or high" in told


def test_a_stroke_in_rows_of_yolo_is_told(tmp_path, draw_picture):
    draw_picture(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 .5 .5 1e-9 .5\n0 .5 .5 1e-9 1e-9\n0 .5 .5 .5 .5\n")
    (tmp_path / "data.yaml").write_text("{train: images, names: [cow]}")
    part = read_boxes(tmp_path)["train"]
    assert part.num_instances == 2
    assert "smaller than a pixel" in part.problems[0].what
    assert part.problems[1].what == "this box, and 0 others, are less than a pixel wide or high"


@pytest.mark.parametrize("has_larger", [True, False])
def test_a_box_below_a_pixel_costs_its_picture_only_where_all_boxes_may_be_shares(has_larger):
    boxes = [[3.0, 4, 3.9, 4.9], [0, 0, 20, 30.0]][: 1 + has_larger]
    found = tuple(Instance("head", box_xyxy=np.array(box)) for box in boxes)
    part = keep_boxes({"all": AnnotationSet([
        AnnotatedPicture("a", Path("a.png"), (40, 60), found),
        AnnotatedPicture("b", Path("b.png"), (40, 60), (Instance("head", box_xyxy=np.array([0.0, 0, 9, 9])),)),
    ], {})})["all"]  # fmt: skip
    (problem,) = part.problems
    assert part.pictures[0].extra.get("incomplete", False) is not has_larger
    assert len(part.pictures[0].instances) == has_larger
    told = "are smaller than a pixel: they are left out" if has_larger else "pixels are expected, no shares"
    assert told in problem.what
    assert problem.blocks is not has_larger
