"""Files of the small seeded world: scenes with label polygons, photos with COCO keypoints, and a video."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from rasterio.features import shapes
from rasterio.warp import transform as transform_points
from shapely import affinity

from utils.errors import DataError
from utils.media.videos import VideoWriter
from utils.raster.drivers import vector_library
from utils.raster.files import write_raster
from utils.raster.vector_files import write_features
from utils.runtime.files import digest_file, read_json, write_json
from utils.samples.world import CLASSES, EDGES, FPS, GROUNDS, KEYPOINTS, Object, draw_chase, draw_land, draw_photo

logger = logging.getLogger(__name__)

VERSION = 2  # of what is drawn; raise it when the same seed gives other files
SIZE = (192, 256)  # of photos and video
SCENE_CRS, LABEL_CRS = "EPSG:32632", "EPSG:4326"
SCENES = {"scenes/north.tif": "labels.gpkg", "scenes/south.tif": "labels.gpkg", "unseen/east.tif": "unseen/labels.gpkg"}
LAND_FILES = tuple(dict.fromkeys([*SCENES, *SCENES.values()]))
PHOTOS = {"train": 60, "val": 16}  # numbers of photos of foxes


def fox_names(split: str, count: int) -> list[str]:
    """Names of the photos of a split.

    >>> fox_names("val", 2)
    ['val_000.png', 'val_001.png']
    """
    return [f"{split}_{number:03d}.png" for number in range(count)]


FOX_FILES = (
    *(f"images/{name}" for split, count in PHOTOS.items() for name in fox_names(split, count)),
    *(f"annotations/{split}.json" for split in PHOTOS),
    "chase.mp4",
)


def write_land(folder: str | Path, seed: int = 7, size: tuple[int, int] = (768, 1024)) -> None:
    """Write three scenes of half a metre per pixel and their label polygons, unless they are there already.

    The same seed and size (H, W), at least 128 pixels each, give the same files; others in the folder are left alone.

    >>> import rasterio, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> write_land(folder, size=(128, 160))
    >>> with rasterio.open(folder + "/unseen/east.tif") as scene:
    ...     scene.shape, scene.crs.to_epsg(), scene.res, scene.nodata
    ((128, 160), 32632, (0.5, 0.5), 0.0)
    """
    folder = Path(folder)

    def to_degrees(metres: np.ndarray) -> np.ndarray:
        return np.stack(transform_points(SCENE_CRS, LABEL_CRS, *metres.T), axis=1)

    def write() -> None:
        labels: dict[str, dict[str, list]] = {name: {"shapes": [], "class": []} for name in SCENES.values()}
        for index, (scene, label) in enumerate(SCENES.items()):
            image, areas, _ = draw_land(seed, index, size)
            transform = Affine(0.5, 0, 612_000.0 + index * (0.5 * size[1] + 100), 0, -0.5, 5_318_000.0)
            options: Any = {"photometric": "RGB", "tiled": True, "compress": "deflate", "predictor": 2}
            write_raster(folder / scene, image, crs=SCENE_CRS, transform=transform, nodata=0, **options)
            for area in (area for area in areas if area.name in CLASSES):  # the building site has no label
                metres = affinity.affine_transform(area.shape, transform.to_shapely())
                labels[label]["shapes"].append(shapely.transform(metres, to_degrees))
                labels[label]["class"].append(area.name)
        pyogrio = vector_library()
        before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "2025-01-01T00:00:00.000Z"})  # for equal files
        try:
            for label, columns in labels.items():
                write_features(folder / label, columns.pop("shapes"), crs=LABEL_CRS, **columns)
        finally:
            pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})

    _make(folder, {"kind": "land", "seed": seed, "size": list(size)}, [*SCENES, *SCENES.values()], write)


def write_foxes(
    folder: str | Path,
    seed: int = 7,
    train: int = PHOTOS["train"],
    val: int = PHOTOS["val"],
    frames: int = 60,
    size: tuple[int, int] = SIZE,
) -> None:
    """Write photos of foxes, COCO keypoints of both splits and a video of a chase, unless they are there already.

    The same seed, numbers of pictures and frames and size (H, W), at least 128 pixels each, give the same files.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_foxes(folder, train=1, val=1, frames=2, size=(128, 160))
    >>> coco = read_json(folder / "annotations" / "train.json")
    >>> coco["images"][0]["file_name"], sorted(coco["annotations"][0])[:5]
    ('train_000.png', ['area', 'bbox', 'category_id', 'id', 'image_id'])
    """
    folder = Path(folder)
    names = {"train": fox_names("train", train), "val": fox_names("val", val)}

    def write() -> None:
        for split, pictures in names.items():
            found = []
            for index, name in enumerate(pictures):
                generator = np.random.default_rng([seed, split == "val", index])
                image, objects = draw_photo(generator, size, sorted(GROUNDS)[index % len(GROUNDS)])
                write_raster(folder / "images" / name, image)
                found.append(objects)
            write_json(folder / "annotations" / f"{split}.json", coco_labels(pictures, found, size))
        with VideoWriter(folder / "chase.mp4", size, FPS) as video:
            for image, _ in draw_chase(np.random.default_rng([seed, 2]), frames, size):
                video.write(image)

    files = [f"images/{name}" for pictures in names.values() for name in pictures]
    files += ["annotations/train.json", "annotations/val.json", "chase.mp4"]
    recipe = {"kind": "foxes", "seed": seed, "size": list(size), "train": train, "val": val, "frames": frames}
    _make(folder, recipe, files, write)


def coco_labels(names: Sequence[str], objects: Sequence[Sequence[Object]], size: tuple[int, int]) -> dict[str, Any]:
    """Describe the foxes of pictures of one size (H, W) as COCO does; all is numbered from 1.

    >>> image, foxes = draw_photo(np.random.default_rng(0), (128, 160), "grass")
    >>> coco = coco_labels(["a.png"], [foxes], (128, 160))
    >>> len(coco["annotations"]) == len(foxes), coco["annotations"][0]["num_keypoints"]
    (True, 6)
    """
    annotations: list[dict[str, Any]] = []
    for image_id, fox in ((number, fox) for number, foxes in enumerate(objects, 1) for fox in foxes):
        left, top, right, bottom = fox.box_xyxy.tolist()
        parts = [shape["coordinates"][0] for shape, _ in shapes(fox.mask.astype(np.uint8), fox.mask)]
        annotations.append({
            "id": len(annotations) + 1, "image_id": image_id, "category_id": 1, "iscrowd": 0,
            "bbox": [left, top, right - left, bottom - top], "area": int(fox.mask.sum()),
            "segmentation": [np.ravel(part[:-1]).tolist() for part in parts],
            "keypoints": np.column_stack([fox.keypoints, fox.visibility]).ravel().tolist(),
            "num_keypoints": int((fox.visibility > 0).sum()),
        })  # fmt: skip
    images = [{"id": n, "file_name": name, "height": size[0], "width": size[1]} for n, name in enumerate(names, 1)]
    category = {"id": 1, "name": "fox", "supercategory": "animal", "keypoints": list(KEYPOINTS)}
    category["skeleton"] = [[first + 1, second + 1] for first, second in EDGES]
    return {"images": images, "annotations": annotations, "categories": [category]}


def _make(folder: Path, recipe: dict[str, Any], names: Sequence[str], write: Callable[[], None]) -> None:
    """Write the files of a recipe unless each is there as it was written; sample.json tells, and is begun first.

    Raises
    ------
    ValueError
        If a side is under 128 pixels, where not every class and no fox has room.
    DataError
        If the folder holds files of somebody else, or cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for _ in range(2):
    ...     _make(folder, {"size": [128, 128]}, ["a"], lambda: print((folder / "a").write_text("7")))
    1
    """
    if min(recipe["size"]) < 128:
        raise ValueError(f"size: expected a height and width of at least 128 pixels, got {tuple(recipe['size'])}")
    mark, recipe = folder / "sample.json", {**recipe, "version": VERSION}
    with contextlib.suppress(DataError):  # not JSON: something else wrote it, so write anew
        written = read_json(mark, default={})
        digests = written.get("files", {})
        whole = bool(digests) and written == {**recipe, "files": digests}
        if whole and all((folder / name).is_file() and digest_file(folder / name) == digests[name] for name in digests):
            return
    taken = [folder / name for name in names if (folder / name).exists()]
    if taken and not mark.exists():
        raise DataError(
            f"{taken[0]}: is there already, and not of the sample; name an empty folder in dataset.sample.folder, or "
            "set dataset.sample.enable: false to use your own data"
        )
    try:
        write_json(mark, {**recipe, "files": {}})
        logger.info("writing %d files of the sample to %s", len(set(names)), folder)
        write()
    except OSError as error:
        reason = error.strerror or error.__cause__ or error  # rasterio's own name neither file nor cause
        raise DataError(
            f"{folder}: the sample could not be written ({reason}); free space on this disk, or name another folder "
            "in dataset.sample.folder"
        ) from error
    write_json(mark, {**recipe, "files": {name: digest_file(folder / name) for name in sorted(set(names))}})
