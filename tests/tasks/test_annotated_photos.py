"""Segmentation of photos from annotations: which are read, their classes, and that the store changes nothing."""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pyogrio
import pytest
import shapely
from PIL import Image

from tasks.example import annotated_example, example_context, example_task, prepared_example
from tasks.phases import evaluate, inference, load_phase, prepare, train
from tasks.prepared import PreparedReader
from utils.errors import DataError, SettingsError
from utils.raster.tiling import Window

BLOCK = [[1, 1], [5, 1], [5, 7], [1, 7]]


def write_labelme(folder: Path, shapes: list[dict], size: tuple[int, int] = (8, 8), name: str = "a", **exif) -> None:
    """A photo of a size, as its file stores it, and its shapes."""
    folder.mkdir(exist_ok=True)
    picture, stored = Image.fromarray(np.full((*size, 3), 90, np.uint8)), io.BytesIO()
    tags = Image.Exif()
    tags[0x0112] = exif.get("orientation", 1)
    picture.save(stored, "PNG", exif=tags)
    (folder / f"{name}.png").write_bytes(stored.getvalue())
    (folder / f"{name}.json").write_text(json.dumps({"imagePath": f"{name}.png", "shapes": shapes}))


def polygon(label: str, points=BLOCK, **more) -> dict:
    return {"label": label, "points": points, "shape_type": "polygon", **more}


def reader(folder: Path, *overrides: str):
    """Opens the LabelMe files of a folder."""
    task, _ = example_task(
        folder / "task",
        "paths.raw_images_dir=null",
        f"paths.label_path={folder}",
        "dataset.classes=[coral, sand]",
        *overrides,
    )
    return task.source.scenes


def class_map(scenes, key: str = "a") -> list[str]:
    files = scenes.labelled()[key]
    scene = scenes.scene(files.paths)
    label = scenes.labels(files.label).read(scene, Window(0, 0, scene.height, scene.width))
    return ["".join({0: "c", 1: "s", 255: "."}[value] for value in row) for row in label.tolist()]


WHOLE = ["........", *[".cccc..."] * 6, "........"]


def test_labels_lie_on_the_pixels_as_the_picture_is_shown(tmp_path):
    """A photo of 8 x 6 that its EXIF turns by a quarter is shown as 6 x 8, and was labelled so."""
    corner = [[0, 0], [3, 0], [3, 2], [0, 2]]
    write_labelme(tmp_path / "l", [polygon("coral", corner)], (8, 6), orientation=6)
    assert class_map(reader(tmp_path / "l")) == ["ccc.....", "ccc.....", *["........"] * 4]


def test_image_size_moves_labels_as_it_moves_pixels(tmp_path):
    write_labelme(tmp_path / "l", [polygon("coral", [[2, 2], [6, 2], [6, 8], [2, 8]])])
    assert class_map(reader(tmp_path / "l", "dataset.scale=0.5")) == ["....", ".cc.", ".cc.", ".cc."]
    scenes = reader(tmp_path / "l", "dataset.image_size=[4, 16]")
    assert class_map(scenes) == ["." * 16, *["....cccccccc...."] * 3]
    image, valid = scenes.scene(scenes.labelled()["a"].paths).read(Window(0, 0, 4, 16))
    assert image.shape == (4, 16, 3)
    assert valid.all()


@pytest.mark.parametrize(
    ("settings", "row"),
    [
        ((), ".cccc..."),
        (("dataset.unlabelled=sand",), "sccccsss"),
        (("dataset.label_mapping={coral: sand}",), ".ssss..."),
        (("dataset.label_mapping={coral: ignore}", "dataset.unlabelled=sand"), "s....sss"),
        (("dataset.taxonomy={coral: sand}",), ".ssss..."),
        (("dataset.taxonomy={coral: reef}", "dataset.label_mapping={reef: 1}"), ".ssss..."),
    ],
)
def test_names_become_classes(tmp_path, settings, row):
    write_labelme(tmp_path / "l", [polygon("coral")])
    assert class_map(reader(tmp_path / "l", *settings))[3] == row


