"""What detection writes: every format opens in its users' reader, rasters of any size, nothing of a person is lost."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pyogrio
import pytest
import shapely
import torch
from affine import Affine
from pycocotools.coco import COCO
from rasterio.crs import CRS

from tasks.context import Context
from tasks.detection.example import foxes_example
from tasks.detection.rasters import RasterItem, RasterPieces
from tasks.detection.results import other_results
from tasks.detection.sinks import DetectionSink, Looks, draw_frame, gather_predictions, written_objects
from tasks.detection.task import DetectionTask
from tasks.item import Piece
from tasks.phases import inference, prepare, train
from tasks.runs import BEST, checkpoint_path
from utils.errors import Interrupted, SettingsError
from utils.formats.read import read_annotations, read_boxes
from utils.formats.types import AnnotatedPicture
from utils.media.videos import VideoReader
from utils.raster.files import write_raster
from utils.raster.grids import PixelGrid
from utils.runtime.checkpoints import load_checkpoint
from utils.runtime.files import read_json

ALL = "detection.formats=[csv, coco, yolo, labelme, voc, gpkg, video]"
MANY = ("detection.min_score=0.0", "detection.max_detections=6")  # a head that learnt little is sure of nothing
TURNED = Affine.translation(500_000, 4_000_000) @ Affine.rotation(20) @ Affine.scale(0.5, -0.5)


HEAD = "model.head_options={width: 16, refine: false, refine_from: 0.0}"


def make(folder: Path, *overrides: str) -> tuple[DetectionTask, Context]:
    return foxes_example(folder, HEAD, *overrides)


def mosaic(folder: Path, rows: int = 5, columns: int = 2) -> np.ndarray:
    """Pictures of foxes laid side by side."""
    paths = sorted((folder / "animals" / "images").glob("train_*.png"))
    tiles = [cv2.imread(str(path))[..., ::-1] for path in paths]
    lines = [
        np.hstack([tiles[(row * columns + column) % len(tiles)] for column in range(columns)]) for row in range(rows)
    ]
    return np.vstack(lines)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a trained task, whose checkpoint the tests use."""
    folder = tmp_path_factory.mktemp("foxes")
    task, context = make(folder, "train.epochs=12", *MANY)
    prepare.run(task, context)
    train.run(task, context)
    write_raster(folder / "animals" / "images" / "scene.tif", mosaic(folder), crs="EPSG:32631", transform=TURNED)
    return folder


@pytest.fixture(scope="module")
def predicted(trained) -> Path:
    """Predictions of photos, a video and a placed raster in every format."""
    inputs = "inference.inputs=[images/val_*.png, chase.mp4, images/scene.tif]"
    task, context = make(trained, inputs, ALL, *MANY, f"inference.output_dir={trained}/out")
    task.preflight(["inference"])
    assert inference.run(task, context).status == "done"
    assert inference.run(task, context).status == "up to date"
    return trained / "out"


def checkpoint_of(trained: Path) -> str:
    [path] = (trained / "run").rglob("best.safetensors")
    return f"inference.checkpoint={path}"


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "predictions.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def boxes_of(folder: Path, name: str) -> np.ndarray:
    """Boxes (N, 4) in the table, of one input."""
    names = ("xmin", "ymin", "xmax", "ymax")
    return np.array(
        [[float(row[key]) for key in names] for row in rows_of(folder) if Path(row["picture"]).stem == name]
    )


def test_the_table_and_the_json_say_the_same(predicted):
    photo = read_json(predicted / "val_000.json", checksum=True)
    [frame] = photo["frames"]
    assert (frame["frame"], frame["size"]) == (0, [192, 256])
    assert frame["objects"]
    rows = [row for row in rows_of(predicted) if row["picture"] == "val_000.png"]
    assert [float(row["score"]) for row in rows] == [each["score"] for each in frame["objects"]]
    scores = [each["score"] for each in frame["objects"]]
    assert scores == sorted(scores, reverse=True)
    np.testing.assert_array_equal(boxes_of(predicted, "val_000"), [each["box_xyxy"] for each in frame["objects"]])
    assert {int(row["frame"]) for row in rows_of(predicted) if row["picture"].startswith("chase.")} > {0}
    assert all(row["left"] == "" for row in rows)


