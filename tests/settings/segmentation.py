"""Probes of segmentation."""

import json
from pathlib import Path

import numpy as np
import pyogrio
import rasterio
import rasterio.shutil
import shapely

from tasks.example import write_annotated
from tests.settings import looks
from tests.settings.probe import AGAIN, Probe


def rewrite(path: Path, values: np.ndarray, **more) -> None:
    """Write a raster again with other values (C, H, W)."""
    with rasterio.open(path) as raster:
        profile = raster.profile | {"count": len(values), "dtype": values.dtype.name, **more}
    path.unlink()
    with rasterio.open(path, "w", **profile) as raster:
        raster.write(values)


def values_of(path: Path) -> np.ndarray:
    with rasterio.open(path) as raster:
        return raster.read()


def deepen(folder: Path) -> None:
    """Make the pictures those of 16 bits."""
    for path in (folder / "pictures").glob("*.tif"):
        rewrite(path, values_of(path).astype(np.uint16) ** 2)


def whiten(folder: Path) -> None:
    """Fill the upper third of the pictures with white."""
    for path in (folder / "pictures").glob("*.tif"):
        values = values_of(path).clip(0, 250)
        values[:, : values.shape[1] // 3] = 255
        rewrite(path, values)


def draw_vectors(folder: Path) -> None:
    """Add labels in two layers of vectors: an area and a line with attributes `sort` and `other`."""
    line = shapely.LineString([(500_010, 5_499_990), (500_030, 5_499_990)])
    for layer, moved in (("first", 0), ("second", 4)):
        shapes = np.array([shapely.box(499_990, 5_499_000, 500_010 + moved, 5_501_000), line])
        columns = [np.array(["dark", "light"], dtype=object), np.array(["light", "dark"], dtype=object)]
        pyogrio.raw.write(
            folder / "labels.gpkg",
            geometry=shapely.to_wkb(shapes),
            field_data=columns,
            fields=["sort", "other"],
            layer=layer,
            geometry_type="Unknown",
            crs="EPSG:32632",
            append=layer == "second",
        )


def paint(folder: Path) -> None:
    """Make the labels masks in two colours."""
    for path in (folder / "labels").glob("*.tif"):
        rewrite(path, np.repeat(np.where(values_of(path) == 1, 250, 10), 3, axis=0).astype(np.uint8), nodata=None)


def make_virtual(folder: Path) -> None:
    """Put a virtual raster in place of each picture, whose pixels are kept beside it under another suffix."""
    for path in (folder / "pictures").glob("*.tif"):
        path.rename(path.with_suffix(".kept"))
        rasterio.shutil.copy(path.with_suffix(".kept"), path, driver="VRT")


def decode_whole(folder: Path) -> None:
    """Put pictures and labels in a format that is decoded whole."""
    for path in (*folder.glob("pictures/*.tif"), *folder.glob("labels/*.tif")):
        values = values_of(path)
        count, height, width = values.shape
        profile = {"driver": "PNG", "height": height, "width": width, "count": count, "dtype": "uint8"}
        with rasterio.open(path.with_suffix(".png"), "w", **profile) as raster:
            raster.write(values)
        path.unlink()


def relabel(folder: Path) -> None:
    """Add labels by another name, where the classes are exchanged."""
    for path in list((folder / "labels").glob("*.tif")):
        other = path.with_name(f"{path.stem}_other.tif")
        other.write_bytes(path.read_bytes())
        values = values_of(path)
        rewrite(other, np.where(values < 2, 1 - values, values).astype(np.uint8))


def relabel_folder(folder: Path) -> None:
    """Add a folder of other labels."""
    relabel(folder)
    (folder / "other").mkdir()
    for path in (folder / "labels").glob("*_other.tif"):
        path.rename(folder / "other" / path.name.replace("_other", ""))


def move_pictures(folder: Path) -> None:
    """Add a data root in which the first picture is missing."""
    for path in (*folder.glob("pictures/*_1.tif"), *folder.glob("labels/*_1.tif")):
        target = folder / "root" / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())


def split_bands(folder: Path) -> None:
    """Make the pictures a folder with one scene, whose bands are files."""
    values = values_of(folder / "pictures" / "scene_1.tif")
    for number in range(3):
        path = folder / "pictures" / f"band_{number}.tif"
        path.write_bytes((folder / "pictures" / "scene_1.tif").read_bytes())
        rewrite(path, values[number : number + 1])
        (folder / "labels" / path.name).write_bytes((folder / "labels" / "scene_1.tif").read_bytes())
    for path in (*folder.glob("pictures/scene*"), *folder.glob("labels/scene*")):
        path.unlink()


