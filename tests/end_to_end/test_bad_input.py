"""What a careless or malicious user gives: one clear line each, the right exit code, and nothing of his is lost."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import main
from models.backbones.random_backbone import write_random_backbone
from tasks.example import SETTINGS, tiny_backbone, write_pictures
from tasks.phases.train import Training
from utils.media.videos import VideoWriter
from utils.raster.files import write_raster
from utils.raster.vector_files import write_features
from utils.runtime.checkpoints import load_checkpoint, save_checkpoint

Tree = dict[str, dict]
PHASES = ("prepare", "verify", "train", "evaluate", "inference")
GROUND = {"crs": "EPSG:32632", "transform": (0.5, 0, 500000, 0, -0.5, 5500000)}


def make_settings(folder: Path) -> Tree:
    """The example's pictures, and settings that enable all phases on them."""
    write_pictures(folder)
    tree = yaml.safe_load(SETTINGS.format(folder=folder, backbone=tiny_backbone()))
    tree["prepare"] |= {"tile_size": 16, "reserve_gb": 0.0}
    tree["model"]["head"] = "linear"
    tree["train"]["optimizer"] = "adamw"
    (folder / "new").mkdir(exist_ok=True)
    shutil.copy(folder / "pictures" / "scene_0.tif", folder / "new" / "scene.tif")
    tree["inference"]["inputs"] = str(folder / "new" / "scene.tif")
    for phase in PHASES:
        tree.setdefault(phase, {})["enable"] = True
    return tree


def call(folder: Path, tree: Tree | str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str], str]:
    """Run main.py in this process; gives exit code, lines of errors and all that was said."""
    path = folder / "config.yml"
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
    capsys.readouterr()
    code = main.main([str(path)])
    captured = capsys.readouterr()
    said = captured.out + captured.err
    return code, [line for line in said.splitlines() if line.startswith("[ERROR]")], said


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("trained")
    tree = make_settings(folder)
    tree["logging"] = {"level": "error"}
    (folder / "config.yml").write_text(yaml.safe_dump(tree))
    assert main.main([str(folder / "config.yml")]) == 0
    return folder


def checkpoint_of(trained: Path) -> Path:
    return trained / "runs" / "segmentation" / "latest" / "checkpoints" / "best.safetensors"


def only_inference(tree: Tree, checkpoint: Path, trained: Path) -> None:
    for phase in PHASES:
        tree[phase]["enable"] = phase == "inference"
    tree["paths"]["processed_dir"] = str(trained / "store")
    tree["inference"]["checkpoint"] = str(checkpoint)


# ---------------------------------------------------------------------------------------------------------------------
# The mistakes; each changes the files in a folder and the settings


def unknown_key(folder: Path, tree: Tree, trained: Path) -> None:
    tree["train"]["epochz"] = 3


def wrong_type(folder: Path, tree: Tree, trained: Path) -> None:
    tree["train"]["epochs"] = "many"


def missing_file(folder: Path, tree: Tree, trained: Path) -> None:
    tree["paths"]["raw_images_dir"] = str(folder / "gone.tif")


def raster_without_crs(folder: Path, tree: Tree, trained: Path) -> None:
    (folder / "pictures" / "scene_0.tif").unlink()
    write_raster(folder / "pictures" / "scene_0.tif", np.zeros((64, 64, 3), np.uint8))


def use_outlines(folder: Path, tree: Tree, x: float = 500000, crs: str = "EPSG:32632", kind: str = "dark") -> None:
    import shapely

    path = folder / "labels.geojson"
    write_features(path, [shapely.box(x, 5499968, x + 16, 5500000)], crs=crs, kind=[kind])
    tree["paths"]["label_path"] = str(path)
    tree["dataset"]["label_attribute"] = "kind"


def labels_far_away(folder: Path, tree: Tree, trained: Path) -> None:
    use_outlines(folder, tree, x=900000)