def test_predictions_are_no_labels(predicted):
    with pytest.raises(Exception, match="a table of predictions: it has a column 'score'"):
        read_annotations(predicted / "predictions.csv")
    with pytest.raises(Exception, match="predictions, as the attribute 'score' says"):
        read_annotations(predicted / "scene.gpkg", root=predicted.parent / "animals" / "images")


def test_yolo_rows_are_shares_with_the_score_last(predicted):
    rows = np.loadtxt(predicted / "val_000.txt", ndmin=2)
    centres, sides = rows[:, 1:3] * [256, 192], rows[:, 3:5] * [256, 192]
    boxes = np.hstack([centres - sides / 2, centres + sides / 2])
    np.testing.assert_allclose(boxes, boxes_of(predicted, "val_000"), atol=1e-3)
    assert (rows[:, 0] == 0).all()
    assert (predicted / "classes.txt").read_text() == "fox\n"
    assert not (predicted / "chase.txt").exists()


def test_labelme_opens_the_picture_and_its_rectangles(predicted):
    tree = json.loads((predicted / "val_000.labelme.json").read_text())
    assert (predicted / tree["imagePath"]).is_file()
    assert (tree["imageHeight"], tree["imageWidth"], tree["imageData"]) == (192, 256, None)
    corners = [np.ravel(shape["points"]).tolist() for shape in tree["shapes"]]
    np.testing.assert_allclose(corners, boxes_of(predicted, "val_000"))
    assert {(shape["label"], shape["shape_type"]) for shape in tree["shapes"]} == {("fox", "rectangle")}


def test_voc_has_pixels_from_1_and_scores(predicted):
    objects = ElementTree.parse(predicted / "val_000.xml").getroot().findall("object")
    corners = np.array([[int(o.findtext(f"bndbox/{n}")) for n in ("xmin", "ymin", "xmax", "ymax")] for o in objects])
    assert np.abs(corners - [1, 1, 0, 0] - boxes_of(predicted, "val_000")).max() <= 1
    assert (corners[:, :2] >= 1).all()
    assert (corners[:, 2:] <= [256, 192]).all()
    assert all(0 <= float(o.findtext("score")) <= 1 for o in objects)


def test_coco_opens_in_pycocotools(predicted):
    coco = COCO(str(predicted / "predictions_coco.json"))  # the labels do not hold all inputs: a file of its own
    photo = next(image for image in coco.dataset["images"] if image["file_name"].endswith("val_000.png"))
    found = coco.loadAnns(coco.getAnnIds(photo["id"]))
    boxes = [[x, y, x + w, y + h] for x, y, w, h in (each["bbox"] for each in found)]
    np.testing.assert_allclose(boxes, boxes_of(predicted, "val_000"))
    assert all("score" in each for each in found)


def test_coco_results_belong_to_the_labels_where_these_hold_the_pictures(trained, tmp_path):
    task, context = make(trained, *MANY, "detection.formats=[coco]", f"inference.output_dir={tmp_path}/out")
    inference.run(task, context)
    labels = COCO(str(trained / "animals" / "annotations" / "val.json"))
    results = labels.loadRes(str(tmp_path / "out" / "predictions_coco.json"))
    assert set(results.getImgIds()) == set(labels.getImgIds())
    assert {each["category_id"] for each in results.loadAnns(results.getAnnIds())} == {1}


