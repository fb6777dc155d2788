"""Probes of keypoints."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.settings import looks
from tests.settings.probe import AGAIN, BRIGHT, Probe
from tests.settings.shared import LISTS
from utils.samples.files import write_foxes


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the COCO labels of both splits."""
    for path in (folder / "annotations").glob("*.json"):
        tree = json.loads(path.read_text())
        change(tree)
        path.write_text(json.dumps(tree))


def exchange_sides(folder: Path) -> None:
    """Exchange left and right of all animals, whose labels are so wrong."""

    def change(tree: dict[str, Any]) -> None:
        names, swap = tree["categories"][0]["keypoints"], {"left": "right", "right": "left"}
        sides = [next((name.replace(side, swap[side]) for side in swap if side in name), name) for name in names]
        for animal in tree["annotations"]:
            points = animal["keypoints"]
            triples = {name: points[3 * index : 3 * index + 3] for index, name in enumerate(names)}
            animal["keypoints"] = [value for name in sides for value in triples[name]]

    edit(folder / "animals", change)


def rename_points(folder: Path) -> None:
    """Name the keypoints so that nothing says what a mirror exchanges."""
    edit(folder / "animals", lambda tree: tree["categories"][0].update(keypoints=[f"k{index}" for index in range(7)]))


def add_wolves(folder: Path) -> None:
    """Make every second animal a wolf, which has the keypoints of a fox."""

    def change(tree: dict[str, Any]) -> None:
        tree["categories"].append(tree["categories"][0] | {"id": 2, "name": "wolf"})
        for animal in tree["annotations"][::2]:
            animal["category_id"] = 2

    edit(folder / "animals", change)


def letter_pictures(folder: Path) -> None:
    """Begin the names of the pictures with four letters, by turns."""

    def change(tree: dict[str, Any]) -> None:
        for index, picture in enumerate(tree["images"]):
            old, picture["file_name"] = picture["file_name"], f"{'abcd'[index % 4]}_{picture['file_name']}"
            path = folder / "animals" / "images" / old
            path.rename(path.with_name(picture["file_name"]))

    edit(folder / "animals", change)


def move_animals(folder: Path) -> None:
    """Add a data root whose labels have one animal less."""
    shutil.copytree(folder / "animals", folder / "moved")
    edit(folder / "moved", lambda tree: tree["annotations"].pop())


def write_labelme(folder: Path) -> None:
    """Put LabelMe files of the first animals beside the pictures of both splits, and lists of some names."""
    for split in ("train", "val"):
        tree = json.loads((folder / "animals" / "annotations" / f"{split}.json").read_text())
        names = tree["categories"][0]["keypoints"]
        for picture in tree["images"]:
            animals = [animal for animal in tree["annotations"] if animal["image_id"] == picture["id"]]
            shapes = [
                {"label": name, "points": [animal["keypoints"][3 * index : 3 * index + 2]], "shape_type": "point"}
                for animal in animals[:1]
                for index, name in enumerate(names)
            ]
            _write_shapes(folder / "animals" / "images", picture, shapes)
        for name, listed in (("backwards", names[::-1]), ("all", names)):
            (folder / f"{name}.txt").write_text("\n".join(listed))


def draw_prompts(folder: Path) -> None:
    """Write two folders of LabelMe files with a rectangle for each picture of validation."""
    tree = json.loads((folder / "animals" / "annotations" / "val.json").read_text())
    for name, corner in (("first", 20), ("second", 40)):
        for picture in tree["images"]:
            box = [[corner, corner], [corner + 60, corner + 50]]
            (folder / name).mkdir(exist_ok=True)
            shutil.copy(folder / "animals" / "images" / picture["file_name"], folder / name)
            _write_shapes(folder / name, picture, [{"label": "fox", "points": box, "shape_type": "rectangle"}])