def degrees_that_are_metres(folder: Path, tree: Tree, trained: Path) -> None:
    use_outlines(folder, tree, crs="EPSG:4326")


def unknown_attribute(folder: Path, tree: Tree, trained: Path) -> None:
    use_outlines(folder, tree)
    tree["dataset"]["label_attribute"] = "sort"


def unknown_attribute_value(folder: Path, tree: Tree, trained: Path) -> None:
    use_outlines(folder, tree, kind="drak")


def features_without_geometry(folder: Path, tree: Tree, trained: Path) -> None:
    use_outlines(folder, tree)
    text = '{"type": "Feature", "properties": {"kind": "dark"}, "geometry": null}'
    (folder / "labels.geojson").write_text(f'{{"type": "FeatureCollection", "features": [{text}]}}')


def label_value_outside(folder: Path, tree: Tree, trained: Path) -> None:
    label = np.zeros((64, 64), np.uint8)
    label[40, 40] = 7
    write_raster(folder / "labels" / "scene_0.tif", label, **GROUND)


def empty_folder(folder: Path, tree: Tree, trained: Path) -> None:
    shutil.rmtree(folder / "pictures")
    (folder / "pictures").mkdir()


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def truncated_tiff(folder: Path, tree: Tree, trained: Path) -> None:
    cut(folder / "pictures" / "scene_0.tif", 6000)


