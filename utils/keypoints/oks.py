"""Object keypoint similarity: the tolerance of each keypoint, and AP and AR as COCO defines them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any, Literal

import numpy as np

from utils.errors import SettingsError
from utils.geometry.crops import tight_box
from utils.keypoints.matching import PredictedPose, TruthPose, box_sides, is_counted, labelled_points

_MAX_DETECTIONS = 20  # per picture, as COCO has it for keypoints
_NOWHERE = 1e9  # pixels; a point that was not predicted, so far off that its similarity is exactly 0
_OKS_NAMES = ("AP", "AP50", "AP75", "AP_medium", "AP_large", "AR", "AR50", "AR75", "AR_medium", "AR_large")

# One tolerance for all points of any animal: nobody has measured how far its annotators disagree. It lies between
# COCO's nose (0.026) and hips (0.107); half of the similarity is lost at an error of 0.118 sizes, so that OKS 0.5 is
# about PCK@0.1 of the size. Unlike one over the number of points, it does not change when a point is added.
DEFAULT_SIGMA = 0.05
COCO_SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035),  # nose, eyes, ears
    *(0.079, 0.079, 0.072, 0.072, 0.062, 0.062),  # shoulders, elbows, wrists
    *(0.107, 0.107, 0.087, 0.087, 0.089, 0.089),  # hips, knees, ankles
)


def resolve_sigmas(sigmas: float | Sequence[float] | Literal["coco"], num_keypoints: int) -> np.ndarray:
    """Tolerance of each keypoint, as a share of the animal's size.

    Parameters
    ----------
    sigmas : float, sequence of float, or "coco"
        One number for all, one per keypoint, or those of COCO's 17 points of a person.
    num_keypoints : int
        K.

    Returns
    -------
    ndarray, shape (K,)
        The sigmas; COCO's formula takes them twofold, so that similarity is exp(-e^2 / (8 sigma^2 area)).

    Raises
    ------
    SettingsError
        If there are not as many as keypoints, or one is not above 0.

    Examples
    --------
    >>> resolve_sigmas(0.05, 2).tolist(), resolve_sigmas("coco", 17)[:2].tolist()
    ([0.05, 0.05], [0.026, 0.025])
    >>> resolve_sigmas([0.1, 0.2], 3)
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: keypoints.oks_sigmas: expected one number, or one per keypoint (3), got 2
    """
    given = COCO_SIGMAS if isinstance(sigmas, str) and sigmas == "coco" else sigmas
    if isinstance(given, str):
        raise SettingsError(f"keypoints.oks_sigmas: expected a number, a list of numbers or 'coco', got {given!r}")
    values = np.full(num_keypoints, given, float) if np.ndim(given) == 0 else np.array(given, float)
    if values.shape != (num_keypoints,):
        raise SettingsError(
            f"keypoints.oks_sigmas: expected one number, or one per keypoint ({num_keypoints}), got {len(values)}"
        )
    if not (np.isfinite(values) & (values > 0)).all():
        raise SettingsError(f"keypoints.oks_sigmas: expected numbers above 0, got {values.tolist()}")
    return values


def _xywh(box_xyxy: np.ndarray | None) -> list[float]:
    """A box as COCO writes it; zeros when there is none.

    `box_xyxy` has shape (4,).

    Examples
    --------
    >>> _xywh(np.array([1.0, 2, 4, 6])), _xywh(None)
    ([1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0])
    """
    return [0.0] * 4 if box_xyxy is None else [*map(float, box_xyxy[:2]), *box_sides(box_xyxy)]


def _coco_truth(pose: TruthPose) -> dict[str, Any]:
    """One truth as COCO has it.

    Examples
    --------
    >>> annotation = _coco_truth(TruthPose(np.array([[3.0, 4, 2], [np.nan, np.nan, 0]]), area=25.0))
    >>> annotation["keypoints"], annotation["num_keypoints"], annotation["area"], annotation["bbox"]
    ([3.0, 4.0, 2.0, 0.0, 0.0, 0.0], 1, 25.0, [3.0, 4.0, 0.0, 0.0])
    """
    labelled = pose.keypoints[:, 2] > 0
    box = tight_box(labelled_points(pose.keypoints)) if pose.box_xyxy is None else pose.box_xyxy
    return {
        "keypoints": np.where(labelled[:, None], pose.keypoints, 0.0).ravel().tolist(),
        "num_keypoints": int(labelled.sum()),
        "area": 0.0 if pose.area is None or math.isnan(pose.area) else float(pose.area),
        "bbox": _xywh(box),
        "iscrowd": int(pose.is_crowd),
    }


def _coco_prediction(pose: PredictedPose) -> dict[str, Any]:
    """One prediction as COCO has it; its area is that of the box of its points.

    Examples
    --------
    >>> annotation = _coco_prediction(PredictedPose(np.array([[1.0, 2, 0.9], [3, 6, 0.8], [np.nan, 0, 0]]), 0.5))
    >>> annotation["keypoints"][6:], annotation["area"], annotation["score"]
    ([1000000000.0, 1000000000.0, 0.0], 8.0, 0.5)
    """
    found = np.isfinite(pose.keypoints[:, :2]).all(axis=1)
    places = np.where(found[:, None], pose.keypoints[:, :2], _NOWHERE)
    box = _xywh(tight_box(places[found]))
    return {
        "keypoints": np.column_stack([places, found]).ravel().tolist(),
        "num_keypoints": int(found.sum()),
        "area": box[2] * box[3],
        "bbox": box,
        "iscrowd": 0,
        "score": float(pose.score),
    }


def _coco_set(annotations: Sequence[Sequence[dict[str, Any]]], num_keypoints: int) -> dict[str, Any]:
    """Join the annotations of all pictures, numbered from 1.

    Examples
    --------
    >>> joined = _coco_set([[{"area": 1.0}], [], [{"area": 2.0}]], num_keypoints=1)
    >>> joined["annotations"][1], len(joined["images"])
    ({'area': 2.0, 'id': 2, 'image_id': 3, 'category_id': 1}, 3)
    """
    joined: list[dict[str, Any]] = []
    for image_id, of_picture in enumerate(annotations, start=1):
        for annotation in of_picture:
            joined.append({**annotation, "id": len(joined) + 1, "image_id": image_id, "category_id": 1})
    return {
        "images": [{"id": image_id} for image_id in range(1, len(annotations) + 1)],
        "annotations": joined,
        "categories": [{"id": 1, "name": "pose", "keypoints": [str(index) for index in range(num_keypoints)]}],
    }


def oks_scores(
    truths: Sequence[Sequence[TruthPose]], predictions: Sequence[Sequence[PredictedPose]], sigmas: np.ndarray
) -> dict[str, float]:
    """Average precision and recall by object keypoint similarity, as COCO defines them.

    Parameters
    ----------
    truths : sequence of sequences of TruthPose
        Per picture of the set, the empty ones too: what is predicted there is false. Truths have areas. Crowds and
        truths without a labelled point are neither found nor missed, and what is predicted on them is not false.
    predictions : sequence of sequences of PredictedPose
        Per picture; the 20 of highest score count.
    sigmas : ndarray, shape (K,)
        Tolerances, from `resolve_sigmas`. As in COCO, points with v = 1 and v = 2 count alike.

    Returns
    -------
    dict
        "AP" and "AR" (means over the thresholds 0.5, 0.55, ... 0.95), "AP50", "AP75", "AR50", "AR75", and "AP_medium",
        "AP_large", "AR_medium", "AR_large" for animals of 32^2 to 96^2 and above 96^2 square pixels. NaN where there is
        no truth to find.

    Raises
    ------
    SettingsError
        If the package faster-coco-eval is not installed.

    References
    ----------
    Keypoint evaluation of COCO, cocodataset.org/#keypoints-eval, through faster-coco-eval.

    Examples
    --------
    >>> truth = TruthPose(np.array([[10.0, 10, 2], [50, 90, 2]]), area=3200.0)
    >>> right, wrong = PredictedPose(truth.keypoints, 0.5), PredictedPose(truth.keypoints + 100, 0.75)
    >>> scores = oks_scores([[truth]], [[right, wrong]], np.array([0.05, 0.05]))
    >>> scores["AP"], scores["AR"], scores["AP_medium"], scores["AP_large"]
    (0.5, 1.0, 0.5, nan)
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        raise SettingsError("OKS: the package faster-coco-eval is missing; pip install -r requirements.txt") from None
    if not any(is_counted(pose) and not math.isnan(pose.area or math.nan) for pose in chain(*truths)):
        return dict.fromkeys(_OKS_NAMES, math.nan)
    annotations = (
        [[_coco_truth(pose) for pose in of_picture] for of_picture in truths],
        [[_coco_prediction(pose) for pose in of_picture] for of_picture in predictions],
    )
    sets = [COCO(_coco_set(of_pictures, len(sigmas))) for of_pictures in annotations]
    evaluation = COCOeval_faster(*sets, "keypoints", kpt_oks_sigmas=sigmas.tolist())
    evaluation.params.maxDets = [_MAX_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    # -1 stands for "no truth of this size"
    return {
        name: float(value) if value >= 0 else math.nan for name, value in zip(_OKS_NAMES, evaluation.stats, strict=True)
    }
