"""Writing sets of masks: data and labels of each split, classes.txt, palette.txt and dataset_info.py."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from utils.errors import DataError
from utils.formats.drawn_labels import DrawnLabels
from utils.formats.masks.layout import CLASSES, IGNORED, INFO, MASKS, PALETTE, PICTURES
from utils.formats.outline_rules import is_only_box
from utils.formats.pictures import new_names
from utils.formats.sets import list_lost, place_pictures, shared_skeletons
from utils.formats.types import MISSING, AnnotatedPicture, AnnotationSet
from utils.raster.scenes import RasterScene
from utils.raster.tiling import Window
from utils.report.colours import class_palette
from utils.runtime.files import write_bytes

LINE_WIDTH = 3.0  # pixels
BACKGROUND = "background"
_CONTROLS = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029]")  # a name is a line


def write_masks(sets: Mapping[str, AnnotationSet], folder: str | Path) -> list[Path]:
    """Write a set of masks: `<split>/data/` with the pictures, `<split>/labels/` with an index mask (PNG) for each.

    A pixel has the place of its class in classes.txt, from 0; 255 where no object is. Where a class is called
    background and no object is of it, pixels of no object are of that class. Objects are drawn in the order of
    `z_order`, then of the file, crowds below others, lines three pixels wide; the pixels of an object that is only a
    box are of no class. dataset_info.py names the classes for MMSegmentation; this program never runs it. Pictures are
    given a second name (a hard link) where the system allows it, else copied.

    Parameters
    ----------
    sets : dict of str to AnnotationSet
        By split; of "all", `data` and `labels` are right in the folder.
    folder : str or Path
        Where to write.

    Returns
    -------
    list of Path
        classes.txt, palette.txt and dataset_info.py first, then the masks.

    Raises
    ------
    DataError
        If there are no classes, or more than 255.

    Examples
    --------
    >>> import tempfile
    >>> from utils.formats.types import Instance, Skeleton
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.fromarray(np.zeros((2, 4), np.uint8)).save(folder / "a.png")
    >>> square = np.array([[1.0, 0], [3, 0], [3, 1], [1, 1]])
    >>> picture = AnnotatedPicture("a", folder / "a.png", (2, 4), (Instance("cow", polygons=(square,)),))
    >>> skeletons = {"dog": Skeleton(()), "cow": Skeleton(())}
    >>> written = write_masks({"val": AnnotationSet([picture], skeletons)}, folder / "new")
    >>> [path.relative_to(folder / "new").as_posix() for path in written]
    ['classes.txt', 'palette.txt', 'dataset_info.py', 'val/labels/a.png']
    >>> np.asarray(Image.open(written[3])).tolist()
    [[255, 1, 1, 255], [255, 255, 255, 255]]
    """
    folder = Path(folder)
    names = [_CONTROLS.sub(" ", name) for name in shared_skeletons(sets)]
    if not 1 <= len(names) <= IGNORED or len(set(names)) < len(names):
        raise DataError(f"{folder}: {len(names)} classes, and masks hold 1 to {IGNORED} of different names; join some")
    tops = {split: folder if split == "all" else folder / split for split in sets}
    new = {split: new_names(part.pictures) for split, part in sets.items()}
    images = {split: [tops[split] / PICTURES / name for name in new[split]] for split in sets}
    masks = {split: [(tops[split] / MASKS / name).with_suffix(".png") for name in new[split]] for split in sets}
    held = [tops[split] / name for split in sets for name in (PICTURES, MASKS)]
    place_pictures(folder, sets, images, [mask for part in masks.values() for mask in part], held)
    unlabelled = _class_of_nothing(sets, names)
    for split, part in sets.items():
        for picture, image, mask in zip(part.pictures, images[split], masks[split], strict=True):
            stream = io.BytesIO()
            drawn = _draw(replace(picture, path=image), list(shared_skeletons(sets)), unlabelled)
            Image.fromarray(drawn).save(stream, "PNG", optimize=False)
            write_bytes(mask, stream.getvalue())
    palette = class_palette(len(names))
    write_bytes(folder / CLASSES, ("\n".join(names) + "\n").encode())
    write_bytes(folder / PALETTE, "".join(f"{r} {g} {b}\n" for r, g, b in palette.tolist()).encode())
    write_bytes(folder / INFO, dataset_info(names, palette, [split for split in sets if split != "all"]).encode())
    heads = [folder / name for name in (CLASSES, PALETTE, INFO)]
    return [*heads, *(mask for part in masks.values() for mask in part)]


def _class_of_nothing(sets: Mapping[str, AnnotationSet], names: Sequence[str]) -> str:
    """The class of pixels without an object: background, where that is named and no object is of it, else ignore.

    Examples
    --------
    >>> from utils.formats.types import Instance
    >>> pictures = [AnnotatedPicture("a", Path("a.png"), (4, 6), (Instance("Background"),))]
    >>> names = ["Background", "cow"]
    >>> [_class_of_nothing({"all": AnnotationSet(part, {})}, names) for part in ([], pictures)]
    ['Background', 'ignore']
    """
    named = next((name for name in names if name.lower() == BACKGROUND), None)
    used = {i.category.lower() for part in sets.values() for picture in part.pictures for i in picture.instances}
    return "ignore" if named is None or BACKGROUND in used else named


def _draw(picture: AnnotatedPicture, names: Sequence[str], unlabelled: str) -> np.ndarray:
    """The index mask of a picture, uint8 (H, W).

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> picture = AnnotatedPicture("a", Path(raster_file("a.png", np.zeros((1, 3), np.uint8))), (1, 3), ())
    >>> _draw(picture, ["cow", "background"], "background").tolist()
    [[1, 1, 1]]
    """
    classes = {name: place for place, name in enumerate(names)}
    labels = DrawnLabels(
        picture.path, [picture], classes, len(names), list(names), unlabelled=unlabelled, line_width=LINE_WIDTH
    )
    scene = RasterScene(picture.path)
    return labels.read(scene, Window(0, 0, scene.height, scene.width))


def dataset_info(names: Sequence[str], palette: np.ndarray, splits: Sequence[str]) -> str:
    """What dataset_info.py says: classes, palette (K, 3) and folders, as values that MMSegmentation's settings take.

    Examples
    --------
    >>> print(dataset_info(["it's", "cow"], np.uint8([[1, 2, 3], [4, 5, 6]]), ["train"]), end="")
    # Classes and folders of this data set, for the settings of MMSegmentation.
    dataset_type = 'BaseSegDataset'
    metainfo = {'classes': ("it's", 'cow'), 'palette': [[1, 2, 3], [4, 5, 6]]}
    img_suffix = None
    seg_map_suffix = '.png'
    reduce_zero_label = False
    ignore_index = 255
    data_prefix = {'train': {'img_path': 'train/data', 'seg_map_path': 'train/labels'}}
    """
    places = [(split, f"{split}/") for split in splits] or [("all", "")]
    values = {
        "dataset_type": "BaseSegDataset",
        "metainfo": {"classes": tuple(names), "palette": palette.tolist()},
        "img_suffix": None,
        "seg_map_suffix": ".png",
        "reduce_zero_label": False,
        "ignore_index": IGNORED,
        "data_prefix": {
            split: {"img_path": f"{top}{PICTURES}", "seg_map_path": f"{top}{MASKS}"} for split, top in places
        },
    }
    lines = ["# Classes and folders of this data set, for the settings of MMSegmentation."]
    return "\n".join([*lines, *(f"{name} = {value!r}" for name, value in values.items()), ""])


def unsupported(annotations: AnnotationSet) -> list[str]:
    """List what masks of classes cannot hold of a set.

    Parameters
    ----------
    annotations : AnnotationSet
        What is to be written.

    Returns
    -------
    list of str
        Each with how many instances have it; empty when writing loses nothing.

    Examples
    --------
    >>> from utils.formats.types import Instance
    >>> cow = Instance("cow", mask={"size": [4, 6], "counts": [5, 2, 17]})
    >>> cows = cow, replace(cow, tags={}), Instance("dog", box_xyxy=np.array([0.0, 0, 4, 3]))
    >>> print(*unsupported(AnnotationSet([AnnotatedPicture("a", Path("a.png"), (4, 6), cows)], {})), sep="; ")
    objects of one class in one picture (their pixels become one): 2 of 3 instances; boxes without an outline (their \
pixels are of no class): 1 of 3 instances
    """
    alike: set[int] = set()
    for picture in annotations.pictures:
        categories = [instance.category for instance in picture.instances]
        alike.update(id(i) for i in picture.instances if categories.count(i.category) > 1)
    tests = {
        "objects of one class in one picture (their pixels become one)": lambda i: id(i) in alike,
        "boxes without an outline (their pixels are of no class)": is_only_box,
        "boxes beside outlines": lambda i: i.box_xyxy is not None and not is_only_box(i),
        "outlines (their pixels are written)": lambda i: bool(i.polygons),
        f"lines (drawn {LINE_WIDTH:g} pixels wide)": lambda i: bool(i.lines),
        "neither area nor line (left out)": lambda i: (
            i.box_xyxy is None and i.mask is None and not i.polygons and not i.lines
        ),
        "keypoints": lambda i: bool((i.keypoints[:, 2] > MISSING).any()),
        "z_order (drawn in that order)": lambda i: i.z_order != 0,
    }
    kept = ("boxes", "polygons", "holes", "lines", "masks", "keypoints", "z_order")
    return list_lost(annotations, kept, tests)