def _write_shapes(folder: Path, picture: dict[str, Any], shapes: list[dict[str, Any]]) -> None:
    name = picture["file_name"]
    size = {"imageHeight": picture["height"], "imageWidth": picture["width"]}
    tree = {"version": "5.0.0", "imagePath": name, "imageData": None, "shapes": shapes, "flags": {}, **size}
    (folder / name).with_suffix(".json").write_text(json.dumps(tree))


def square_pictures(folder: Path) -> None:
    """Draw square pictures, whose canvas is square."""
    shutil.rmtree(folder / "animals")
    write_foxes(folder / "animals", train=2, val=1, frames=2, size=(128, 128))


ONE_FILE = ("paths.label_path=annotations/train.json",)
MULTITASK = ("model.head=multitask", *AGAIN)
COORDINATES = (*AGAIN, "keypoints.loss.coord_weight=1.0")
PAIRS = (*AGAIN, "keypoints.loss.pair_weight=3.0")
SIDES = (*AGAIN, "keypoints.loss.side_weight=3.0")
CONVERTED = ("dataset.convert_to={format: coco, folder: FOLDER/copy}".replace("FOLDER", "{folder}"),)
UNGROUPED = ("keypoints.grouping=false",)
UPRIGHT = (*BRIGHT, "dataset.augmentations.rotate90=false", *AGAIN)  # the canvas is not square
CROPS = ("keypoints.instance_mode=per_instance",)
FLIPPED = ("inference.tta.horizontal_flip=true",)
VARIED_UNNAMED = (
    "dataset.augmentations={enable: true, rotate90: false}",
    "keypoints.automatic_rules=true",
)

