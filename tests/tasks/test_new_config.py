"""Settings that are written after a look at labelled data: they run, and say what the data hold."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pyogrio
import pytest
import shapely
import yaml
from affine import Affine

import main
from config import parse_settings
from models.backbones.random_backbone import write_random_backbone
from tasks import kinds
from tasks.example import tiny_backbone
from tasks.keypoints.example import drawn_animals
from utils.formats.read import read_poses
from utils.formats.yolo.write import write_yolo
from utils.raster.files import write_raster
from utils.raster.vector_files import write_features

PLACE = {"crs": "EPSG:32631", "transform": Affine(2, 0, 500_000, 0, -2, 5_000_000)}


def picture(path: Path, size: tuple[int, int] = (96, 128), **more) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(len(path.name)).integers(0, 255, (*size, 3)).astype(np.uint8)
    write_raster(path, values, **more)


def draft(tmp_path: Path, source: Path, *words: str) -> dict:
    """Settings in a file whose name says nothing, moved to `new.yml`."""
    target = tmp_path / "config.yml"
    assert main.main([str(target), "--new-config", str(source), *words]) == 0
    return yaml.safe_load(target.rename(tmp_path / "new.yml").read_text())


def run(tmp_path: Path) -> None:
    """Run the file as it is written, but with a small backbone and one epoch, and results in a folder of the test."""
    paths = [f"paths.{name}={tmp_path}/{name}" for name in ("processed_dir", "runs_root", "splits_dir")]
    small = [f"model.backbone={tiny_backbone()}", "train.epochs=1"]
    assert main.main([str(tmp_path / "new.yml"), *paths, *small]) == 0


def refused(tmp_path: Path, capsys, source: Path, *words: str) -> str:
    assert main.main([str(tmp_path / "new.yml"), "--new-config", str(source), *words]) in (2, 3)
    assert not (tmp_path / "new.yml").exists()
    captured = capsys.readouterr()
    return captured.err + captured.out


def test_masks_in_colours_beside_photos(tmp_path, capsys):
    for name in ("a", "b", "c"):
        picture(tmp_path / "reef" / "images" / f"{name}.jpg")
        mask = np.zeros((96, 128, 3), np.uint8)
        mask[:48, :, 2], mask[80:, :64] = 255, (1, 2, 3)
        (tmp_path / "reef" / "masks").mkdir(exist_ok=True)
        write_raster(tmp_path / "reef" / "masks" / f"{name}.png", mask)
    tree = draft(tmp_path, tmp_path / "reef")
    assert "[0, 0, 0] 41.7 %, [0, 0, 255] 50 %, [1, 2, 3] 8.33 %" in capsys.readouterr().out
    assert tree["dataset"]["label_colours"] == {"black": [0, 0, 0], "blue": [0, 0, 255], "colour_010203": [1, 2, 3]}
    assert (tree["paths"]["raw_images_dir"], tree["paths"]["label_path"]) == ("images", "masks")
    assert list(tree["tasks"]) == ["reef"]
    run(tmp_path)


def test_the_task_is_named_as_the_settings_file(tmp_path):
    picture(tmp_path / "set" / "a.tif", **PLACE)
    write_features(tmp_path / "set" / "l.gpkg", [shapely.box(500_010, 4_999_900, 500_100, 4_999_980)], crs="EPSG:32631")
    target = tmp_path / "town.yml"
    assert main.main([str(target), "--new-config", str(tmp_path / "set")]) == 0
    assert list(yaml.safe_load(target.read_text())["tasks"]) == ["town"]


def test_a_folder_of_masks_alone_finds_the_pictures_beside_it(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / "set" / f"{name}.tif")
        (tmp_path / "set" / "gt").mkdir(exist_ok=True)
        write_raster(tmp_path / "set" / "gt" / f"{name}_lbl.png", np.uint8(np.eye(96, 128) * 255))
    tree = draft(tmp_path, tmp_path / "set" / "gt")
    assert tree["dataset"]["label_mapping"] == {0: "background", 255: "object"}
    assert tree["dataset"]["label_pattern"] == "{stem}_lbl.png"
    run(tmp_path)


def test_a_single_label_leaves_its_pattern_in_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "new/b", "new/c"):
        picture(tmp_path / f"{name}.tif")
        write_raster(tmp_path / f"{name}_gt.tif", np.uint8(np.eye(96, 128) * 255))
    (tmp_path / "set").mkdir()
    for name in ("a.tif", "a_gt.tif"):
        (tmp_path / name).rename(tmp_path / "set" / name)
    tree = draft(tmp_path, tmp_path / "set")
    assert (tree["paths"]["label_path"], tree["dataset"]["label_pattern"]) == ("a_gt.tif", "{stem}_gt.tif")
    run(tmp_path)
    [best] = tmp_path.glob("runs_root/*/*[0-9]/checkpoints/best.safetensors")
    named = [f"evaluate.checkpoint={best}", "evaluate.inputs=new", "evaluate.labels=new"]
    assert main.main(["evaluate.enable=true", "paths.runs_root=scores", *named]) == 0
    [path] = tmp_path.glob("scores/*/*[0-9]/evaluate_inputs/metrics.json")
    assert json.loads(path.read_text())["pictures"] == 2


def test_an_attribute_of_polygons_over_bands_in_single_files(tmp_path, capsys):
    folder = tmp_path / "coast"
    for band in ("B02", "B03", "B04", "B08"):
        folder.mkdir(exist_ok=True)
        write_raster(folder / f"{band}.tif", np.uint16(np.arange(96 * 128).reshape(96, 128) + ord(band[2])), **PLACE)
    boxes = [shapely.box(500_000, 4_999_900, 500_060, 5_000_000), shapely.box(500_100, 4_999_850, 500_250, 4_999_990)]
    names = ["sea", "1e3"] * 4
    write_features(folder / "l.geojson", boxes * 4, crs="EPSG:32631", id=list(range(8)), Type=names, source=["x"] * 8)
    tree = draft(tmp_path, folder)
    said = capsys.readouterr().out
    assert "8 features: Polygon 100 %" in said
    assert "with the share of each value in the area:" in said
    assert "Type: 1e3 77.8 %, sea 22.2 %" in said, "four of each, of 150 x 140 and 60 x 100 m"
    assert "1 attributes with one value, such as source" in said
    assert tree["dataset"]["band_files"] == ["B04.tif", "B03.tif", "B02.tif", "B08.tif"]
    assert (tree["dataset"]["label_attribute"], tree["dataset"]["classes"]) == ("Type", ["1e3", "sea"])
    run(tmp_path)


def test_layers_are_listed_and_one_is_chosen(tmp_path, capsys):
    picture(tmp_path / "set" / "a.tif", **PLACE)
    path = tmp_path / "set" / "l.gpkg"
    box = shapely.to_wkb(shapely.box(500_010, 4_999_900, 500_100, 4_999_980))
    for layer, kind in (("houses", "Polygon"), ("fields", "Polygon"), ("notes", None)):
        pyogrio.raw.write(
            path,
            None if kind is None else np.array([box], dtype=object),
            [np.array(["brick"], dtype=object)],
            ["wall"],
            layer=layer,
            geometry_type=kind,
            crs=None if kind is None else "EPSG:32631",
            append=path.exists(),
        )
    said = refused(tmp_path, capsys, path)
    assert "several layers: houses (Polygon); fields (Polygon); choose one: write dataset.label_layer=houses" in said
    tree = draft(tmp_path, path, "dataset.label_layer=fields")
    assert tree["dataset"]["label_layer"] == "fields"
    assert tree["dataset"]["label_mapping"] == {"*": "object"}
    run(tmp_path)


def test_what_cannot_be_learnt_is_said_for_each_kind(tmp_path, capsys):
    picture(tmp_path / "set" / "a.png")
    said = refused(tmp_path, capsys, tmp_path / "set")
    assert "no keypoints: " in said
    assert "no masks or vectors: " in said
    picture(tmp_path / "set" / "a_mask.png")
    assert "more than 254 values, so it is no mask of classes" in refused(tmp_path, capsys, tmp_path / "set")
    write_raster(tmp_path / "set" / "a_mask.png", np.zeros((96, 128), np.uint8))
    assert "hold only 0, so there is nothing to learn" in refused(tmp_path, capsys, tmp_path / "set")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none", "b.yml"], "expected DATA [PROFILE]; write CONFIG before --new-config"),
        (["small_data"], "kind segmentation has none"),
        (["train.epoch=3"], "train.epoch: unknown key, did you mean 'epochs'?"),
        (["dataset.label_layer=x"], "has no layer 'x'; it holds the layers l"),
    ],
)
def test_words_that_cannot_be_used_are_refused(tmp_path, capsys, words, message):
    picture(tmp_path / "set" / "a.tif", **PLACE)
    box = shapely.box(500_010, 4_999_900, 500_100, 4_999_980)
    write_features(tmp_path / "set" / "l.gpkg", [box], crs="EPSG:32631")
    assert message in refused(tmp_path, capsys, tmp_path / "set", *words)


def posed(folder: Path) -> Path:
    """Drawn animals whose pictures have COCO labels, and two of them LabelMe labels too."""
    shutil.copytree(drawn_animals(), folder)
    point = {"label": "nose", "points": [[5, 6]], "shape_type": "point"}
    for name in ("val_000", "val_001"):
        path = folder / "images" / f"{name}.json"
        path.write_text(json.dumps({"imagePath": f"{name}.png", "shapes": [point]}))
    return folder


def test_two_label_formats_in_one_folder_are_both_named_with_the_one_that_is_read(tmp_path, capsys):
    folder = posed(tmp_path / "set")
    tree = draft(tmp_path, folder)
    said = capsys.readouterr().out
    what = "holds labels of several formats; coco is read, labelme (such as images/val_000.json) is not"
    assert said.count(what) == 1
    assert what in (tmp_path / "new.yml").read_text()
    assert tree["tasks"]["set"]["keypoints"]["format"] == "coco"
    (tmp_path / "new.yml").unlink()
    draft(tmp_path, folder, "keypoints.format=labelme", "keypoints.short_side=96")
    assert "labelme is read, coco (such as annotations/" in capsys.readouterr().out
    keypoints = parse_settings((tmp_path / "new.yml").read_text(), (), kinds()).shared.keypoints
    assert (keypoints.format, keypoints.short_side) == ("labelme", 96)


@pytest.mark.parametrize(("words", "profile"), [([], None), (["none"], None), (["baseline"], "baseline")])
def test_no_profile_is_taken_that_was_not_named(tmp_path, capsys, words, profile):
    [task] = draft(tmp_path, drawn_animals() / "annotations", *words)["tasks"].values()
    assert task.get("profile") == profile
    suggested = "the profile small_data is made for them; to take it, write small_data after the data"
    assert (suggested in capsys.readouterr().out) == (words != ["none"])


def test_small_animals_get_words_that_are_taken(tmp_path, capsys):
    folder = tmp_path / "set"
    shutil.copytree(drawn_animals(), folder)
    for path in (folder / "images").iterdir():
        cv2.imwrite(str(path), np.pad(cv2.imread(str(path)), ((0, 384), (0, 512), (0, 0))))
    for path in (folder / "annotations").iterdir():
        tree = json.loads(path.read_text())
        for image in tree["images"]:
            image |= {"height": 480, "width": 640}
        path.write_text(json.dumps(tree))
    draft(tmp_path, folder / "annotations")
    said = capsys.readouterr().out
    pattern = r"write (keypoints.instance_mode=\S+) after the command; without boxes (keypoints.short_side=\d+),"
    words = re.search(pattern, said)
    assert words is not None, said
    (tmp_path / "new.yml").unlink()
    draft(tmp_path, folder / "annotations", *words.groups())
    [settings] = parse_settings((tmp_path / "new.yml").read_text(), (), kinds()).tasks.values()
    assert settings.keypoints.instance_mode == "per_instance"
    assert 518 < settings.keypoints.short_side <= 2 * 518
    assert "with so few pictures is seldom enough" in said


@pytest.mark.parametrize(("patch", "side"), [(14, 518), (16, 512), (8, 520)])
def test_the_short_side_is_whole_patches_of_the_backbone(tmp_path, patch, side):
    write_random_backbone(tmp_path / "backbone", "dinov2", width=8, depth=2, heads=2, patch_size=patch, seed=0)
    backbone = f"model.backbone={tmp_path / 'backbone'}"
    [task] = draft(tmp_path, drawn_animals() / "annotations", backbone)["tasks"].values()
    assert task["keypoints"]["short_side"] == side
    (tmp_path / "new.yml").unlink()
    [name] = draft(tmp_path, drawn_animals() / "annotations", backbone)["tasks"]
    for setting in ("keypoints.short_side=100", f"tasks.{name}.keypoints.short_side=100"):
        (tmp_path / "new.yml").unlink()
        draft(tmp_path, drawn_animals() / "annotations", backbone, setting)
        [settings] = parse_settings((tmp_path / "new.yml").read_text(), (), kinds()).tasks.values()
        assert settings.keypoints.short_side == 100, "what a person chooses stays"


def test_shares_of_polygons_are_of_their_area_and_of_lines_of_their_number(tmp_path, capsys):
    picture(tmp_path / "set" / "a.tif", **PLACE)
    boxes = [shapely.box(500_000, 4_999_900, 500_000 + side, 4_999_900 + side) for side in (10, 10, 10, 90)]
    write_features(tmp_path / "set" / "l.gpkg", boxes, crs="EPSG:32631", kind=["house"] * 3 + ["field"])
    tree = draft(tmp_path, tmp_path / "set")
    said = capsys.readouterr().out
    assert "with the share of each value in the area:" in said
    assert "kind: field 96.4 %, house 3.57 %" in said
    assert "some classes are rare" in said, "of the area, though most features are houses"
    assert tree["train"]["loss"] == {"class_weights": "auto"}
    (tmp_path / "new.yml").unlink()
    (tmp_path / "set" / "l.gpkg").unlink()
    lines = [shapely.LineString([(500_000, 4_999_900), (500_000 + side, 4_999_950)]) for side in (10, 10, 10, 90)]
    write_features(tmp_path / "set" / "l.gpkg", lines, crs="EPSG:32631", kind=["path"] * 3 + ["road"])
    draft(tmp_path, tmp_path / "set")
    said = capsys.readouterr().out
    assert "with the share of each value in the features, as some have no area:" in said
    assert "kind: path 75 %, road 25 %" in said


def collared(folder: Path) -> Path:
    """A placed scene of 600 x 600 pixels, its right third white, with twelve small polygons of two classes."""
    values = np.random.default_rng(0).integers(5, 250, (600, 600, 3)).astype(np.uint8)
    values[:, 400:] = 255
    folder.mkdir()
    write_raster(folder / "a.tif", values, **PLACE)
    corners = [(500_000 + 200 * x + 20, 5_000_000 - 300 * y - 20) for x in range(4) for y in range(3)]
    spots = [shapely.box(x, y - 8, x + 8, y) for x, y in corners]
    write_features(folder / "l.gpkg", spots, crs="EPSG:32631", kind=["reed", "sand"] * 6)
    return folder


@pytest.mark.parametrize(("patch", "side"), [(16, 96), (14, 84)])
def test_few_labels_in_a_scene_with_a_collar_get_small_windows_and_nodata(tmp_path, capsys, patch, side):
    write_random_backbone(tmp_path / "backbone", "dinov2", width=8, depth=2, heads=2, patch_size=patch, seed=0)
    tree = draft(tmp_path, collared(tmp_path / "set"), f"model.backbone={tmp_path / 'backbone'}")
    said = capsys.readouterr().out
    assert "192 of 360000 pixels are labelled (0.053 %): reed 96, sand 96; 12 windows of" in said
    assert "33 % of the pixels are exactly 255 in all bands and reach the border" in said
    assert said.count("pixels are labelled") == 1
    assert (tree["dataset"]["nodata"], tree["dataset"]["splits"]) == (255, {"block_tiles": 1})
    assert tree["prepare"]["tile_size"] == side
    run(tmp_path)
    lists = {path.stem: path.read_text().split() for path in (tmp_path / "splits_dir").rglob("*.txt")}
    assert sum(len([name for name in names if "#" not in name]) for names in lists.values()) >= 12


def test_what_a_person_chooses_of_windows_and_nodata_stays(tmp_path):
    tree = draft(tmp_path, collared(tmp_path / "set"), "prepare.tile_size=200", "dataset.nodata=[]")
    assert (tree["prepare"]["tile_size"], tree["dataset"]["nodata"]) == (200, [])


@pytest.mark.parametrize("placed", [True, False])
def test_white_that_masks_call_a_class_or_photos_hold_is_no_nodata_but_told(tmp_path, capsys, placed):
    values = np.random.default_rng(0).integers(5, 250, (96, 128, 3)).astype(np.uint8)
    values[:, 90:] = 255
    mask = np.full((96, 128), 2 if placed else 255, np.uint8)
    mask[:, :40], mask[:, 40:60] = 0, 1
    for folder, array in (("images", values), ("masks", mask)):
        (tmp_path / "set" / folder).mkdir(parents=True)
        for name in "ab":
            write_raster(tmp_path / "set" / folder / f"{name}.tif", array, **(PLACE if placed else {}))
    tree = draft(tmp_path, tmp_path / "set")
    assert "nodata" not in tree["dataset"]
    said = capsys.readouterr().out
    assert "30 % of the pixels are exactly 255 in all bands" in said
    assert "they are read as data; if they hold nothing, set dataset.nodata: 255" in said


def test_a_run_that_finds_the_format_itself_says_what_it_leaves_out(tmp_path, caplog):
    sets = read_poses(posed(tmp_path / "set"))
    assert "coco is read, labelme (such as images/val_000.json) is not; to read those, set the format" in caplog.text
    assert sum(len(part.pictures) for part in sets.values()) == 12
    caplog.clear()
    read_poses(tmp_path / "set", "coco")
    assert not caplog.text


def test_rows_of_yolo_beside_labelme_files_are_named_and_can_be_taken(tmp_path, capsys):
    folder = tmp_path / "set"
    write_yolo(read_poses(drawn_animals()), folder)
    spec = (folder / "data.yaml").rename(tmp_path / "data.yaml")
    point = {"label": "nose", "points": [[5, 6]], "shape_type": "point"}
    for path in sorted((folder / "images").rglob("*.png")):
        shape = {"imagePath": str(path), "shapes": [point]}
        (folder / "labels" / path.relative_to(folder / "images")).with_suffix(".json").write_text(json.dumps(shape))
    tree = draft(tmp_path, folder / "labels")
    text, said = (tmp_path / "new.yml").read_text(), capsys.readouterr().out
    rows = min((folder / "labels").rglob("*.txt")).relative_to(folder / "labels")
    what = f"labelme is read, yolo (such as {rows}) is not; to read those, write a data.yaml with names, train"
    assert what in said
    assert what in text
    assert tree["tasks"]["set"]["keypoints"]["format"] == "labelme"
    (tmp_path / "new.yml").unlink()
    said = refused(tmp_path, capsys, folder / "labels", "keypoints.format=yolo")
    assert "name the folder that holds images and labels, or its data.yaml" in said, "not a draft of another kind"
    spec.rename(folder / "data.yaml")
    draft(tmp_path, folder / "data.yaml")
    assert "12 pictures, 0 of them without an animal; 22 animals" in capsys.readouterr().out


def test_masks_beside_keypoints_are_named(tmp_path, capsys):
    folder = tmp_path / "set"
    shutil.copytree(drawn_animals(), folder)
    (folder / "masks").mkdir()
    for path in (folder / "images").iterdir():
        write_raster(folder / "masks" / path.name, np.eye(96, 128, dtype=np.uint8))
    assert list(draft(tmp_path, folder)["tasks"]) == ["set"]
    assert "12 masks or vectors, such as masks/" in (said := capsys.readouterr().out)
    assert "are not used: these settings are for keypoints" in said


def test_new_config_writes_the_settings_file_and_nothing_else(tmp_path, monkeypatch):
    picture(tmp_path / "set" / "a.tif", **PLACE)
    write_features(tmp_path / "set" / "l.gpkg", [shapely.box(500_010, 4_999_900, 500_100, 4_999_980)], crs="EPSG:32631")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main.main(["town.yml", "--new-config", str(tmp_path / "set")]) == 0
    assert [path.name for path in Path().iterdir()] == ["town.yml"]


def test_the_format_of_the_labels_is_named_in_log_and_file(tmp_path, capsys):
    picture(tmp_path / "set" / "images" / "a.jpg")
    (tmp_path / "set" / "masks").mkdir()
    write_raster(tmp_path / "set" / "masks" / "a.png", np.uint8(np.eye(96, 128) * 255))
    sources = {
        "animals": (drawn_animals() / "annotations", "labels for keypoints, read as coco"),
        "masks": (tmp_path / "set", "labels for segmentation, read as masks, their values (.png)"),
    }
    for name, (source, line) in sources.items():
        target = tmp_path / f"{name}.yml"
        assert main.main([str(target), "--new-config", str(source)]) == 0
        assert f"[INFO] data: {line}\n" in capsys.readouterr().out
        assert f"\n# {line}\n" in target.read_text()


@pytest.mark.parametrize(("words", "suggested"), [((), True), (("small_data",), False), (("none",), False)])
def test_a_profile_that_is_chosen_is_not_suggested(tmp_path, capsys, words, suggested):
    draft(tmp_path, drawn_animals() / "annotations", *words)
    said = capsys.readouterr().out
    assert ("suggestion: few pictures (12): the profile small_data is made for them" in said) == suggested


def test_keypoints_without_names_are_told(tmp_path, capsys):
    folder = tmp_path / "flies"
    for name in ("a", "b", "c"):
        picture(folder / "images" / f"{name}.png")
        (folder / "labels").mkdir(exist_ok=True)
        (folder / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.4 0.4 0.4 0.4 2 0.6 0.6 2\n")
    keys = "path: .\ntrain: images\nnames: [fly]\nkpt_shape: [2, 3]\n"
    line = (
        "the labels give the keypoints no names but the numbers 0 to 1, which results bear too; name them in kpt_names"
    )
    for names, told in (("", True), ("kpt_names: {fly: [head, tail]}\n", False)):
        (folder / "data.yaml").write_text(keys + names)
        tree = draft(tmp_path, folder, "none")
        assert (line in capsys.readouterr().out) == told
        assert tree["paths"]["label_path"] == "data.yaml"


def test_a_set_of_masks_with_classes_txt_is_drafted_with_its_names_and_splits(tmp_path, capsys):
    generator = np.random.default_rng(0)
    for place in range(8):
        split = ("train", "val")[place % 2]
        for name in ("data", "labels"):
            (tmp_path / "set" / split / name).mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 255, (64, 96, 3), dtype=np.uint8)
        mask = np.repeat(generator.integers(0, 2, (8, 96), dtype=np.uint8), 8, axis=0)
        assert cv2.imwrite(str(tmp_path / "set" / split / "data" / f"{place}.jpg"), pixels)
        assert cv2.imwrite(str(tmp_path / "set" / split / "labels" / f"{place}.png"), mask)
    (tmp_path / "set" / "classes.txt").write_text("sand\nPorites/massive\n")
    assert main.main([str(tmp_path / "reef.yml"), "--new-config", str(tmp_path / "set")]) == 0
    said = capsys.readouterr().out
    assert "data: labels for segmentation, read as masks with classes.txt (.png)" in said
    assert "2 classes: sand, Porites/massive" in said
    settings = parse_settings((tmp_path / "reef.yml").read_text(), (), kinds()).tasks["reef"]
    assert (settings.dataset.format, settings.dataset.classes) == ("masks", ["sand", "Porites/massive"])