def test_a_taxonomy_file_maps_names_and_changes_the_key_of_the_store(tmp_path):
    write_labelme(tmp_path / "l", [polygon("Pavona/Leptoseris"), polygon("Porites", [[6, 1], [8, 1], [8, 2], [6, 2]])])
    path = tmp_path / "families.yml"
    path.write_text("Pavona/Leptoseris: coral\nPorites: sand\n")
    named, mapping = f"dataset.taxonomy={path}", "dataset.label_mapping={light: light}"
    assert class_map(reader(tmp_path / "l", named))[1] == ".cccc.ss"
    task, _ = annotated_example(tmp_path / "other", named, mapping)
    task.source.prepare_data()
    before = task.source.cache_key()
    path.write_text("Pavona/Leptoseris: coral\nPorites: coral\n")
    assert annotated_example(tmp_path / "other", named, mapping)[0].source.cache_key() != before
    assert class_map(reader(tmp_path / "l", named))[1] == ".cccc.cc"


def test_names_with_a_slash_are_classes_and_files(tmp_path):
    overrides = ("dataset.classes=[dark, Pavona/Leptoseris]", "dataset.label_mapping={light: Pavona/Leptoseris}")
    task, context = annotated_example(
        tmp_path, *overrides, "evaluate.pictures=2", f"inference.output_dir={tmp_path}/maps", "inference.format=gtiff"
    )
    for phase in (prepare, train, evaluate):
        phase.run(task, context)
    checkpoint = next(tmp_path.rglob("best.safetensors"))
    task, _ = annotated_example(
        tmp_path, *overrides, f"inference.output_dir={tmp_path}/maps", f"inference.checkpoint={checkpoint}"
    )
    inference.run(task, context)
    assert (tmp_path / "maps" / "scene_0_classes.tif").is_file()
    table = json.loads(next(context.folder.rglob("metrics.json")).read_text())
    assert "Pavona/Leptoseris" in json.dumps(table)


def test_unknown_names_are_one_error_that_lists_all(tmp_path):
    names = [f"name_{number}" for number in range(7)]
    write_labelme(tmp_path / "l", [polygon(name) for name in [*names, "name_3"]])
    with pytest.raises(DataError) as error:
        class_map(reader(tmp_path / "l"))
    assert "7 names are no class: name_3 (2 objects), " in str(error.value)
    assert all(name in str(error.value) for name in names)
    assert class_map(reader(tmp_path / "l", "dataset.label_mapping={'*': sand}"))[3] == ".ssss..."


def test_classes_are_those_of_a_taxonomy_where_none_are_named(tmp_path):
    write_labelme(tmp_path / "l", [polygon("Fungia")])
    scenes = reader(tmp_path / "l", "dataset.classes=null", "dataset.taxonomy=agnostic", "dataset.unlabelled=sea")
    assert scenes.classes == ["sea", "coral"]
    assert class_map(scenes)[3] == "cssssccc"  # letters of the classes 0 and 1
    scenes = reader(tmp_path / "l", "dataset.classes=null", "dataset.taxonomy=finegrained")
    assert len(scenes.classes) == 16
    assert scenes.annotations.class_of == {"Fungia": 4}


def test_boxes_follow_the_setting_and_the_format(tmp_path):
    box = {"label": "coral", "points": [[1, 1], [5, 7]], "shape_type": "rectangle"}
    write_labelme(tmp_path / "l", [box])
    named = "dataset.unlabelled=sand"
    rows = {
        rule: class_map(reader(tmp_path / "l", named, f"dataset.boxes={rule}"))[3]
        for rule in ("class", "ignore", "skip")
    }
    assert rows == {"class": "sccccsss", "ignore": "s....sss", "skip": "ssssssss"}
    assert class_map(reader(tmp_path / "l"))[3] == ".cccc..."


def test_settings_that_the_labels_do_not_have_are_refused(tmp_path):
    write_labelme(tmp_path / "l", [polygon("coral")])
    with pytest.raises(SettingsError, match=r"dataset.label_layer: set, but not read from labels that name their pict"):
        reader(tmp_path / "l", "dataset.label_layer=a").labelled()
    for override in ("dataset.taxonomy=agnostic", "dataset.boxes=class", "dataset.overlap=area"):
        with pytest.raises(SettingsError, match="set, but not read from rasters and vector files"):
            example_task(tmp_path / "rasters", override)[0].source.scenes.labelled()
    with pytest.raises(SettingsError, match=r"dataset.image_size: set beside dataset.scale 0.5"):
        example_task(tmp_path / "rasters", "dataset.scale=0.5", "dataset.image_size=[8, 8]")