KEYPOINTS: dict[str, Probe] = {
    "kind": Probe(looks.chosen, "distill", ("kind=keypoints",)),
    "paths.data_root": Probe(looks.read, "{folder}/moved", change=move_animals),
    "paths.label_path": Probe(looks.read, "annotations/train.json"),
    "paths.splits_dir": Probe(looks.stored, "{folder}/other", ONE_FILE),
    "dataset.splits.train_list": Probe(looks.listed, "{folder}/all.txt", (*ONE_FILE, *LISTS)),
    "dataset.splits.val_list": Probe(looks.listed, "{folder}/one.txt", (*ONE_FILE, *LISTS)),
    "dataset.splits.test_list": Probe(looks.listed, "{folder}/one.txt", (*ONE_FILE, *LISTS)),
    "dataset.convert_to.format": Probe(looks.converted, "yolo", CONVERTED),
    "dataset.convert_to.folder": Probe(looks.converted, "{folder}/there", CONVERTED),
    "dataset.convert_to.layout": Probe(looks.converted, "folders", CONVERTED),
    "dataset.convert_to.mode": Probe(looks.converted, "segmentation", CONVERTED),
    "model.head": Probe(looks.learnt, "relational", ("model.head_options={}",)),
    "model.head_options": Probe(looks.learnt, "{width: 8}"),
    "train.val_fraction": Probe(looks.read, "0.6", ONE_FILE),
    "evaluate.inputs": Probe(looks.scored, "images/val_001.png", ("evaluate.labels=annotations/val.json",)),
    "evaluate.labels": Probe(looks.scored, "annotations/train.json"),
    "evaluate.tta.horizontal_flip": Probe(looks.scored, "true", ("keypoints.min_score=0.0",)),
    "evaluate.tta.vertical_flip": Probe(looks.scored, "true", ("keypoints.min_score=0.0",)),
    "evaluate.tta.quarter_turns": Probe(looks.scored, "true", refuses="evaluate.tta.quarter_turns: the canvas"),
    "inference.input_tif": Probe(looks.predicted, "images/val_001.png", ("inference={checkpoint: '{model}'}",)),
    "inference.inputs": Probe(looks.predicted, "images/val_001.png"),
    "inference.tta.quarter_turns": Probe(looks.trained_and_predicted, "true", change=square_pictures),
    "keypoints.format": Probe(looks.read, "labelme", ("paths.label_path={folder}/animals",), change=write_labelme),
    "keypoints.names_file": Probe(
        looks.read,
        "{folder}/backwards.txt",
        ("paths.label_path=images", "keypoints.format=labelme", "keypoints.names_file={folder}/all.txt"),
        change=write_labelme,
    ),
    "keypoints.category": Probe(looks.read, "wolf", change=add_wolves),
    "keypoints.instance_mode": Probe(looks.read, "per_instance"),
    "keypoints.bbox_scale": Probe(looks.read, "2.0", CROPS),
    "keypoints.short_side": Probe(looks.read, "64"),
    "keypoints.max_instances": Probe(looks.read, "1", refuses="max_instances"),  # a limit: all it can do is refuse
    "keypoints.grouping": Probe(looks.learnt, "false"),
    "keypoints.split_by": Probe(looks.read, "stem", ONE_FILE, change=letter_pictures),
    "keypoints.mask_type": Probe(looks.learnt, "circle"),
    "keypoints.sigma": Probe(looks.learnt, "3.0"),
    "keypoints.sigma_end": Probe(looks.learnt, "0.7", AGAIN),
    "keypoints.augment_from": Probe(looks.learnt_anew, "0.9", UPRIGHT),
    "keypoints.augment_until": Probe(looks.learnt_anew, "0.1", UPRIGHT),
    "keypoints.loss.heatmap": Probe(looks.learnt, "mse"),
    "keypoints.loss.heatmap_weight": Probe(looks.learnt, "0.1"),
    "keypoints.loss.balance": Probe(looks.learnt, "true"),
    "keypoints.loss.dice_weight": Probe(looks.learnt, "0.1"),
    "keypoints.loss.coord_weight": Probe(looks.learnt, "2.0", COORDINATES),
    "keypoints.loss.coord_type": Probe(looks.learnt, "l2", COORDINATES),
    "keypoints.loss.coord_warmup": Probe(looks.learnt, "0.5", COORDINATES),
    "keypoints.loss.grouping_weight": Probe(looks.learnt, "3.0"),
    "keypoints.loss.objectness_weight": Probe(looks.learnt, "3.0", MULTITASK),
    "keypoints.loss.box_weight": Probe(looks.learnt, "3.0", MULTITASK),
    "keypoints.loss.mask_weight": Probe(looks.learnt, "3.0", MULTITASK),
    "keypoints.loss.aux_warmup": Probe(looks.learnt, "0.5", MULTITASK),
    "keypoints.loss.pair_weight": Probe(looks.learnt, "9.0", PAIRS),
    "keypoints.loss.pair_margin_px": Probe(looks.learnt, "8.0", PAIRS),
    "keypoints.loss.side_weight": Probe(looks.learnt, "9.0", SIDES),
    "keypoints.loss.side_margin": Probe(looks.learnt, "0.9", SIDES),
    "keypoints.canonicalise": Probe(
        looks.learnt_anew, "true", ("keypoints.automatic_rules=false",), change=exchange_sides
    ),
    "keypoints.automatic_rules": Probe(looks.read, "false", VARIED_UNNAMED, change=rename_points),
    "keypoints.decoder": Probe(looks.judged, "soft_argmax", UNGROUPED),
    "keypoints.min_score": Probe(looks.judged, "0.99"),
    "keypoints.nms_radius": Probe(looks.judged, "30.0"),
    "keypoints.tta_merge": Probe(looks.predicted, "max", FLIPPED),
    "keypoints.thresholds": Probe(looks.judged, "[3.0]"),
    "keypoints.oks_sigmas": Probe(looks.judged, "0.0001"),
    "keypoints.best_metric": Probe(looks.chosen_best, "error", ("train.epochs=3",)),
    "keypoints.formats": Probe(looks.predicted, "[labelme]"),
    "keypoints.prompts": Probe(
        looks.asked, "{folder}/second", (*CROPS, "keypoints.prompts={folder}/first"), change=draw_prompts
    ),
}