def test_overlays_draw_boxes_from_the_best_score_of_the_checkpoint_on(trained, predicted):
    _, context = make(trained)
    best = load_checkpoint(checkpoint_path(context.folder, BEST)).description["by_class"]["score/fox"]
    numbers = []
    for path in sorted((trained / "animals" / "images").glob("val_*.png")):
        photo = cv2.imread(str(path))[..., ::-1]
        drawn = cv2.imread(str(predicted / f"{path.stem}_overlay.png"))[..., ::-1]
        [frame] = read_json(predicted / f"{path.stem}.json", checksum=True)["frames"]
        sure = [each for each in frame["objects"] if each["score"] >= int(1000 * best) / 1000]
        numbers.append((len(sure), len(frame["objects"])))
        np.testing.assert_array_equal(drawn[: len(photo)], draw_frame(photo, sure, Looks(("fox",), ())))
        assert drawn.shape[0] > photo.shape[0]  # the legend
    shown, found = np.sum(numbers, axis=0)
    assert 0 < shown < found
    video = VideoReader(predicted / "chase_overlay.mp4")
    assert video.count_frames() == VideoReader(trained / "animals" / "chase.mp4").count_frames()


def test_a_geopackage_has_crs_classes_scores_and_a_style(predicted):
    info = pyogrio.read_info(predicted / "scene.gpkg", layer="classes")
    assert CRS.from_user_input(info["crs"]).to_epsg() == 32631
    assert {"class_name", "score", "area_m2"} <= set(info["fields"])
    _, _, shapes, columns = pyogrio.raw.read(predicted / "scene.gpkg", layer="classes", columns=["score", "area_m2"])
    outlines, boxes = shapely.from_wkb(shapes), boxes_of(predicted, "scene")
    assert len(outlines) == len(boxes) > 0
    corners = [shapely.box(*box) for box in boxes]
    placed = [shapely.transform(each, lambda xy: np.array([TURNED @ tuple(point) for point in xy])) for each in corners]
    assert max(a.symmetric_difference(b).area / b.area for a, b in zip(outlines, placed, strict=True)) < 0.01
    np.testing.assert_allclose(columns[1], (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) / 4, rtol=1e-3)
    rows = [row for row in rows_of(predicted) if row["picture"] == "scene.tif"]
    assert {row["crs"] for row in rows} == {"EPSG:32631"}
    bounds = np.array([[float(row[name]) for name in ("left", "bottom", "right", "top")] for row in rows])
    np.testing.assert_allclose(bounds, shapely.bounds(outlines), atol=1e-3)
    assert [name for name, _ in pyogrio.list_layers(predicted / "scene.gpkg")] == ["classes", "layer_styles"]


def test_windows_of_a_raster_show_what_training_pictures_showed(trained):
    task, _ = make(trained, "inference.inputs=images/scene.tif")
    [item] = task.source.items("inference")
    assert isinstance(item, RasterItem)
    assert (item.tile, item.grid.height, item.grid.width) == (192, 960, 512)
    for sample in task.source.samples(item):
        window = sample.window
        corner = np.linalg.inv(sample.arrays["matrix"]) @ [0, 0, 1]
        assert corner[:2].round(6).tolist() == [window.x, window.y]
        assert sample.arrays["image"].shape == (96, 96, 3)
    assert task.source.count_samples(item) == len(item.windows()) == 6 * 4


def results(folder: Path) -> list[str]:
    return (folder / "scene.boxes.jsonl").read_text().splitlines()


def test_an_interrupted_raster_goes_on_and_gives_the_same_boxes(trained, predicted, tmp_path):
    asked = (
        "inference.inputs=images/scene.tif",
        "inference.batch_size=1",
        checkpoint_of(trained),
        f"detection.min_score={np.quantile([float(row['score']) for row in rows_of(predicted)], 0.8):.4f}",
        f"inference.output_dir={tmp_path}/out",
    )
    task, context = make(trained, *asked)
    context = replace(context, folder=tmp_path / "run")
    calls: list[None] = []

    def check_stop() -> None:
        calls.append(None)
        if len(calls) > 20:
            raise Interrupted(15)

    with pytest.raises(Interrupted):
        inference.run(task, replace(context, check_stop=check_stop))
    partial = tmp_path / "out" / ".scene.part.jsonl"
    assert 2 < len(partial.read_text().splitlines()) < 7
    partial.write_text(partial.read_text()[:-7])  # as a power cut leaves it
    again: list[None] = []
    inference.run(task, replace(context, check_stop=lambda: again.append(None)))
    assert len(again) < len(task.source.items("inference")[0].windows())  # not from the start
    whole, _ = make(trained, *asked[:-1], f"inference.output_dir={tmp_path}/whole")
    inference.run(whole, replace(context, folder=tmp_path / "other", check_stop=lambda: None))
    assert results(tmp_path / "out") == results(tmp_path / "whole") != []
    assert not partial.exists()


