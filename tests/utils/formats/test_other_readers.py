"""What the converters write opens in the readers that people have: pycocotools, supervision, pandas, LabelMe."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import supervision as sv
from pycocotools.coco import COCO

from tasks.example import drawn_animals
from utils.formats.convert import convert_labels
from utils.formats.mask_outlines import mask_of_instance
from utils.formats.read import read_poses
from utils.formats.types import AnnotatedPicture, AnnotationSet, Instance, Skeleton, encode_mask


@pytest.fixture(scope="module")
def truth() -> AnnotationSet:
    return read_poses(drawn_animals() / "annotations", root=drawn_animals())["val"]


def written(truth: AnnotationSet, folder: Path, format: str, **how: str) -> Path:
    convert_labels({"val": truth}, folder, format, **how)
    return folder


RING = np.array([[10.0, 10], [50, 10], [50, 50], [10, 50]])


@pytest.fixture
def drawn(tmp_path) -> AnnotationSet:
    """A picture with an outline that has a hole, one of two parts, a mask and a box."""
    path, mask = tmp_path / "a.png", np.zeros((80, 120), bool)
    cv2.imwrite(str(path), np.zeros((80, 120, 3), np.uint8))
    mask[60:75, 20:90] = True
    mask[65:70, 30:80] = False
    objects = (
        Instance("ring", polygons=(RING,), holes=(RING * 0.5 + 15,)),
        Instance("parts", polygons=(RING * 0.4 + [55, 0], RING * 0.4 + [85, 5])),
        Instance("mask", mask=encode_mask(mask)),
        Instance("box", box_xyxy=np.array([70.0, 30, 110, 55])),
    )
    picture = AnnotatedPicture("a", path, (80, 120), objects)
    return AnnotationSet([picture], {instance.category: Skeleton(()) for instance in objects})


def masks_of(part: AnnotationSet) -> dict[str, np.ndarray]:
    return {i.category: mask_of_instance(i, (80, 120)) for i in part.pictures[0].instances if i.box_xyxy is None}


def test_masks_of_coco_open_in_supervision(drawn, tmp_path):
    folder = written(drawn, tmp_path / "coco", "coco")
    found = sv.DetectionDataset.from_coco(str(folder / "images"), str(folder / "annotations" / "val.json"), True)
    [(_, _, detections)] = found
    by_class = {found.classes[index]: mask for index, mask in zip(detections.class_id, detections.mask, strict=True)}
    for name, covered in masks_of(drawn).items():
        edges = 0.15 if name == "parts" else 0  # outlines are drawn with their edges, run lengths are what they are
        assert (by_class[name] ^ covered).sum() <= edges * covered.sum(), name


def test_outlines_of_yolo_open_in_supervision(drawn, tmp_path):
    folder = written(drawn, tmp_path / "yolo", "yolo")
    parts = [str(folder / name) for name in ("images/val", "labels/val", "data.yaml")]
    found = sv.DetectionDataset.from_yolo(*parts, force_masks=True)
    [(_, _, detections)] = found
    by_class = {found.classes[index]: mask for index, mask in zip(detections.class_id, detections.mask, strict=True)}
    assert len(by_class) == 4
    for name, covered in masks_of(drawn).items():
        assert (by_class[name] ^ covered).sum() <= 0.25 * covered.sum(), name  # edges are drawn, of holes too


def test_labelme_shows_outlines_and_masks_where_they_are(drawn, tmp_path):
    folder = written(drawn, tmp_path / "labelme", "labelme") / "val"
    assert_labelme_opens(folder / "a.json")
    covered = masks_of(drawn)
    for shape in json.loads((folder / "a.json").read_text())["shapes"]:
        if shape["shape_type"] == "mask":  # as labelme's shapes_to_label places it, for corners that are whole numbers
            (x1, y1), (x2, y2) = np.array(shape["points"]).round().astype(int)
            shown = np.zeros((80, 120), bool)
            pixels = cv2.imdecode(np.frombuffer(base64.b64decode(shape["mask"]), np.uint8), cv2.IMREAD_UNCHANGED)
            assert pixels.shape == (y2 - y1 + 1, x2 - x1 + 1)
            shown[y1 : y2 + 1, x1 : x2 + 1] = pixels.astype(bool)
            assert np.array_equal(shown, covered.pop(shape["label"]))
    assert list(covered) == ["parts"]
    found = sv.DetectionDataset.from_labelme(str(folder), str(folder))  # it passes masks over
    [(_, _, detections)] = found
    boxes = {found.classes[i]: box.tolist() for i, box in zip(detections.class_id, detections.xyxy, strict=True)}
    assert boxes == {"parts": [59, 4, 105, 25], "box": [70, 30, 110, 55]}


def assert_labelme_opens(path: Path) -> None:
    """The rules of labelme 6.3 (`_label_file.py`), which itself needs Qt: what it raises for a JSON file."""
    tree = json.loads(path.read_text(encoding="utf-8"))
    assert tree["imageData"] is None
    height, width = cv2.imread(str(path.parent / tree["imagePath"])).shape[:2]
    assert (tree["imageHeight"], tree["imageWidth"]) == (height, width)
    for shape in tree["shapes"]:
        assert isinstance(shape["label"], str)
        assert isinstance(shape["shape_type"], str)
        assert shape["points"]
        assert all(len(point) == 2 and all(isinstance(x, int | float) for x in point) for point in shape["points"])
        assert all(isinstance(name, str) and isinstance(on, bool) for name, on in (shape.get("flags") or {}).items())
        assert shape.get("group_id") is None or isinstance(shape["group_id"], int)
        assert shape.get("description") is None or isinstance(shape["description"], str)


@pytest.mark.parametrize("layout", ["annotations", "folders"])
@pytest.mark.parametrize("mode", ["keypoints", "segmentation"])
def test_coco_opens_in_pycocotools_and_supervision(layout, mode, truth, tmp_path):
    folder = written(truth, tmp_path / "coco", "coco", layout=layout, mode=mode)
    file = folder / ("annotations/val.json" if layout == "annotations" else "valid/annotations.json")
    pictures = folder / ("images" if layout == "annotations" else "valid")
    coco = COCO(str(file))
    annotations = coco.loadAnns(coco.getAnnIds())
    assert (len(coco.imgs), len(annotations)) == (len(truth.pictures), truth.num_instances)
    for picture, image in zip(truth.pictures, coco.loadImgs(coco.getImgIds()), strict=True):
        assert (image["height"], image["width"]) == picture.size
        for animal, annotation in zip(picture.instances, coco.loadAnns(coco.getAnnIds(image["id"])), strict=True):
            assert coco.annToMask(annotation).sum() == pytest.approx(animal.area, rel=0.1)
            if mode == "keypoints":
                points = np.reshape(annotation["keypoints"], (-1, 3))
                assert np.allclose(points, np.nan_to_num(animal.keypoints), atol=1e-3)
    found = sv.DetectionDataset.from_coco(str(pictures), str(file), force_masks=True)
    assert found.classes == ["fox"]
    boxes = [box for _, _, detections in found for box in detections.xyxy]
    expected = [animal.box_xyxy for picture in truth.pictures for animal in picture.instances]
    assert np.allclose(sorted(map(tuple, boxes)), sorted(map(tuple, expected)), atol=1)


def test_yolo_opens_in_supervision(truth, tmp_path):
    folder = written(truth, tmp_path / "yolo", "yolo")
    parts = [str(folder / name) for name in ("images/val", "labels/val", "data.yaml")]
    found = sv.DetectionDataset.from_yolo(*parts)
    boxes = [tuple(box) for _, _, detections in found for box in detections.xyxy]
    expected = [tuple(animal.box_xyxy) for picture in truth.pictures for animal in picture.instances]
    assert np.allclose(sorted(boxes), sorted(expected), atol=1)


def test_a_table_of_deeplabcut_opens_in_pandas_as_deeplabcut_reads_it(truth, tmp_path):
    [table] = written(truth, tmp_path / "dlc", "deeplabcut").rglob("CollectedData_*.csv")
    frame = pd.read_csv(table, header=[0, 1, 2, 3], index_col=[0, 1, 2])
    assert frame.columns.names == ["scorer", "individuals", "bodyparts", "coords"]
    assert [index[2] for index in frame.index] == [picture.path.name for picture in truth.pictures]
    scorer, first = frame.columns[0][0], frame.columns[0][1]
    nose = frame.loc[:, (scorer, first, "snout")].to_numpy()
    expected = [picture.instances[0].keypoints[0, :2] for picture in truth.pictures]
    assert np.allclose(nose, expected, atol=1e-3, equal_nan=True)


def test_labelme_files_keep_the_rules_of_labelme(truth, tmp_path):
    files = sorted(written(truth, tmp_path / "labelme", "labelme").rglob("*_0*.json"))
    assert len(files) == len(truth.pictures)
    for file in files:
        assert_labelme_opens(file)
