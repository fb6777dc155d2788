"""Probes of detection."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import torch
from affine import Affine
from pyogrio.raw import write
from safetensors.torch import save_file

from models.base import FeatureSpec
from models.detr import DetrHead, DetrOptions
from tasks.detection.metric import DetectionMetric
from tasks.item import Piece
from tests.settings import looks
from tests.settings.keypoints import ONE_FILE, _write_shapes, add_wolves, letter_pictures, move_animals, square_pictures
from tests.settings.probe import VARIED, Probe
from tests.settings.shared import LISTS
from tests.settings.stage import digest, task_of
from utils.geometry.augment import IDENTITY
from utils.raster.files import write_raster


def write_rectangles(folder: Path) -> None:
    """Put LabelMe files with a rectangle around the first animal beside the pictures of both splits."""
    for split in ("train", "val"):
        tree = json.loads((folder / "animals" / "annotations" / f"{split}.json").read_text())
        for picture in tree["images"]:
            animals = [animal for animal in tree["annotations"] if animal["image_id"] == picture["id"]]
            shapes = [
                {"label": "fox", "points": [[x, y], [x + w, y + h]], "shape_type": "rectangle"}
                for x, y, w, h in (animal["bbox"] for animal in animals[:1])
            ]
            _write_shapes(folder / "animals" / "images", picture, shapes)


def draw_outlines(folder: Path) -> None:
    """Make two scenes with outlines over them: two layers, and two attributes that may hold the class."""
    transform = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
    boxes = [(8, 8, 30, 24), (40, 20, 60, 44), (110, 4, 140, 40)]
    shapes = [shapely.transform(shapely.box(*box), lambda points: np.stack(transform @ points.T, 1)) for box in boxes]
    (folder / "scenes").mkdir()
    for number in range(2):
        pixels = np.full((48, 64, 3), 40 + 90 * number, np.uint8)
        place = transform @ Affine.translation(96 * number, 0)
        write_raster(folder / "scenes" / f"scene_{number}.tif", pixels, crs="EPSG:32631", transform=place)
    columns = [np.array(names, object) for names in (["oak", "ash", "oak"], ["old", "old", "new"])]
    for layer, some in (("first", slice(0, 3)), ("second", slice(1, 3))):
        write(
            folder / "outlines.gpkg",
            shapely.to_wkb(shapes[some]),
            [column[some] for column in columns],
            ["sort", "age"],
            geometry_type="Polygon",
            crs="EPSG:32631",
            layer=layer,
            append=layer == "second",
        )


def judged(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """What becomes of boxes around and beside the labelled ones, sure and less so, and their scores."""
    task, _ = task_of(kind, folder, overrides)
    task.setup()
    predictor, metric, found = task.predictor([IDENTITY]), task.output.metric(), []
    for item in task.source.items("val"):
        predictor.start(item)
        pieces: list[Any] = []
        for sample in task.source.samples(item):
            boxes = torch.from_numpy(sample.arrays["boxes_xyxy"])
            beside = torch.cat([boxes, boxes + 4, boxes + 9])[None]
            scores = torch.tensor([0.9, 0.6, 0.3]).repeat_interleave(len(boxes))[None, :, None]
            pieces += predictor.push([sample], {"boxes_xyxy": beside, "scores": scores})
        for piece in (*pieces, *predictor.finish()):
            metric.update(piece, task.source.truth(piece))
            found.append(digest(piece.arrays))
    return found, metric.compute()


def scored(kind: str, folder: Path, overrides: Sequence[str]) -> Any:
    """The boxes that evaluate scores, for a short training finds no animal, beside their scores."""
    found, update = [], DetectionMetric.update

    def record(metric: DetectionMetric, piece: Piece, truth: Any) -> None:
        found.append(digest(piece.arrays))
        update(metric, piece, truth)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DetectionMetric, "update", record)
        return looks.scored(kind, folder, overrides), found


def write_detr(folder: Path) -> None:
    """Put the weights of a DETR, whose layers have another start than a fresh head's, into a folder."""
    head = DetrHead(SPEC, 1, DetrOptions(**SMALL_DETR))
    (folder / "detr").mkdir()
    tensors = {
        f"model.{name}": torch.full_like(part, 0.125)
        for name, part in head.decoder.state_dict(prefix="decoder.").items()
    }
    save_file(tensors, folder / "detr" / "model.safetensors")


