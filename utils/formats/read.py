"""Reading labelled pictures of any format."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from utils.errors import DataError
from utils.formats import recognise
from utils.formats.box_rules import keep_boxes
from utils.formats.coco.read import read_coco
from utils.formats.cvat.read import read_cvat
from utils.formats.deeplabcut.read import read_deeplabcut
from utils.formats.fiftyone.read import read_fiftyone
from utils.formats.labelme.read import read_labelme
from utils.formats.masks.read import read_masks
from utils.formats.pose_rules import keep_poses
from utils.formats.predictions import refuse_predictions
from utils.formats.tables.read import read_tables
from utils.formats.types import BOX_FORMATS, CLASS_FORMATS, FORMATS, AnnotationSet
from utils.formats.vector.classes import VectorChoice
from utils.formats.vector.read import read_vector
from utils.formats.voc.read import read_voc
from utils.formats.yolo.read import read_yolo
from utils.runtime.reading import file_errors

logger = logging.getLogger(__name__)


def read_annotations(
    path: str | Path,
    format: str = "auto",
    root: str | Path | None = None,
    keypoint_names: Sequence[str] | None = None,
    need_keypoints: bool = False,
    predictions: bool = False,
    choice: VectorChoice | None = None,
    need_objects: bool = False,
) -> dict[str, AnnotationSet]:
    """Read labelled pictures of any format.

    Parameters
    ----------
    path : str or Path
        A data set file (YAML, JSON, JSONL, XML, csv, list, GeoPackage) or a folder.
    format : str
        auto, yolo, labelme, coco, deeplabcut, cvat, fiftyone, voc, csv, vector or masks; auto looks at the content.
    root : str or Path, optional
        Data root: picture ids are relative to it, and no label may point out of it. By default what the file says,
        else its own folder.
    keypoint_names : sequence of str, optional
        Of LabelMe, in place of those that the files name.
    need_keypoints : bool
        Whether files whose format could hold keypoints, but of which no category has any, are refused.
    predictions : bool
        Whether objects with scores, which no person has labelled, are given too.
    choice : VectorChoice, optional
        Layer and attribute of vector files.
    need_objects : bool
        Whether masks of classes, which tell no objects apart, are refused.

    Returns
    -------
    dict of str to AnnotationSet
        By split name; a source without splits gives one set named "all".

    Raises
    ------
    DataError
        If nothing can be read, or all of it is predictions; the error names what was tried. A single bad row or a
        prediction is skipped and becomes a Problem.
    ValueError
        If `format` is unknown.

    Examples
    --------
    >>> import json, tempfile, cv2, numpy as np
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = cv2.imwrite(str(folder / "a.png"), np.zeros((4, 6), np.uint8))
    >>> car = {"label": "car", "points": [[1, 2], [5, 4]], "shape_type": "rectangle"}
    >>> _ = (folder / "a.json").write_text(json.dumps({"imagePath": "a.png", "shapes": [car]}))
    >>> picture = read_annotations(folder)["all"].pictures[0]
    >>> picture.instances[0].category, picture.instances[0].box_xyxy.tolist()
    ('car', [1.0, 2.0, 5.0, 4.0])
    """
    if format not in ("auto", *FORMATS):
        raise ValueError(f"unknown format {format!r}; known: auto, {', '.join(FORMATS)}")
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; give a data set file or a folder")
    with file_errors(path, "cannot be read as labels"):
        source, found = recognise.find_source(path, format)
        if format == "auto" and (others := recognise.other_formats(path, found)):
            logger.warning("%s", others)
    if keypoint_names is not None and found != "labelme":
        raise DataError(f"{path}: a file of {found} names its keypoints itself; drop keypoints.names_file")
    if choice is not None and not choice.is_default and found != "vector":
        raise DataError(
            f"{path}: labels of format {found} have no layers and attributes; drop dataset.label_layer and "
            "dataset.label_attribute"
        )
    if need_keypoints and found in BOX_FORMATS:
        raise DataError(f"{path}: labels of format {found} are boxes without keypoints; name labels of keypoints")
    if need_objects and found in CLASS_FORMATS:
        raise DataError(f"{path}: masks of classes tell no objects apart; name labels of objects")
    with file_errors(source, f"cannot be read as labels of format {found}"):
        if found == "labelme":
            sets = read_labelme(source, root, keypoint_names, need_keypoints)
        elif found == "deeplabcut":
            sets = read_deeplabcut(source, root)
        elif found == "fiftyone":
            sets = read_fiftyone(source, root, need_keypoints, need_objects)
        elif found == "vector":
            sets = read_vector(source, root, choice)
        elif found in CLASS_FORMATS:
            sets = read_masks(source, root)
        elif found in BOX_FORMATS:
            sets = {"voc": read_voc, "csv": read_tables}[found](source, root)
        else:
            readers = {"yolo": read_yolo, "coco": read_coco, "cvat": read_cvat}
            sets = readers[found](source, root, need_keypoints)
    return sets if predictions else refuse_predictions(source, sets)


def read_poses(
    path: str | Path,
    format: str = "auto",
    root: str | Path | None = None,
    keypoint_names: Sequence[str] | None = None,
    predictions: bool = False,
) -> dict[str, AnnotationSet]:
    """Read labelled pictures whose instances have keypoints: see `read_annotations`.

    An instance has as many keypoints as its category, all missing where its label is a box or an outline only. Of two
    labels with equal class, points and box one is read; predictions are all read.

    Raises
    ------
    DataError
        If nothing can be read, or a file that must hold keypoints has none.
    ValueError
        If `format` is unknown.

    Examples
    --------
    >>> read_poses("/no/such/folder")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: /no/such/folder: no such file or folder; give a data set file or a folder
    """
    sets = read_annotations(
        path, format, root, keypoint_names, need_keypoints=True, predictions=predictions, need_objects=True
    )
    return sets if predictions else keep_poses(sets)


def read_boxes(
    path: str | Path,
    format: str = "auto",
    root: str | Path | None = None,
    choice: VectorChoice | None = None,
) -> dict[str, AnnotationSet]:
    r"""Read labelled pictures whose instances have boxes: see `read_annotations`.

    Every instance has a box inside its picture: what reaches beyond is cut at the edge, an outline without a box gets
    the box around it, and of two equal boxes of one class one is read.

    Raises
    ------
    DataError
        If nothing can be read, or nothing has a box: keypoints alone have none.
    ValueError
        If `format` is unknown.

    Examples
    --------
    >>> import tempfile, cv2, numpy as np
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = cv2.imwrite(str(folder / "a.png"), np.zeros((40, 60, 3), np.uint8))
    >>> _ = (folder / "boxes.csv").write_text("image_path,xmin,xmax,ymin,ymax,label\na.png,-3,30,10,20,Tree\n")
    >>> read_boxes(folder)["all"].pictures[0].instances[0].box_xyxy.tolist()
    [0.0, 10.0, 30.0, 20.0]
    """
    return keep_boxes(read_annotations(path, format, root, choice=choice, need_objects=True))