def png_of(height: int, width: int) -> bytes:
    """A picture that promises more than it holds."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def huge_header(folder: Path, tree: Tree, trained: Path) -> None:
    (folder / "pictures" / "scene_0.tif").unlink()
    (folder / "pictures" / "scene_0.png").write_bytes(png_of(200_000, 200_000))


def disk_too_small(folder: Path, tree: Tree, trained: Path) -> None:
    tree["prepare"]["reserve_gb"] = 1e9


def other_classes(folder: Path, tree: Tree, trained: Path) -> None:
    only_inference(tree, checkpoint_of(trained), trained)
    tree["dataset"]["classes"] = ["light", "dark"]


def other_scale(folder: Path, tree: Tree, trained: Path) -> None:
    only_inference(tree, checkpoint_of(trained), trained)
    tree["dataset"]["scale"] = 0.5


def other_percentiles(folder: Path, tree: Tree, trained: Path) -> None:
    only_inference(tree, checkpoint_of(trained), trained)
    tree["dataset"]["percentiles"] = [10, 90]


def other_range_of_values(folder: Path, tree: Tree, trained: Path) -> None:
    only_inference(tree, checkpoint_of(trained), trained)
    tree["dataset"]["value_range"] = [0, 100]


def other_tile_size(folder: Path, tree: Tree, trained: Path) -> None:
    only_inference(tree, checkpoint_of(trained), trained)
    tree["prepare"]["tile_size"] = 32


def other_layers(folder: Path, tree: Tree, trained: Path) -> None:
    only_inference(tree, checkpoint_of(trained), trained)
    tree["model"]["layers"] = [0]


def other_number_of_classes(folder: Path, tree: Tree, trained: Path) -> None:
    only_inference(tree, checkpoint_of(trained), trained)
    del tree["dataset"]["classes"]
    tree["model"]["num_classes"] = 5


def other_head(folder: Path, tree: Tree, trained: Path) -> None:
    only_inference(tree, checkpoint_of(trained), trained)
    tree["model"]["head"] = "dpt"


def truncated_checkpoint(folder: Path, tree: Tree, trained: Path) -> None:
    shutil.copy(checkpoint_of(trained), folder / "best.safetensors")
    cut(folder / "best.safetensors", 500)
    only_inference(tree, folder / "best.safetensors", trained)


def foreign_weights(folder: Path, tree: Tree, trained: Path) -> None:
    only_inference(tree, Path(tiny_backbone()) / "model.safetensors", trained)


def weights_that_are_no_numbers(folder: Path, tree: Tree, trained: Path) -> None:
    checkpoint = load_checkpoint(checkpoint_of(trained))
    next(value for value in checkpoint.tensors.values() if value.is_floating_point()).fill_(float("nan"))
    save_checkpoint(folder / "best.safetensors", checkpoint.tensors, checkpoint.description)
    only_inference(tree, folder / "best.safetensors", trained)


def checkpoint_with_a_flipped_byte(folder: Path, tree: Tree, trained: Path) -> None:
    content = bytearray(checkpoint_of(trained).read_bytes())
    content[-1] ^= 1
    (folder / "best.safetensors").write_bytes(content)
    only_inference(tree, folder / "best.safetensors", trained)


def other_backbone(folder: Path, tree: Tree, trained: Path) -> None:
    write_random_backbone(folder / "other", family="dinov2", width=8, depth=2, heads=2, patch_size=4, seed=1)
    only_inference(tree, checkpoint_of(trained), trained)
    tree["model"]["backbone"] = str(folder / "other")


def pickled_checkpoint(folder: Path, tree: Tree, trained: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, folder / "best.safetensors")
    only_inference(tree, folder / "best.safetensors", trained)


def pickled_backbone(folder: Path, tree: Tree, trained: Path) -> None:
    shutil.copytree(tiny_backbone(), folder / "other")
    (folder / "other" / "model.safetensors").rename(folder / "other" / "pytorch_model.bin")
    tree["model"]["backbone"] = str(folder / "other")


def unknown_option_of_the_head(folder: Path, tree: Tree, trained: Path) -> None:
    tree["model"]["head_options"] = {"dropuot": 0.1}


def weights_for_other_classes(folder: Path, tree: Tree, trained: Path) -> None:
    tree["train"]["loss"] = {"class_weights": [1.0, 2.0, 3.0]}


def nothing_to_learn(folder: Path, tree: Tree, trained: Path) -> None:
    tree["train"]["loss"] = {"ce_weight": 0.0, "dice_weight": 0.0}


def other_bands(folder: Path, tree: Tree, trained: Path) -> None:
    only_inference(tree, checkpoint_of(trained), trained)
    write_raster(folder / "five.tif", np.zeros((64, 64, 5), np.uint8), **GROUND)
    tree["inference"]["inputs"] = str(folder / "five.tif")


def sixteen_bits_for_a_model_of_eight(folder: Path, tree: Tree, trained: Path) -> None:
    only_inference(tree, checkpoint_of(trained), trained)
    write_raster(folder / "deep.tif", np.full((64, 64, 3), 9000, np.uint16), **GROUND)
    tree["inference"]["inputs"] = str(folder / "deep.tif")


def picture_at_no_place(folder: Path, tree: Tree, trained: Path) -> None:
    only_inference(tree, checkpoint_of(trained), trained)
    nowhere = {"crs": "EPSG:32632", "transform": (float("nan"), 0, 500000, 0, -0.5, 5500000)}
    write_raster(folder / "lost.tif", np.zeros((64, 64, 3), np.uint8), **nowhere)
    tree["inference"] |= {"inputs": str(folder / "lost.tif"), "polygons": {"enable": True}}


def eight_and_sixteen_bits(folder: Path, tree: Tree, trained: Path) -> None:
    (folder / "pictures" / "scene_0.tif").unlink()
    write_raster(folder / "pictures" / "scene_0.tif", np.full((64, 64, 3), 9000, np.uint16), **GROUND)


def list_without_validation(folder: Path, tree: Tree, trained: Path) -> None:
    del tree["train"]["val_fraction"]
    for name, ids in (("train", "scene_0\n"), ("val", "# nothing yet\n")):
        (folder / f"{name}.txt").write_text(ids)
        tree["dataset"]["splits"][f"{name}_list"] = str(folder / f"{name}.txt")


def list_of_bytes(folder: Path, tree: Tree, trained: Path) -> None:
    list_without_validation(folder, tree, trained)
    (folder / "val.txt").write_bytes(b"\xff\xfe\x00")


def store_in_place_of_a_file(folder: Path, tree: Tree, trained: Path) -> None:
    (folder / "store").write_text("")


def runs_in_place_of_a_file(folder: Path, tree: Tree, trained: Path) -> None:
    (folder / "runs").write_text("")


def task_that_leaves_its_folder(folder: Path, tree: Tree, trained: Path) -> None:
    tree["tasks"] = {"../../elsewhere": {}}


def many_pictures_one_name(folder: Path, tree: Tree, trained: Path) -> None:
    tree["inference"] |= {"inputs": str(folder / "pictures"), "output_tif": str(folder / "map.tif")}


def picture_as_output(folder: Path, tree: Tree, trained: Path) -> None:
    tree["inference"]["output_tif"] = tree["inference"]["inputs"]


def label_as_output(folder: Path, tree: Tree, trained: Path) -> None:
    tree["inference"]["output_tif"] = str(folder / "labels" / "scene_0.tif")


def one_colour_for_two_classes(folder: Path, tree: Tree, trained: Path) -> None:
    tree["dataset"]["label_colours"] = {"dark": [0, 0, 9], "light": [0, 0, 9]}


def rename_a_picture(folder: Path, name: str) -> None:
    for place in ("pictures", "labels"):
        (folder / place / "scene_0.tif").rename(folder / place / name)


def name_of_two_lines(folder: Path, tree: Tree, trained: Path) -> None:
    rename_a_picture(folder, "a\nb.tif")


def name_that_begins_with_a_blank(folder: Path, tree: Tree, trained: Path) -> None:
    rename_a_picture(folder, " a.tif")


def name_that_is_no_utf8(folder: Path, tree: Tree, trained: Path) -> None:
    rename_a_picture(folder, "gr\udcfcn.tif")


def name_to_predict_that_is_no_utf8(folder: Path, tree: Tree, trained: Path) -> None:
    (folder / "new" / "scene.tif").rename(folder / "new" / "gr\udcfcn.tif")
    tree["inference"]["inputs"] = str(folder / "new")


def own_file_beside_the_map(folder: Path, tree: Tree, name: str) -> None:
    (folder / name).write_bytes(b"mine")
    tree["inference"] |= {"output_tif": str(folder / "area.tif"), "confidence": True, "polygons": {"enable": True}}


def polygons_of_somebody(folder: Path, tree: Tree, trained: Path) -> None:
    own_file_beside_the_map(folder, tree, "area.gpkg")


def style_of_somebody(folder: Path, tree: Tree, trained: Path) -> None:
    own_file_beside_the_map(folder, tree, "area.qml")


def confidence_of_somebody(folder: Path, tree: Tree, trained: Path) -> None:
    own_file_beside_the_map(folder, tree, "area_confidence.tif")


MISTAKES: list[tuple[Callable[[Path, Tree, Path], None], int, str]] = [
    # settings: found before anything is written
    (unknown_key, 2, "train.epochz: unknown key, did you mean 'epochs'?"),
    (wrong_type, 2, "train.epochs: expected int, got str 'many'"),
    (nothing_to_learn, 2, "train.loss: ce_weight and dice_weight are both 0"),
    (task_that_leaves_its_folder, 2, "expected a name of letters"),
    (unknown_option_of_the_head, 2, "model.head_options.dropuot: unknown key, did you mean 'dropout'?"),
    (weights_for_other_classes, 2, "train.loss.class_weights: 3 weights for 2 classes"),
    (many_pictures_one_name, 2, "inference.output_tif: one name for 2 pictures"),
    (picture_as_output, 2, "new/scene.tif: already exists and was not written by inference"),
    (label_as_output, 2, "labels/scene_0.tif: already exists and was not written by inference"),
    (one_colour_for_two_classes, 2, "dataset.label_colours: light and dark have the same colour [0, 0, 9]; give each"),
    (polygons_of_somebody, 2, "area.gpkg: already exists and was not written by inference"),
    (style_of_somebody, 2, "area.qml: already exists and was not written by inference"),
    (confidence_of_somebody, 2, "area_confidence.tif: already exists and was not written by inference"),
    # pictures
    (missing_file, 3, "gone.tif: no such file"),
    (empty_folder, 3, "no scene in"),
    (truncated_tiff, 3, "scene_0.tif: truncated"),
    (huge_header, 3, "scene_0.png: 200000 x 200000 pixels"),
    (name_of_two_lines, 3, "picture 'a\\nb': expected a name in UTF-8 of one line"),
    (name_that_begins_with_a_blank, 3, "picture ' a': expected a name in UTF-8 of one line, without blanks around it"),
    (name_that_is_no_utf8, 3, "gr\\udcfcn: its name is not UTF-8, which is expected; rename the file"),
    (name_to_predict_that_is_no_utf8, 3, "gr\\udcfcn.tif: its name is not UTF-8, which is expected; rename the file"),
    (raster_without_crs, 3, "has no CRS; give the picture its CRS"),
    (sixteen_bits_for_a_model_of_eight, 3, "deep.tif: holds uint16, but the model was trained on 8-bit values as they"),
    (picture_at_no_place, 3, "lost.tif: its geotransform (nan, 0, "),
    (eight_and_sixteen_bits, 3, "scene_1.tif has 8-bit, "),
    (other_bands, 3, "five.tif: 5 bands to read, but the other pictures have 3"),
    # labels
    (labels_far_away, 3, "labels.geojson: no common ground"),
    (degrees_that_are_metres, 3, "which are no degrees; the numbers would fit the scene's own EPSG:"),
    (unknown_attribute, 3, "labels.geojson: no attribute 'sort'; fields: kind"),
    (unknown_attribute_value, 3, "value drak"),
    (features_without_geometry, 3, "holds no features with finite coordinates"),
    (label_value_outside, 3, "scene_0.tif: value 7"),
    # lists, folders, disks
    (list_without_validation, 3, "val.txt: the list of the val split names no picture"),
    (list_of_bytes, 3, "val.txt: not a text file in UTF-8"),
    (store_in_place_of_a_file, 2, "store: a file, expected a folder; name another one"),
    (runs_in_place_of_a_file, 2, "runs: a file, expected a folder; name another one"),
    (disk_too_small, 3, "store: 110 records need"),
    # weights
    (pickled_backbone, 3, "only pickled weights (pytorch_model.bin)"),
    (other_classes, 3, "holds classes ['dark', 'light'], but dataset.classes asks for ['light', 'dark']"),
    (other_scale, 3, "holds scale 1.0, but dataset.scale asks for 0.5"),
    (other_percentiles, 3, "holds percentiles [1.0, 99.0], but dataset.percentiles asks for [10.0, 90.0]"),
    (other_range_of_values, 3, "holds value_range None, but dataset.value_range asks for [0.0, 100.0]"),
    (other_tile_size, 3, "holds tile_size 16, but prepare.tile_size asks for 32"),
    (other_layers, 3, "holds layers [0, 1], but model.layers asks for [0]"),
    (other_number_of_classes, 3, "holds num_classes 2, but model.num_classes asks for 5"),
    (other_head, 3, "holds head 'linear', but model.head asks for 'dpt'"),
    (truncated_checkpoint, 3, "best.safetensors: truncated or not a safetensors file"),
    (foreign_weights, 3, "without Dinolith's description"),
    (weights_that_are_no_numbers, 3, "weights hold NaN or infinity"),
    (
        checkpoint_with_a_flipped_byte,
        3,
        "its tensors or its description are not those that were written",
    ),
    (other_backbone, 3, "give that backbone in model.backbone"),
    (pickled_checkpoint, 3, "a pickle (torch.save), which could run any program when loaded"),
]


@pytest.mark.parametrize(("mistake", "code", "words"), MISTAKES, ids=[mistake.__name__ for mistake, _, _ in MISTAKES])
def test_a_mistake_gives_one_line_and_its_exit_code(mistake, code, words, trained, tmp_path, capsys):
    tree = make_settings(tmp_path)
    tree["dataset"]["splits"] = {"block_tiles": 2}
    mistake(tmp_path, tree, trained)
    brought = [path for name in ("pictures", "labels", "new") for path in (tmp_path / name).glob("*.tif")]
    before = {path: path.read_bytes() for path in brought}
    ended, errors, said = call(tmp_path, tree, capsys)
    assert ended == code, said
    assert len(errors) == 1, said
    assert words in errors[0]
    assert "Traceback" not in said
    assert "train: finished" not in said, "nothing was computed in vain"
    assert {path: path.read_bytes() for path in before} == before, "what the user brought is as it was"


# ---------------------------------------------------------------------------------------------------------------------
# Files of settings that are none


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train:\n\tepochs: 3\n", "line 2: not valid YAML"),
        ("- a\n- b\n", "expected sections such as 'train:', got list"),
        ("? {a: b}\n: 3\n", "line 1: a key must be a word, a number or a list of them, got a section"),
        ("? [a, [b]]\n: 3\n", "line 1: a key must be a word, a number or a list of them, got a section or a nested"),
        ("dataset: {label_mapping: {[7, 8]: a, 8: b}}", "line 1: duplicate key '8' in one section; keep one of them"),
        ("1: 3\n", "1: expected a word as key, got int 1"),
        ("a: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("train: {epochs: " + "9" * 5000 + "}\n", "train.epochs: expected int, got float inf"),
        ("train: {adamw_lr: .inf}\n", "train.adamw_lr: expected a finite number, got float inf"),
        ("paths: {raw_images_dir: ''}\n", "paths.raw_images_dir: expected text that is not empty"),
        ("model: {layers: []}\n", "model.layers: expected a list of at least 1 entry or text, got list []"),
        ("train: {loss: {class_weights: atuo}}\n", "class_weights: expected 'auto' or a list, got str 'atuo'"),
        ("paths: {raw_images_dir: *.tif}\n", "; put names with * [ ] { } in quotes"),
        ("\0\0", "not valid YAML: unacceptable character"),
    ],
)
def test_what_is_no_settings_file_says_where_it_goes_wrong(text, words, tmp_path, capsys):
    code, errors, said = call(tmp_path, text, capsys)
    assert (code, len(errors)) == (2, 1), said
    assert words in errors[0]
    assert not (tmp_path / "runs").exists()


def test_an_error_says_which_of_several_tasks_it_is_about(tmp_path, capsys):
    tree = make_settings(tmp_path) | {"tasks": {"coral": {}, "fish": {"dataset": {"classes": ["a", "a"]}}}}
    code, errors, said = call(tmp_path, yaml.safe_dump(tree), capsys)
    assert (code, len(errors)) == (2, 1), said
    assert "fish: dataset.classes: names must differ" in errors[0]


def test_the_sample_is_not_drawn_for_somebody_with_own_pictures(tmp_path, capsys):
    tree = make_settings(tmp_path)
    tree.setdefault("dataset", {})["sample"] = {"enable": True, "folder": str(tmp_path / "sample")}
    code, errors, said = call(tmp_path, yaml.safe_dump(tree), capsys)
    assert (code, len(errors)) == (2, 1), said
    assert "dataset.sample.enable: true, but paths.raw_images_dir is" in errors[0]
    assert not (tmp_path / "sample").exists()


def test_check_says_what_prepare_would_say_of_the_split(tmp_path, capsys):
    tree = make_settings(tmp_path)
    tree["prepare"] |= {"tile_size": 2048}
    tree["paths"]["raw_images_dir"] = str(next(Path(tree["paths"]["raw_images_dir"]).iterdir()))
    (tmp_path / "config.yml").write_text(yaml.safe_dump(tree))
    assert main.main([str(tmp_path / "config.yml"), "--check"]) == 3
    assert "only one labelled block" in capsys.readouterr().err


def test_an_empty_only_is_a_mistake_not_everything(tmp_path, capsys):
    (tmp_path / "config.yml").write_text(yaml.safe_dump(make_settings(tmp_path)))
    assert main.main([str(tmp_path / "config.yml"), "--only", ""]) == 2
    assert "unknown task ''; known: segmentation" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# Disks that fill up while work is under way, and results that were there before


def test_a_store_on_a_full_disk_says_so_and_the_next_run_goes_on(tmp_path, capsys):
    tree = make_settings(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))  # a larger file fails as on a full disk
    try:
        code, errors, said = call(tmp_path, tree, capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, len(errors)) == (3, 1), said
    assert str(tmp_path / "store") in errors[0]
    assert not list((tmp_path / "store" / "shards").glob("*.safetensors")), "complete or absent"
    assert call(tmp_path, tree, capsys)[0] == 0


def test_a_result_of_inference_may_be_written_again(tmp_path, trained, capsys):
    tree = make_settings(tmp_path)
    only_inference(tree, checkpoint_of(trained), trained)
    tree["inference"] |= {"output_tif": str(tmp_path / "map.tif"), "confidence": True, "polygons": {"enable": True}}
    assert call(tmp_path, tree, capsys)[0] == 0
    before = (tmp_path / "map.tif").stat().st_mtime_ns
    tree["inference"]["overlap"] = 0.5
    assert call(tmp_path, tree, capsys)[0] == 0
    assert (tmp_path / "map.tif").stat().st_mtime_ns > before
    (tmp_path / "map.tif").unlink()  # what is left beside it is known by itself
    assert call(tmp_path, tree, capsys)[0] == 0


def test_layers_counted_from_the_end_are_those_of_the_checkpoint(tmp_path, trained, capsys):
    tree = make_settings(tmp_path)
    only_inference(tree, checkpoint_of(trained), trained)
    tree["model"]["layers"] = [-2, -1]
    tree["inference"]["output_tif"] = str(tmp_path / "map.tif")
    assert call(tmp_path, tree, capsys)[0] == 0


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "a/b: No space left on device; free space"),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), "a/b: Permission denied; name a folder that you"),
    ],
)
def test_a_refusal_of_the_system_names_the_file_and_the_cure(error, words):
    assert words in main.advice_for_files(error)


def test_an_error_that_is_no_matter_of_files_keeps_its_traceback(capsys):
    with pytest.raises(BlockingIOError) as caught:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    assert main.exit_code(caught.value, main.VerbosityLogger("error")) == 4
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("config.yml", "logging.file", "{folder}/config.yml"),
        ("labels.csv", "logging.file", "{folder}/labels.csv"),
        ("weights/linear_best.safetensors", "train.weights_dir", "{folder}/weights"),
        ("weights/linear_last.json", "train.weights_dir", "{folder}/weights"),
        ("runs/status.json", "paths.runs_root", "{folder}/runs"),
        ("runs/segmentation/latest", "{folder}/runs/segmentation/latest", ""),
    ],
)
def test_files_of_a_person_are_never_written_over(name: str, key: str, value: str, tmp_path, capsys) -> None:
    tree = make_settings(tmp_path)
    tree["paths"]["runs_root"] = f"{tmp_path}/runs"
    if value:
        section, _, leaf = key.partition(".")
        tree.setdefault(section, {})[leaf] = value.format(folder=tmp_path)
    mine = tmp_path / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    if mine.name != "config.yml":
        mine.write_text('{"mine": 1}')
    code, errors, _ = call(tmp_path, tree, capsys)
    assert code in (2, 3)
    [error] = errors
    assert key.format(folder=tmp_path) in error
    assert str(mine) in error
    assert mine.read_text() == (yaml.safe_dump(tree) if mine.name == "config.yml" else '{"mine": 1}')
    assert not list(tmp_path.glob("store/shards/*"))
    if value:  # a rehearsal says it too
        assert main.main(["--check", str(tmp_path / "config.yml")]) == code
        assert str(mine) in capsys.readouterr().err


def test_an_interrupted_run_goes_on_in_its_log_and_replaces_the_weights_of_an_earlier_one(
    tmp_path, capsys, monkeypatch
) -> None:
    tree = make_settings(tmp_path)
    tree["paths"]["runs_root"] = f"{tmp_path}/runs"
    tree["logging"] = {"file": f"{tmp_path}/run.log", "timestamps": True}
    tree["train"] |= {"weights_dir": f"{tmp_path}/weights", "epochs": 1}
    for phase in ("verify", "evaluate", "inference"):
        tree[phase]["enable"] = False
    assert call(tmp_path, tree, capsys)[0] == 0
    earlier = (tmp_path / "run.log").read_text()
    tree["train"]["epochs"] = 2
    whole = Training.end_epoch

    def end_epoch(training: Training) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        whole(training)

    with monkeypatch.context() as stopping:
        stopping.setattr(Training, "end_epoch", end_epoch)
        assert call(tmp_path, tree, capsys)[0] == 143
    interrupted = (tmp_path / "run.log").read_text()
    assert interrupted.startswith(earlier)
    assert "interrupted by SIGTERM; the next run continues from here" in interrupted
    assert weights_steps(tmp_path) == 7
    assert call(tmp_path, tree, capsys)[0] == 0
    whole_log = (tmp_path / "run.log").read_text()
    assert whole_log.startswith(interrupted)
    assert "train: resuming at epoch 2" in whole_log.removeprefix(interrupted)
    assert weights_steps(tmp_path) == 14


def weights_steps(folder: Path) -> int:
    """How many steps made the weights that lie beside the runs."""
    return load_checkpoint(folder / "weights" / "linear_last.safetensors").description["training"]["steps"]


@pytest.mark.parametrize("empty", ["train", "val"])
@pytest.mark.parametrize("content", ["", "# to be chosen\n\n"])
def test_a_split_list_that_names_nothing_is_refused_also_by_a_rehearsal(empty, content, tmp_path, capsys) -> None:
    tree = make_settings(tmp_path)
    for split in ("train", "val"):
        (tmp_path / f"{split}.txt").write_text(content if split == empty else "scene_0\n")
    tree["dataset"]["splits"] = {f"{split}_list": f"{tmp_path}/{split}.txt" for split in ("train", "val")}
    text = f"{tmp_path}/{empty}.txt: the list of the {empty} split names no picture; write one name a line"
    code, errors, _ = call(tmp_path, tree, capsys)
    assert (code, len(errors)) == (3, 1)
    assert text in errors[0]
    assert main.main(["--check", str(tmp_path / "config.yml")]) == 3
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("key", ["inference.inputs", "paths.raw_images_dir"])
def test_a_video_among_scenes_is_called_a_video_and_not_damaged(key, trained: Path, tmp_path, capsys) -> None:
    tree = make_settings(tmp_path)
    if key == "inference.inputs":
        only_inference(tree, checkpoint_of(trained), trained)
    with VideoWriter(tmp_path / "clip.mp4", size=(64, 64), fps=10) as video:
        video.write(np.zeros((64, 64, 3), np.uint8))
    section, _, leaf = key.partition(".")
    tree[section][leaf] = f"{tmp_path}/clip.mp4"
    code, errors, said = call(tmp_path, tree, capsys)
    assert code == 3
    assert f"{tmp_path}/clip.mp4: a video; this kind of task takes pictures and rasters" in errors[0]
    assert "truncated or damaged" not in said