def test_a_file_of_a_person_is_never_overwritten(trained, tmp_path):
    out = tmp_path / "out"
    asked = (
        "detection.formats=[csv, yolo, voc, labelme]",
        f"inference.output_dir={out}",
        *MANY,
        checkpoint_of(trained),
    )
    task, context = make(trained, *asked)
    context = replace(context, folder=tmp_path / "run")
    for name, content in {"val_000.txt": "0 .5 .5 .1 .1", "classes.txt": "hen\n", "predictions.csv": "a,b\n"}.items():
        out.mkdir(exist_ok=True)
        (out / name).write_text(content)
        with pytest.raises(SettingsError, match=f"{name}: already exists and was not written by inference"):
            task.preflight(["inference"])
        (out / name).unlink()
    task.preflight(["inference"])
    inference.run(task, context)
    task.preflight(["inference"])  # its own files may be replaced


# --- a stand-in head of known response -------------------------------------------------------------------------------


def predict_known(source: Any, predictor: Any, item: RasterItem, objects: np.ndarray) -> list[Piece]:
    """Pieces of a raster when the head answers each sample with the objects (N, 4) that it shows, cut at its edges."""
    predictor.start(item)
    pieces: list[Piece] = []
    for sample in source.samples(item):
        zoom, shift = sample.arrays["matrix"][0, 0], sample.arrays["matrix"][:2, 2]
        height, width = sample.arrays["image"].shape[:2]
        whole = objects * zoom + np.tile(shift, 2)
        seen = np.clip(whole, 0, [width, height, width, height])
        shares = (seen[:, 2:] - seen[:, :2]).prod(axis=1) / (whole[:, 2:] - whole[:, :2]).prod(axis=1)
        boxes = torch.from_numpy(seen).float()[None]
        pieces += predictor.push(
            [sample], {"boxes_xyxy": boxes, "scores": torch.from_numpy(shares)[None, :, None] * 0.9}
        )
    return [*pieces, *predictor.finish()]


@pytest.mark.parametrize("windows", [0, 2])
def test_a_raster_has_each_object_once_wherever_it_begins(windows, trained, tmp_path):
    generator = np.random.default_rng(5)
    sides = generator.uniform(12, 34, (60, 2))
    corners = np.array([(x, y) for x in range(12) for y in range(5)]) * [60, 110] + generator.uniform(0, 20, (60, 2))
    objects = np.hstack([corners, corners + sides])
    image = np.ones((600, 760, 3), np.uint8)
    found = []
    for offset in ((0, 0), (37, 11), (5, 90)):
        path = tmp_path / f"{offset[0]}.tif"
        write_raster(path, image[offset[0] :, offset[1] :], crs="EPSG:32631", transform=TURNED)
        task, _ = make(trained, f"inference.inputs={path}", f"detection.windows={windows}")
        [item] = task.source.items("inference")
        shift = np.array([offset[1], offset[0]] * 2)
        pieces = predict_known(task.source, task.predictor(), item, objects - shift)
        boxes = np.concatenate([piece.arrays["boxes_xyxy"] for piece in pieces]) + shift
        whole = (objects[:, 0] >= offset[1]) & (objects[:, 1] >= offset[0])
        kept = [box for box in boxes if (np.abs(objects[whole] - box).max(axis=1) < 0.5).any()]
        assert len(kept) == whole.sum(), "each object once, none twice"
        assert len(boxes) - len(kept) <= (~whole).sum(), "the others are cut by the raster's edge"
        found.append((whole, boxes))
    assert found[0][0].all()