def annotate(folder: Path) -> None:
    """Add photos with a folder of annotations: COCO of a light block under a dark one and a box, LabelMe of others."""
    write_annotated(folder)
    content = json.loads((folder / "labels.json").read_text())
    big = [0.0, 0, 60, 0, 60, 64, 0, 64]
    shared = {"image_id": 0, "iscrowd": 0}
    content["annotations"] += [
        {"id": 10, "category_id": 2, "segmentation": [big], **shared},
        {"id": 11, "category_id": 1, "segmentation": [], "bbox": [60, 60, 4, 4], **shared},
    ]
    content["categories"].append({"id": 2, "name": "dark"})
    (folder / "marks").mkdir()
    (folder / "marks" / "annotations.json").write_text(json.dumps(content))
    for number in range(2):
        shape = {"label": "light", "points": [[3, 3], [40, 3], [3, 50]], "shape_type": "polygon"}
        marks = {"imagePath": f"../pictures/scene_{number}.png", "shapes": [shape]}
        (folder / "marks" / f"scene_{number}.json").write_text(json.dumps(marks))


ANNOTATED = (
    "paths.raw_images_dir=null",
    "paths.data_root={folder}",
    "paths.label_path=marks/annotations.json",
    "dataset.splits.block_tiles=null",
)
CONVERTED = (*ANNOTATED, "dataset.convert_to={format: coco, folder: FOLDER/copy}".replace("FOLDER", "{folder}"))
VECTORS = ("paths.label_path={folder}/labels.gpkg", "dataset.label_layer=first", "dataset.label_attribute=sort")
POLYGONS = ("inference.polygons.enable=true",)
OTHER_PICTURE = "{data}/pictures/scene_1.tif"
RELATIVE = ("paths.raw_images_dir=pictures", "paths.label_path=labels", "paths.data_root={folder}")
JOINED = "predictions: '{data}/other.json'"
FILES = "[band_2.tif, band_1.tif, band_0.tif]"