SPEC = FeatureSpec((8,), (4,), 4, 3, (0.5,) * 3, (0.5,) * 3)
SMALL_DETR = {"width": 16, "encoder_layers": 0, "decoder_layers": 1, "feedforward": 16, "num_queries": 20}
AS_DETR = ("model.head=detr", f"model.head_options={json.dumps(SMALL_DETR)}")
CONVERTED = ("dataset.convert_to={format: coco, folder: FOLDER/copy}".replace("FOLDER", "{folder}"),)
OUTLINES = (
    *("paths.label_path={folder}/outlines.gpkg", "paths.data_root={folder}/scenes", "detection.split_by=picture"),
    *("dataset.label_layer=first", "dataset.label_attribute=sort"),
)
SURE = ("detection.min_score=0.0",)
WINDOWS = ("detection.windows=2",)

DETECTION: dict[str, Probe] = {
    "kind": Probe(looks.chosen, "distill", ("kind=detection",)),
    "paths.data_root": Probe(looks.read, "{folder}/moved", change=move_animals),
    "paths.label_path": Probe(looks.read, "annotations/train.json"),
    "paths.splits_dir": Probe(looks.stored, "{folder}/other", ONE_FILE),
    "dataset.splits.train_list": Probe(looks.listed, "{folder}/all.txt", (*ONE_FILE, *LISTS)),
    "dataset.splits.val_list": Probe(looks.listed, "{folder}/one.txt", (*ONE_FILE, *LISTS)),
    "dataset.splits.test_list": Probe(looks.listed, "{folder}/one.txt", (*ONE_FILE, *LISTS)),
    "dataset.classes": Probe(looks.read, "[wolf]", change=add_wolves),
    "dataset.label_mapping": Probe(looks.read, "{wolf: ignore}", change=add_wolves),
    "dataset.label_layer": Probe(looks.read, "second", OUTLINES, change=draw_outlines),
    "dataset.label_attribute": Probe(looks.read, "age", OUTLINES, change=draw_outlines),
    "dataset.convert_to.format": Probe(looks.converted, "yolo", CONVERTED),
    "dataset.convert_to.folder": Probe(looks.converted, "{folder}/there", CONVERTED),
    "dataset.convert_to.layout": Probe(looks.converted, "folders", CONVERTED),
    "dataset.subset.train": Probe(looks.read, "3"),
    "dataset.subset.val": Probe(looks.read, "2"),
    "dataset.augmentations.stored_views": Probe(looks.read, "1", (VARIED,)),  # of two
    "model.head": Probe(looks.learnt, "detr", ("model.head_options={width: 16}",)),
    "model.head_options": Probe(looks.learnt, "{width: 8}"),
    "model.init": Probe(looks.trained_anew, "{folder}/detr", AS_DETR, change=write_detr),
    "train.sampling": Probe(looks.anew(looks.learnt), "uniform", WINDOWS),
    "train.val_fraction": Probe(looks.read, "0.6", ONE_FILE),
    "evaluate.inputs": Probe(looks.scored, "images/val_001.png", ("evaluate.labels=annotations/val.json",)),
    "evaluate.labels": Probe(looks.scored, "annotations/train.json"),
    "evaluate.tta.horizontal_flip": Probe(scored, "true", SURE),
    "evaluate.tta.vertical_flip": Probe(scored, "true", SURE),
    "evaluate.tta.quarter_turns": Probe(scored, "true", SURE),
    "inference.input_tif": Probe(looks.predicted, "images/val_001.png", ("inference={checkpoint: '{model}'}",)),
    "inference.inputs": Probe(looks.predicted, "images/val_001.png"),
    "inference.tta.quarter_turns": Probe(looks.trained_and_predicted, "true", change=square_pictures),
    "detection.format": Probe(looks.read, "labelme", ("paths.label_path={folder}/animals",), change=write_rectangles),
    "detection.split_by": Probe(looks.read, "stem", ONE_FILE, change=letter_pictures),
    "detection.shortest_edge": Probe(looks.read, "32"),
    "detection.longest_edge": Probe(looks.read, "50"),
    "detection.pad_size": Probe(looks.read, "[100, 130]"),
    "detection.windows": Probe(looks.read, "2"),
    "detection.window_overlap": Probe(looks.read, "0.4", WINDOWS),
    "detection.window_largest": Probe(judged, "0.1", WINDOWS),
    "detection.min_visible": Probe(looks.read, "1.0", WINDOWS),
    "detection.min_score": Probe(judged, "0.5"),
    "detection.suppression": Probe(judged, "none"),
    "detection.iou": Probe(judged, "0.99"),
    "detection.max_detections": Probe(judged, "1"),
    "detection.formats": Probe(looks.predicted, "[labelme]"),
}