def test_names_with_odd_letters_pass_through_every_format(tmp_path):
    names = ('oak,\n"red"', "a<b>&c")
    grid = PixelGrid(40, 60, CRS.from_epsg(32631), TURNED)
    write_raster(tmp_path / "s, 1.tif", np.ones((40, 60, 3), np.uint8), crs="EPSG:32631", transform=TURNED)
    picture = AnnotatedPicture("s, 1", tmp_path / "s, 1.tif", (40, 60), ())
    item = RasterItem("s, 1", (), picture, "inference", grid=grid, tile=60, stride=50)
    looks = Looks(names, ("csv", "coco", "yolo", "labelme", "voc", "gpkg"))
    sink = DetectionSink(item, tmp_path, looks, {})
    boxes = np.array([[1.0, 2, 30, 20], [5, 6, 9, 9]])
    pieces = RasterPieces(item, 0.5, 2.0)
    given = [*pieces.add(item.windows()[0], boxes, np.array([0.75, 0.5]), np.array([0, 1])), *pieces.finish()]
    for piece in given:
        sink.append(piece)
    sink.flush()
    assert [path.name for path in sink.close()][1:] == [
        path.name for path in other_results(item, tmp_path, looks.formats)
    ]
    gather_predictions([item], tmp_path, looks)
    assert [each.name for _, _, each in written_objects(item, tmp_path)] == list(names)
    assert [row["class"] for row in rows_of(tmp_path)] == list(names)
    assert [row["picture"] for row in rows_of(tmp_path)] == ["s, 1.tif"] * 2
    _, _, _, [written] = pyogrio.raw.read(tmp_path / "s, 1.gpkg", layer="classes", columns=["class_name"])
    assert list(written) == list(names)
    tree = ElementTree.parse(tmp_path / "s, 1.xml").getroot()
    assert [node.text for node in tree.iter("name")] == list(names)
    assert (tmp_path / "classes.txt").read_text() == 'oak, "red"\na<b>&c\n'
    shapes = read_annotations(tmp_path / "s, 1.labelme.json", predictions=True)["all"].pictures[0].instances
    assert [(each.category, each.box_xyxy.tolist()) for each in shapes] == list(zip(names, boxes.tolist(), strict=True))


def test_prepare_writes_the_labels_in_another_format(tmp_path):
    task, _ = make(tmp_path, f"dataset.convert_to={{format: voc, folder: {tmp_path}/copy}}")
    assert task.source.preview_data() == "writes the labels as voc"
    task.source.prepare_data()
    assert task.source.preview_data() == ""
    ours, theirs = task.labels.sets, read_boxes(tmp_path / "copy")
    for split in ("train", "val"):
        pairs = zip(ours[split].pictures, theirs[split].pictures, strict=True)
        for picture, copy in pairs:
            boxes, others = ([i.box_xyxy for i in each.instances] for each in (picture, copy))
            assert len(boxes) == len(others)
            assert all(np.abs(one - other).max() <= 0.5 for one, other in zip(boxes, others, strict=True))


def test_a_note_on_labels_does_not_fail_verify(tmp_path):
    task, _ = make(tmp_path, f"dataset.convert_to={{format: voc, folder: {tmp_path}/copy}}")
    task.source.prepare_data()
    (tmp_path / "copy" / "data.yaml").unlink()
    write_raster(tmp_path / "copy" / "train" / "new.png", np.ones((40, 60, 3), np.uint8))
    noted, _ = make(tmp_path, f"paths.label_path={tmp_path}/copy/train", f"paths.data_root={tmp_path}/copy/train")
    [finding] = noted.labels.problems()
    assert "pictures without an XML file, left out: 1, such as new.png" in str(finding)
    assert not finding.blocks
