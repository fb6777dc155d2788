"""How the labels of a training were read: what a checkpoint keeps of it, so that new labels are read likewise."""

from __future__ import annotations

import glob
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from config import expand_path
from tasks.segmentation.annotations import read_families
from tasks.segmentation.settings import SegmentationDataset, SegmentationSettings

logger = logging.getLogger(__name__)

CODES = (
    "label_mapping",
    "label_nodata",
    "taxonomy",
)  # what values of labels mean; with label_colours they belong together
PLACES = ("label_pattern", "label_layer", "label_attribute", "unlabelled", "line_width", "overlap", "boxes")


def describe_labels(dataset: SegmentationDataset) -> dict[str, Any]:
    """What a checkpoint keeps of the settings of labels; a mapping as pairs, as its keys may be numbers.

    Examples
    --------
    >>> described = describe_labels(SegmentationDataset(label_mapping={7: "road", "*": "ignore"}))
    >>> described["label_mapping"], described["unlabelled"]
    ([[7, 'road'], ['*', 'ignore']], 'ignore')
    """
    described = {key: getattr(dataset, key) for key in (*CODES, *PLACES)}
    mapping = dataset.label_mapping
    families = None if dataset.taxonomy is None else read_families(dataset)  # its file may be gone
    pairs = None if mapping is None else [list(pair) for pair in mapping.items()]
    return described | {"label_mapping": pairs, "taxonomy": families}


def kept_labels(dataset: SegmentationDataset, description: dict[str, Any], path: Path) -> dict[str, Any]:
    """Settings of labels in a checkpoint, where the file does not say how labels are read.

    Parameters
    ----------
    dataset : SegmentationDataset
        The file's settings.
    description : dict
        Of the checkpoint.
    path : Path
        The checkpoint, for the log.

    Returns
    -------
    dict
        Settings by name. If the file says what values mean, by one of `label_mapping`, `label_colours`, `taxonomy` and
        `label_nodata`, none of these is taken from the checkpoint.

    Examples
    --------
    >>> trained = {"labels": describe_labels(SegmentationDataset(label_mapping={7: "road"}, unlabelled="field"))}
    >>> kept = kept_labels(SegmentationDataset(), trained, Path("best.safetensors"))
    >>> kept["label_mapping"], kept["unlabelled"]
    ({7: 'road'}, 'field')
    >>> kept = kept_labels(SegmentationDataset(label_nodata=[0]), trained, Path("best.safetensors"))
    >>> "label_mapping" in kept, kept["unlabelled"]
    (False, 'field')
    """
    described = description.get("labels")
    if described is None:  # of an older version
        return {}
    said = dataset.model_fields_set
    keys = [key for key in PLACES if key not in said]
    keys += [] if said & {*CODES, "label_colours"} else CODES
    kept = {key: described[key] for key in keys if key in described}  # those of older versions lack some
    if kept.get("label_mapping") is not None:
        kept["label_mapping"] = {key: value for key, value in kept["label_mapping"]}
    told = [f"{key} {value!r}" for key, value in kept.items() if value != getattr(SegmentationDataset(), key)]
    if told:
        logger.info("labels are read as in the training of %s: dataset.%s", path, ", dataset.".join(told))
    return kept


def kept_band_files(settings: SegmentationSettings, description: Mapping[str, Any]) -> dict[str, Any]:
    """`dataset.band_files` of a checkpoint, where the settings name none and the named pictures hold such files.

    A model that was trained on a scene of one file per band also takes files that hold all bands.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import scene_task
    >>> folder = Path(tempfile.mkdtemp())
    >>> settings = scene_task(f"inference.inputs={folder}").settings
    >>> kept_band_files(settings, {"band_files": ["B4.tif"]})
    {}
    >>> (folder / "B4.tif").touch()
    >>> kept_band_files(settings, {"band_files": ["B4.tif"]})
    {'band_files': ['B4.tif']}
    """
    names = description.get("band_files")  # not in old checkpoints
    if not names or "band_files" in settings.dataset.model_fields_set:
        return {}
    sources: list[str] = []
    for named in (settings.inference.inputs, settings.paths.resolve("raw_images_dir")):
        sources += named if isinstance(named, list) else [str(named)] if named else []
    for source in map(expand_path, sources):
        hits = [Path(hit) for hit in glob.glob(str(source))]
        folders = [*hits, *(inner for hit in hits if hit.is_dir() for inner in hit.iterdir())]
        if any((folder / name).is_file() for folder in folders for name in names):
            return {"band_files": list(names)}
    return {}