SEGMENTATION: dict[str, Probe] = {
    "kind": Probe(looks.chosen, "keypoints", ("kind=segmentation",)),
    "paths.data_root": Probe(looks.read, "{folder}/root", RELATIVE, change=move_pictures),
    "paths.raw_images_dir": Probe(looks.read, OTHER_PICTURE),
    "paths.label_path": Probe(looks.read, "{folder}/other", change=relabel_folder),
    "dataset.classes": Probe(looks.learnt_anew, "[dark, light, other]"),
    "dataset.bands": Probe(looks.read, "[3, 2, 1]"),
    "dataset.band_files": Probe(
        looks.read, FILES, ("dataset.band_files=[band_0.tif, band_1.tif, band_2.tif]",), change=split_bands
    ),
    "dataset.scale": Probe(looks.read, "0.5"),
    "dataset.image_size": Probe(looks.read, "[32, 48]"),
    "dataset.format": Probe(looks.read, "labelme", (*ANNOTATED, "paths.label_path=marks"), change=annotate),
    "dataset.taxonomy": Probe(looks.read, "{light: dark}", ANNOTATED, change=annotate),
    "dataset.overlap": Probe(looks.read, "area", ANNOTATED, change=annotate),
    "dataset.boxes": Probe(looks.read, "class", ANNOTATED, change=annotate),
    "dataset.convert_to.format": Probe(looks.converted, "yolo", CONVERTED, change=annotate),
    "dataset.convert_to.folder": Probe(looks.converted, "{folder}/there", CONVERTED, change=annotate),
    "dataset.convert_to.layout": Probe(looks.converted, "folders", CONVERTED, change=annotate),
    "dataset.value_range": Probe(looks.read, "[0.0, 100.0]"),
    "dataset.percentiles": Probe(looks.read, "[20.0, 80.0]", change=deepen),
    "dataset.max_pixels": Probe(looks.read, "10", refuses="pixels", change=decode_whole),  # a limit
    "dataset.allow_vrt": Probe(
        looks.read, "false", ("dataset.allow_vrt=true",), refuses="a virtual raster", change=make_virtual
    ),
    "dataset.label_pattern": Probe(looks.read, "'{stem}_other.tif'", change=relabel),
    "dataset.label_layer": Probe(looks.read, "second", VECTORS, change=draw_vectors),
    "dataset.label_attribute": Probe(looks.read, "other", VECTORS, change=draw_vectors),
    "dataset.unlabelled": Probe(looks.read, "light", VECTORS, change=draw_vectors),
    "dataset.line_width": Probe(looks.read, "9.0", VECTORS, change=draw_vectors),
    "dataset.label_colours": Probe(
        looks.read,
        "{dark: [250, 250, 250], light: [10, 10, 10]}",
        ("dataset.label_colours={dark: [10, 10, 10], light: [250, 250, 250]}",),
        change=paint,
    ),
    "dataset.colours": Probe(looks.predicted, "{dark: [1, 2, 3]}"),
    "dataset.label_mapping": Probe(looks.read, "{0: light, 1: dark, 255: ignore}"),
    "dataset.nodata": Probe(looks.read, "255", change=whiten),
    "dataset.label_nodata": Probe(looks.read, "[1]"),
    "dataset.max_windows": Probe(looks.read, "1"),
    "dataset.splits.block_tiles": Probe(looks.read, "1"),
    "model.head": Probe(looks.learnt, "linear", ("model.head_options={}",)),
    "model.head_options": Probe(looks.learnt, "{width: 16}", ("model.head_options={width: 8}",)),
    "model.num_classes": Probe(looks.learnt_anew, "3", ("dataset.classes=null", "model.num_classes=2")),
    "prepare.tile_size": Probe(looks.read, "16"),
    "prepare.overlap": Probe(looks.read, "0.5"),
    "train.loss.ce_weight": Probe(looks.learnt, "0.1"),
    "train.loss.dice_weight": Probe(looks.learnt, "0.1"),
    "train.loss.focal_gamma": Probe(looks.learnt, "2"),
    "train.loss.class_weights": Probe(looks.learnt, "[1.0, 9.0]"),
    "train.loss.aux_weight": Probe(looks.learnt, "2", ("model.head=unet_v2", "model.head_options={}")),
    "train.loss.no_object_weight": Probe(looks.learnt, "0.9", ("model.head=maskformer", "model.head_options={}")),
    "train.sampling": Probe(looks.learnt, "rare", AGAIN),
    "train.crop_size": Probe(looks.learnt_anew, "16", ("train.features=online",)),
    "train.cat_max_ratio": Probe(looks.learnt_anew, "0.55", ("train.features=online", "train.crop_size=16")),
    "train.val_overlap": Probe(looks.scored, "0.75"),
    "evaluate.inputs": Probe(looks.scored, OTHER_PICTURE, ("evaluate.labels={data}/labels",)),
    **{
        f"{phase}.ensemble.{name}": Probe(look, other, (f"{phase}.ensemble={{{base}}}", "inference.confidence=true"))
        for phase, look in (("evaluate", looks.scored), ("inference", looks.predicted))
        for name, other, base in (
            ("predictions", "{data}/another.json", JOINED),
            ("strategy", "nms", JOINED),
            ("weight", "9", JOINED),
            ("other_weight", "0.1", JOINED),
            ("iou", "0.01", f"{JOINED}, strategy: nms"),
        )
    },
    "evaluate.boundary_width": Probe(looks.scored, "0.02"),
    "evaluate.labels": Probe(looks.scored, "{data}/labels", (f"evaluate.inputs={OTHER_PICTURE}",)),
    "inference.input_tif": Probe(looks.predicted, OTHER_PICTURE, ("inference={checkpoint: '{model}'}",)),
    "inference.inputs": Probe(looks.predicted, OTHER_PICTURE),
    "inference.output_tif": Probe(looks.predicted, "{folder}/map.tif"),
    "inference.tile_size": Probe(looks.predicted, "64"),
    "inference.overlap": Probe(looks.predicted, "0.5"),
    "inference.confidence": Probe(looks.predicted, "true"),
    "inference.output_resolution": Probe(looks.trained_and_predicted, "model", ("dataset.scale=0.5",)),
    "inference.format": Probe(looks.predicted, "cog"),
    "inference.polygons.enable": Probe(looks.predicted, "true"),
    "inference.polygons.simplify": Probe(looks.predicted, "3.0", POLYGONS),
    "inference.polygons.min_area": Probe(looks.predicted, "1e6", POLYGONS),
    "inference.polygons.skip": Probe(looks.predicted, "[dark]", POLYGONS),
}