def test_pictures_of_a_folder_that_are_not_labelled_are_told(tmp_path):
    task, _ = annotated_example(tmp_path)
    (tmp_path / "pictures" / "new.png").write_bytes((tmp_path / "pictures" / "scene_0.png").read_bytes())
    task, _ = annotated_example(tmp_path, f"paths.raw_images_dir={tmp_path}/pictures")
    assert list(task.source.scenes.labelled()) == ["pictures/scene_0", "pictures/scene_1"]
    assert "1 without a label, such as" in task.source.left_out("inputs")
    with pytest.raises(
        DataError, match=r"paths.raw_images_dir: the labels in .*labels.json name none of 1 pictures in"
    ):
        annotated_example(tmp_path, f"paths.raw_images_dir={tmp_path}/pictures/new.png")[0].source.scenes.labelled()


@pytest.mark.parametrize("text", ["", "text" * 30_000])  # long text, as of a picture, hides the keys between
def test_labelme_files_beside_their_pictures_are_no_vector_files(tmp_path, text):
    write_labelme(tmp_path / "l", [polygon("coral")])
    shapes = {"shapes": [polygon("coral", description=text)]}
    (tmp_path / "l" / "a.json").write_text(json.dumps({**shapes, "imagePath": "a.png", "flags": {}, "other": text}))
    task, _ = example_task(
        tmp_path / "task",
        f"paths.raw_images_dir={tmp_path}/l",
        f"paths.label_path={tmp_path}/l",
        "dataset.classes=[coral, sand]",
    )
    assert class_map(task.source.scenes)[3] == ".cccc..."


def test_the_labels_name_the_splits(tmp_path):
    """YOLO outlines with train and val: no list is drawn or written."""
    for split, name in (("train", "a"), ("val", "b"), ("test", "c")):
        for room in ("images", "labels"):
            (tmp_path / room / split).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "images" / split / f"{name}.png"), np.full((32, 32, 3), 90, np.uint8))
        (tmp_path / "labels" / split / f"{name}.txt").write_text("0 0 0 0.5 0 0.5 1 0 1\n")
    (tmp_path / "data.yaml").write_text(
        "path: .\ntrain: images/train\nval: images/val\ntest: images/test\nnames: {0: light}\n"
    )
    task, _ = example_task(
        tmp_path / "task",
        "paths.raw_images_dir=null",
        f"paths.label_path={tmp_path}/data.yaml",
        "dataset.unlabelled=dark",
    )
    task.source.prepare_data()
    found = {split: [item.id for item in task.source.items(split)] for split in ("train", "val", "test")}
    assert found == {"train": ["images/train/a"], "val": ["images/val/b"], "test": ["images/test/c"]}
    assert not (tmp_path / "task" / "splits").exists()
    label = task.source.scenes.read(task.source.items("test")[0], Window(0, 0, 32, 32))["label"]
    assert (label[:, :16] == 1).all()
    assert (label[:, 16:] == 0).all()


def test_stored_labels_are_those_that_are_drawn_online(tmp_path):
    """Bit for bit, of each window."""
    annotated_example(tmp_path)
    overrides = (
        f"paths.data_root={tmp_path}",
        "paths.raw_images_dir=null",
        "paths.label_path=labels.json",
        "dataset.unlabelled=dark",
        "dataset.splits.block_tiles=null",
        "dataset.image_size=[70, 50]",
        "train.val_fraction=0.5",
    )
    task, store, prepared = prepared_example(tmp_path, *overrides)
    online, _ = example_task(tmp_path, *overrides, "train.features=online")
    online.setup()
    stored = list(PreparedReader(task, store, prepared).samples(range(sum(len(item.entries) for item in prepared))))
    live = [sample for item in online.source.items("train") for sample in online.source.samples(item)]
    assert len(stored) == len(live) > 3
    for first, second in zip(stored, live, strict=True):
        assert first.window == second.window
        for name in ("image", "valid", "label"):
            np.testing.assert_array_equal(first.arrays[name], second.arrays[name])


def test_an_item_changes_when_its_own_labels_change_and_not_with_others(tmp_path):
    stamps = lambda: {  # noqa: E731
        key: annotated_example(tmp_path)[0].source.named(key, "train")[0].stamp()
        for key in ("pictures/scene_0", "pictures/scene_1")
    }
    before = stamps()
    content = json.loads((tmp_path / "labels.json").read_text())
    content["annotations"][0]["segmentation"][0][0] += 1
    (tmp_path / "labels.json").write_text(json.dumps(content))
    after = stamps()
    assert after["pictures/scene_0"] != before["pictures/scene_0"]
    assert after["pictures/scene_1"] == before["pictures/scene_1"]


