"""Settings for masks and vectors, after a look at them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.draft import PHASES_ON, Draft, NoLabelsError
from tasks.segmentation.label_places import CELL, LabelPlaces, find_places
from tasks.segmentation.source import ENOUGH_UNITS, MANY_PICTURES
from tasks.segmentation.task import SegmentationTask
from utils.errors import DataError
from utils.formats.masks.layout import find_splits, read_layout
from utils.logging import VerbosityLogger
from utils.raster.class_table import class_key
from utils.raster.fill import Fill, describe_fill, find_fill, values_to_leave_out
from utils.raster.header import read_header
from utils.raster.label_layout import Layout, find_layout
from utils.raster.label_pairs import is_vector
from utils.raster.label_survey import (
    MaskSurvey,
    VectorSurvey,
    classes_attribute,
    list_shares,
    survey_masks,
    survey_vectors,
)
from utils.raster.scene_paths import find_scenes
from utils.raster.scenes import RasterScene

BACKGROUND, OBJECT = "background", "object"
TILES = (512, 384, 256, 192, 128, 96, 64)  # sides to choose from, in pixels
ENOUGH_TILES = 12  # to draw a validation split from
MOST_LOOKED_AT = 64  # pictures whose labels and fill are looked for
FEW_IN_FILL = 0.01  # share of the labelled pixels; with more in fill, it is a class to who labelled it
RARE = 0.05  # share of a class below which classes are weighted
_COLOUR_NAMES = {
    (0, 0, 0): "black",
    (255, 255, 255): "white",
    (255, 0, 0): "red",
    (0, 255, 0): "green",
    (0, 0, 255): "blue",
    (255, 255, 0): "yellow",
    (255, 0, 255): "magenta",
    (0, 255, 255): "cyan",
}


def draft_segmentation(path: Path, changes: dict[str, Any], log: VerbosityLogger) -> Draft:
    """Look at pictures and their masks or vectors, and draft settings that train on them.

    Parameters
    ----------
    path : Path
        A folder of pictures and labels, a label file, or a folder of labels.
    changes : dict
        Settings that a person gives; `paths.raw_images_dir`, `dataset.label_layer` and `label_attribute` count here.
    log : VerbosityLogger
        Not used: what the labels hold is in the draft.

    Raises
    ------
    NoLabelsError
        If there are no labels or pictures.
    DataError
        If the labels cannot be read or are no classes.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import write_pictures
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_pictures(folder)
    >>> draft = draft_segmentation(folder, {}, VerbosityLogger("error"))
    >>> draft.tree["dataset"]["classes"], draft.tree["paths"]["label_path"]
    (['class_0', 'class_1'], 'labels')
    """
    dataset, given = dict(changes.get("dataset") or {}), (changes.get("paths") or {}).get("raw_images_dir")
    try:
        layout = find_layout(path, find_scenes(given) if given else None)
    except DataError as error:
        raise NoLabelsError(f"no masks or vectors: {error}") from None
    if all(map(is_vector, layout.labels)):
        survey = survey_vectors(layout.labels, dataset.get("label_layer"))
        settings, figures, advice = _from_vectors(survey, dataset.get("label_attribute"), layout)
        read_as = "vectors"
        advice += survey.doubts
    else:
        masks = survey_masks(layout.labels)
        settings, figures, advice = _from_masks(masks, layout)
        read_as = "masks, their colours" if masks.colours else "masks, their values"
    named = path.is_dir() and bool(find_splits(path))
    if named:  # classes.txt says what the values are
        settings = {"format": "masks", "classes": list(read_layout(path).names)}
        advice, read_as = advice[1:], "masks with classes.txt"
    if layout.pattern:
        settings["label_pattern"] = layout.pattern
    if layout.band_files:
        settings["band_files"] = list(layout.band_files)
    if layout.others:
        advice.append(f"vector files that are not used: {', '.join(map(str, layout.others[:5]))}; name one to use it")
    root = path if path.is_dir() else path.parent
    raw = layout.picture_source if not layout.band_files else layout.pictures[0].parent
    tree = {
        "paths": {
            "data_root": str(root),
            "raw_images_dir": None if named else given or _relative(raw, root),
            "label_path": "." if named else _relative(layout.label_source, root),
        },
        "dataset": settings,
        "model": {"backbone": "embedded"},
        **{phase: {"enable": True} for phase in PHASES_ON},
        "inference": {"enable": False, "inputs": "/path/to/new/pictures"},
    }
    tree["prepare"]["tile_size"] = _tile_size(layout)
    if any("weights" in line for line in advice):
        tree["train"]["loss"] = {"class_weights": "auto"}
    advice.append("model.backbone: facebook/dinov2-small, or the folder of its weights, is better and slower")
    read_as += f" ({', '.join(sorted({label.suffix.lower() for label in layout.labels}))})"
    return Draft("segmentation", tree, [_count_line(layout), *figures], advice, read_as=read_as, refine=refine)


def _relative(path: Path, root: Path) -> str:
    """A path below the data root, or as it is.

    Examples
    --------
    >>> _relative(Path("/x/masks"), Path("/x")), _relative(Path("/y"), Path("/x"))
    ('masks', '/y')
    """
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _count_line(layout: Layout) -> str:
    """Pictures and labels in numbers.

    Examples
    --------
    >>> _count_line(Layout((Path("a.tif"),), (Path("a.shp"),), Path("a.shp"), None))
    '1 pictures; 1 label files'
    """
    bands = layout.band_files
    pictures = f"1 picture of {len(bands)} files, one per band: {', '.join(bands)}" if bands else ""
    return f"{pictures or f'{len(layout.pictures)} pictures'}; {len(layout.labels)} label files"


def refine(draft: Draft, task: SegmentationTask, chosen: Sequence[Mapping[str, Any]]) -> None:
    """Look for undeclared fill and for the places of labels, and choose `dataset.nodata` and windows accordingly.

    Parameters
    ----------
    draft : Draft
        Changed in place, where a person has chosen nothing.
    task : SegmentationTask
        Made of the draft.
    chosen : sequence of mapping
        Settings that a person gives.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> draft = Draft("segmentation", {"dataset": {}, "prepare": {"tile_size": 64}}, [])
    >>> refine(draft, scene_task(), [])
    >>> draft.figures
    ['10112 of 10240 pixels are labelled (99 %): dark 5056, light 5056; 3 windows of 64 pixels hold some']
    """
    given = {(section, key) for tree in chosen for section in ("dataset", "prepare") for key in tree.get(section) or {}}
    scenes, dataset = task.source.scenes, task.settings.dataset
    names = sorted(scenes.labelled())
    some = {name: scenes.labelled()[name] for name in names[:: math.ceil(len(names) / MOST_LOOKED_AT)]}
    opened = {name: scenes.scene(files.paths) for name, files in some.items()}
    fills = {} if ("dataset", "nodata") in given else {name: find_fill(scene) for name, scene in opened.items()}
    nodata = sorted({value for found in fills.values() for value in values_to_leave_out(found)})
    labels = {name: scenes.labels(files.label) for name, files in some.items() if files.label is not None}
    is_full = dataset.unlabelled != "ignore" and any(is_vector(source.path) for source in labels.values())
    places = None if is_full else find_places(opened, labels, nodata)
    if nodata:
        _propose_nodata(draft, fills, nodata, places, all(scene.crs is not None for scene in opened.values()))
    if places is not None and len(some) == len(names):
        side = task.settings.prepare.tile_size if ("prepare", "tile_size") in given else None
        _fit_windows(draft, task.classes, list(opened.values()), places, side)


def _propose_nodata(
    draft: Draft,
    fills: Mapping[str, Sequence[Fill]],
    nodata: Sequence[float],
    places: LabelPlaces | None,
    is_placed: bool,
) -> None:
    """Set `dataset.nodata` to undeclared fill that no label calls a class, or suggest it where it may be data.

    Examples
    --------
    >>> import numpy as np
    >>> fills = {"a": [Fill(255.0, 0.25, True, (0.0, 254.0))]}
    >>> places = LabelPlaces(np.array([[0, 0, 0, 0]]), np.array([9]), 4096, 0)
    >>> draft = Draft("segmentation", {"dataset": {}}, [])
    >>> _propose_nodata(draft, fills, [255.0], places, True)
    >>> draft.tree, draft.figures[0].partition("; ")[2]
    ({'dataset': {'nodata': 255}}, 'dataset.nodata leaves them out of training and of maps; if they are data, set ...')
    >>> draft = Draft("segmentation", {"dataset": {}}, [])
    >>> _propose_nodata(draft, fills, [255.0], places, False)
    >>> draft.tree, draft.advice[0].partition("; ")[2]
    ({'dataset': {}}, 'they are read as data; if they hold nothing, set dataset.nodata: 255, and if they are data, ...')
    """
    if places is None or not is_placed or places.in_fill > FEW_IN_FILL * places.counts.sum():
        draft.advice.append(describe_fill(fills, "they are read as data"))
        return
    values = [int(value) if value.is_integer() else value for value in nodata]
    draft.tree["dataset"]["nodata"] = values[0] if len(values) == 1 else values
    what = describe_fill(fills, "dataset.nodata leaves them out of training and of maps")
    draft.figures.append(f"{what.partition('; if they hold nothing')[0]}; if they are data, set dataset.nodata: []")


def _fit_windows(
    draft: Draft,
    classes: Sequence[str],
    scenes: Sequence[RasterScene],
    places: LabelPlaces,
    side: int | None,
) -> None:
    r"""Say how many pixels are labelled, and choose windows so small that enough of them hold labels.

    A `side` that a person chose stays. Of windows below the cells in which labels are counted nothing is said.

    Examples
    --------
    >>> import numpy as np
    >>> from utils.raster.example import raster_file
    >>> scene = RasterScene(raster_file("a.tif", np.zeros((2048, 2048), np.uint8)))
    >>> cells = [[0, 4 * place, 7, 0] for place in range(12)] + [[0, 0, 7, 1]]
    >>> draft = Draft("segmentation", {"dataset": {}, "prepare": {"tile_size": 512}}, [])
    >>> _fit_windows(draft, ["sand", "reed"], [scene], LabelPlaces(np.array(cells), np.full(13, 5), 2048**2, 0), None)
    >>> draft.tree
    {'dataset': {'splits': {'block_tiles': 1}}, 'prepare': {'tile_size': 128}}
    >>> print(*draft.figures, *draft.advice, sep="\n")
    65 of 4194304 pixels are labelled (0.0015 %): sand 60, reed 5; 12 windows of 128 pixels hold some
    reed: labelled in 1 of these windows, so it cannot be both learnt and scored; label it in other places too
    """
    if places.counts.sum() == places.pixels:
        return
    usable = [side for side in TILES if side <= draft.tree["prepare"]["tile_size"]]
    numbers = {side: places.windows(side)[0] for side in usable}
    if side is None and numbers:
        enough = min(ENOUGH_TILES, max(numbers.values()))
        draft.tree["prepare"]["tile_size"] = next(side for side, number in numbers.items() if number >= enough)
    side = side or draft.tree["prepare"]["tile_size"]
    number, per_class = places.windows(max(side, CELL))
    placed = all(scene.crs is not None for scene in scenes)
    if number < ENOUGH_UNITS and (len(scenes) == 1 or (placed and len(scenes) < MANY_PICTURES)):
        draft.tree["dataset"].setdefault("splits", {}).setdefault("block_tiles", 1)  # larger blocks would be too few
    counts = places.per_class(len(classes)).tolist()
    listed = ", ".join(f"{name} {count}" for name, count in zip(classes, counts, strict=True))
    share = f"{100 * sum(counts) / places.pixels:.2g}"
    windows = f"; {'about ' if side % CELL else ''}{number} windows of {side} pixels hold some" if side >= CELL else ""
    draft.figures.append(f"{sum(counts)} of {places.pixels} pixels are labelled ({share} %): {listed}{windows}")
    lone = [classes[index] for index, held in per_class.items() if held == 1]
    if lone and side >= CELL:
        what = "labelled in 1 of these windows, so it cannot be both learnt and scored; label it in other places too"
        draft.advice.append(f"{', '.join(lone)}: {what}")


def _tile_size(layout: Layout) -> int:
    """Side of a window: no larger than the pictures, and so small that there are enough windows to draw a split from.

    Examples
    --------
    >>> from utils.raster.example import raster_file
    >>> import numpy as np
    >>> path = Path(raster_file("a.tif", np.zeros((300, 900, 3), np.uint8)))
    >>> _tile_size(Layout((path,), (), path, None))
    128
    """
    grids = [read_header(path).grid for path in (layout.pictures[:1] if layout.band_files else layout.pictures)]
    sides = sorted(min(grid.height, grid.width) for grid in grids)
    for side in TILES:
        tiles = sum(math.ceil(grid.height / side) * math.ceil(grid.width / side) for grid in grids)
        if side <= sides[len(sides) // 2] and tiles >= ENOUGH_TILES:
            return side
    return TILES[-1]


def _from_masks(survey: MaskSurvey, layout: Layout) -> tuple[dict[str, Any], list[str], list[str]]:
    """Classes of the values or colours of masks: settings, figures and advice.

    Raises
    ------
    DataError
        If there is only one value.

    Examples
    --------
    >>> from collections import Counter
    >>> layout = Layout((Path("a.png"),), (Path("a_mask.png"),), Path("a_mask.png"), None)
    >>> settings, figures, advice = _from_masks(MaskSurvey(Counter({0: 90, 255: 10})), layout)
    >>> settings["classes"], settings["label_mapping"], figures
    (['background', 'object'], {0: 'background', 255: 'object'}, ['values of the labels: 0 90 %, 255 10 %'])
    >>> _from_masks(MaskSurvey(Counter({0: 5, 2: 5, 255: 1})), layout)[0]["label_mapping"]
    {0: 'class_0', 2: 'class_2', 255: 'ignore'}
    >>> _from_masks(MaskSurvey(colours=Counter({(0, 0, 0): 5, (1, 2, 255): 5})), layout)[0]["label_colours"]
    {'black': [0, 0, 0], 'colour_0102ff': [1, 2, 255]}
    """
    shares = survey.shares()
    advice = ["name the classes in dataset.classes, and in the mapping of values or colours"]
    if len(shares) < 2:
        only = shares[0][0] if shares else "nodata"
        raise DataError(f"{layout.label_source}: its labels hold only {only}, so there is nothing to learn")
    what = "colours" if survey.colours else "values"
    figures = [f"{what} of the labels: " + ", ".join(f"{name} {100 * share:.3g} %" for name, share in shares)]
    if survey.hidden:
        figures.append(f"nodata of the labels: {survey.hidden} pixels, which are not learnt")
    if min(share for _, share in shares) < RARE:
        advice.append("some classes are rare: train.loss.class_weights is auto")
    if survey.colours:
        colours = {_COLOUR_NAMES.get(key, f"colour_{bytes(key).hex()}"): list(key) for key in sorted(survey.colours)}
        advice.append("a colour that means 'not labelled' gets the class ignore: label_colours: {ignore: [0, 0, 0]}")
        return {"classes": list(colours), "label_colours": colours}, figures, advice
    values = sorted(survey.values)
    if len(values) == 2 and values[0] == 0:
        names = {0: BACKGROUND, values[1]: OBJECT}
    else:
        names = {value: f"class_{value}" if 0 <= value != 255 else "ignore" for value in values}
        left_out = [str(value) for value, name in names.items() if name == "ignore"]
        if left_out:
            listed = ", ".join(left_out)
            advice.append(f"{listed}: taken as 'not labelled'; give it a class in dataset.label_mapping if it is one")
    classes = [name for name in names.values() if name != "ignore"]
    return {"classes": classes, "label_mapping": names}, figures, advice


def _from_vectors(
    survey: VectorSurvey, chosen: str | None, layout: Layout
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Classes of an attribute, or one class of all features: settings, figures and advice.

    Raises
    ------
    DataError
        If there is no feature, or the attribute is not there.

    Examples
    --------
    >>> from collections import Counter
    >>> layout = Layout((Path("a.tif"),), (Path("houses.gpkg"),), Path("houses.gpkg"), None)
    >>> _from_vectors(VectorSurvey(3, Counter(Polygon=3), {"id": Counter("123")}), None, layout)[0]
    {'classes': ['background', 'object'], 'label_mapping': {'*': 'object'}, 'unlabelled': 'background'}
    >>> counts, areas = {"kind": Counter(["road", "field", "road"])}, {"kind": Counter(road=1.0, field=3.0)}
    >>> found = VectorSurvey(3, Counter(Polygon=3), counts, areas)
    >>> settings, figures, advice = _from_vectors(found, None, layout)
    >>> settings
    {'classes': ['field', 'road'], 'label_attribute': 'kind', 'unlabelled': 'ignore'}
    >>> figures[-1]
    'kind: field 75 %, road 25 %'
    """
    if not survey.features:
        raise DataError(f"{layout.label_source}: holds no features; name another file")
    if chosen is not None and chosen not in survey.attributes:
        listed = ", ".join(survey.attributes) or "none"
        raise DataError(f"{layout.label_source}: no attribute {chosen!r}; attributes: {listed}")
    kinds = list_shares(survey.geometries)
    what = "area" if survey.by_area else "features, as some have no area"
    figures = [f"{survey.features} features: {kinds}; attributes, with the share of each value in the {what}:"]
    varied = [name for name, counts in survey.attributes.items() if len(counts) > 1]
    figures += [f"{name}: {list_shares(survey.weights(name))}" for name in varied]
    if len(varied) < len(survey.attributes):
        constant = [name for name in survey.attributes if name not in varied]
        figures.append(f"{len(constant)} attributes with one value, such as {', '.join(constant[:5])}")
    attribute = chosen or classes_attribute(survey)
    if attribute is None:
        advice = ["no attribute looks like classes: all features are one; others: set dataset.label_attribute"]
        mapping = {"*": OBJECT}
        return {"classes": [BACKGROUND, OBJECT], "label_mapping": mapping, "unlabelled": BACKGROUND}, figures, advice
    counts = survey.attributes[attribute]
    names = {value: _class_name(value) for value in sorted(counts) if value != class_key(None)}
    mapping = {value: name for value, name in names.items() if value != name}
    if class_key(None) in counts:
        mapping[class_key(None)] = "ignore"
    settings: dict[str, Any] = {"classes": list(dict.fromkeys(names.values())), "label_attribute": attribute}
    settings |= {"label_mapping": mapping} if mapping else {}
    advice = ["dataset.unlabelled: a class, such as background, if what lies outside all features is one"]
    covered = survey.weights(attribute)
    if min(covered.values()) < RARE * sum(covered.values()):
        advice.append("some classes are rare: train.loss.class_weights is auto")
    return {**settings, "unlabelled": "ignore"}, figures, advice


def _class_name(value: str) -> str:
    r"""A class name for a value of an attribute.

    Examples
    --------
    >>> _class_name("Wet Sand"), _class_name("7"), _class_name(" a\tb "), _class_name("ignore")
    ('Wet Sand', 'class_7', 'a b', 'class_ignore')
    """
    name = " ".join("".join(letter if letter.isprintable() else " " for letter in value).split())
    return name if name and not name.lstrip("-").isdigit() and name != "ignore" else f"class_{name or 'empty'}"