def test_inference_of_a_labelled_picture_reads_no_label(tmp_path):
    task, _ = annotated_example(tmp_path)
    task.source.prepare_data()
    assert task.source.scenes.labelled()
    (item,) = task.source.input_items([str(tmp_path / "pictures" / "scene_0.png")])
    assert all("label" not in sample.arrays for sample in task.source.samples(item))


def test_all_phases_run_on_annotations_and_a_checkpoint_reads_other_ones_likewise(tmp_path):
    copy = f"dataset.convert_to={{format: labelme, folder: {tmp_path}/copy}}"
    task, context = annotated_example(
        tmp_path, copy, "train.epochs=2", "dataset.taxonomy={light: bright}", "dataset.label_mapping={bright: light}"
    )
    for phase in ("prepare", "verify", "train", "evaluate"):
        load_phase(phase)(task, context)
    assert len(list((tmp_path / "copy").rglob("scene_*.json"))) == 2
    checkpoint = next(tmp_path.rglob("best.safetensors"))
    other, _ = annotated_example(
        tmp_path,
        f"evaluate.checkpoint={checkpoint}",
        f"evaluate.inputs={tmp_path}/copy",
        f"evaluate.labels={tmp_path}/copy",
        "paths.label_path=null",
    )
    result = evaluate.run(other, example_context(tmp_path / "again"))
    assert result.metrics["mIoU"] >= 0


def test_default_settings_leave_the_keys_of_older_stores_as_they_are(tmp_path):
    task, _ = example_task(tmp_path)
    task.source.prepare_data()
    names = set(task.source.cache_key()["dataset"])
    assert names == {
        "classes", "bands", "band_files", "scale", "value_range", "percentiles", "max_pixels", "nodata", "allow_vrt",
        "label_pattern", "label_layer", "label_attribute", "label_mapping", "label_colours", "label_nodata",
        "unlabelled", "line_width", "max_windows",
    }  # fmt: skip
    assert "image_size" not in task.describe()
    item = task.source.named("scene_0", "train")[0]
    assert len(item.stamp()) == 5


def test_lone_boxes_are_told_before_a_copy_makes_areas_of_them(tmp_path, caplog):
    task, _ = annotated_example(tmp_path)
    content = json.loads((tmp_path / "labels.json").read_text())
    name = content["categories"][0]["id"]
    for image in content["images"]:
        alone = {"id": 900 + image["id"], "image_id": image["id"], "category_id": name, "bbox": [0, 0, 5, 5]}
        content["annotations"].append({**alone, "area": 25, "iscrowd": 0, "segmentation": []})
    (tmp_path / "labels.json").write_text(json.dumps(content))
    for format, told in (("labelme", True), ("cvat", True), ("coco", False)):
        caplog.clear()
        task, _ = annotated_example(tmp_path, f"dataset.convert_to={{format: {format}, folder: {tmp_path}/{format}}}")
        task.source.prepare_data()
        assert ("2 boxes have no outline and are not learnt here" in caplog.text) == told


def test_other_values_of_a_vector_file_are_those_that_are_no_class(tmp_path):
    shapes = [shapely.box(500_000 + 10 * left, 5_499_000, 500_010 + 10 * left, 5_501_000) for left in range(3)]
    pyogrio.raw.write(
        tmp_path / "labels.gpkg",
        geometry=shapely.to_wkb(np.array(shapes)),
        field_data=[np.array(["light", "lamp", "cat"], dtype=object)],
        fields=["sort"],
        geometry_type="Polygon",
        crs="EPSG:32632",
    )
    options = [f"paths.label_path={tmp_path}/labels.gpkg", "dataset.label_attribute=sort"]
    task, _ = example_task(tmp_path, *options, "dataset.label_mapping={lamp: light, '*': ignore}")
    task.source.prepare_data()
    files = task.source.scenes.labelled()["scene_0"]
    source = task.source.scenes._open_labels(files.label)
    assert source._look_up(np.array(["light", "lamp", "cat"], dtype=object)).tolist() == [1, 1, 255]
