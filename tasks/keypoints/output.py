"""Output of keypoints: scores, comparison pictures, and predictions in several formats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from tasks.baselines import ColourBaseline
from tasks.belief import LEAST_POINTS, LEAST_POINTS_OF_ONE, Doubt, Support
from tasks.item import Item, Piece
from tasks.keypoints.baseline import KeypointColours
from tasks.keypoints.items import PoseItem
from tasks.keypoints.labels import PoseLabels
from tasks.keypoints.metric import KeypointMetric, report_scores
from tasks.keypoints.settings import KeypointsSettings
from tasks.keypoints.sinks import PoseSink, gather_predictions
from tasks.labelled import decode_picture
from tasks.output import Metric, Output, Sink, name_scores
from tasks.sample import Sample
from utils.formats.coco.label_ids import LabelIds, find_ids
from utils.keypoints.drawing import draw_poses
from utils.keypoints.matching import PredictedPose, TruthPose
from utils.keypoints.plots import draw_pose_comparison
from utils.report.colours import class_palette

MOST_MISSED = 0.5  # share of labelled points without a peak from which the model is as good as silent


class KeypointsOutput(Output):
    """Scores of poses, and the files of predictions.

    Parameters
    ----------
    settings : KeypointsSettings
        Thresholds and formats.
    labels : PoseLabels
        The skeleton.

    Examples
    --------
    >>> from tasks.keypoints.example import pose_task
    >>> pose_task().output.metric().compute()["OKS_AP"]
    nan
    """

    def __init__(self, settings: KeypointsSettings, labels: PoseLabels):
        self.settings, self.labels = settings, labels

    @override
    def metric(self, phase: str = "train") -> Metric:
        return KeypointMetric(self.labels.skeleton, self.settings.keypoints)

    @override
    def baseline(self) -> ColourBaseline:
        return KeypointColours(self.settings.keypoints.instance_mode == "per_instance")

    @override
    def scores_by_class(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        columns, names = metrics.get("per_keypoint", {}), self.labels.skeleton.names
        return name_scores({name: {key: columns[key][row] for key in columns} for row, name in enumerate(names)})

    @override
    def support(self, metrics: dict[str, Any]) -> Support:
        labelled, missed = metrics["labelled"], metrics["missed"]
        counts = dict(zip(self.labels.skeleton.names, metrics["per_keypoint"]["labelled"], strict=True))
        doubts = []
        if missed > MOST_MISSED * labelled:
            what = f"{missed:,} of {labelled:,} labelled points have no peak above keypoints.min_score"
            doubts.append(Doubt("confidence_near_chance", f"{what} ({self.settings.keypoints.min_score:g})"))
        return Support("points", counts, LEAST_POINTS, LEAST_POINTS_OF_ONE, "keypoint", doubts)

    @override
    def report(self, metrics: dict[str, Any], folder: Path, log: Any) -> None:
        report_scores(metrics, self.labels.skeleton, folder, log)

    @override
    def draw(self, item: Item, pieces: Iterable[Piece]) -> np.ndarray | None:
        assert isinstance(item, PoseItem)
        animals = item.picture.instances
        true = [TruthPose(animal.keypoints, animal.box_xyxy, animal.area, animal.is_crowd) for animal in animals]
        arrays = next(iter(pieces)).arrays
        pairs = zip(arrays["keypoints"], arrays["scores"], strict=True)
        predicted = [PredictedPose(keypoints, float(score)) for keypoints, score in pairs]
        skeleton = self.labels.skeleton
        return draw_pose_comparison(decode_picture(item.picture), true, predicted, skeleton.names, skeleton.edges)

    @override
    def draw_sample(self, sample: Sample) -> np.ndarray:
        poses = [pose for pose in sample.arrays["keypoints"] if (pose[:, 2] > 0).any()]
        return draw_poses(sample.arrays["image"], poses, self.labels.skeleton.edges, third="visibility")

    @override
    def sample_legend(self) -> list[tuple[str, Sequence[int]]]:
        names = self.labels.skeleton.names
        return list(zip(names, class_palette(256)[: len(names)].tolist(), strict=True))

    @override
    def sink(self, item: Item, folder: Path, fingerprint: dict[str, Any]) -> Sink:
        assert isinstance(item, PoseItem)
        return PoseSink(item, folder, self.labels.skeleton, self.settings.keypoints.formats, fingerprint)

    @override
    def write_summary(self, items: Sequence[Item], folder: Path) -> list[Path]:
        poses = [item for item in items if isinstance(item, PoseItem)]
        category = self.settings.keypoints.category or self.labels.fixed.get("category") or "animal"
        formats = self.settings.keypoints.formats
        return gather_predictions(
            poses, folder, self.labels.skeleton, formats, lambda: self._label_ids(poses), category
        )

    def _label_ids(self, items: Sequence[PoseItem]) -> LabelIds | None:
        """Ids of the pictures in the COCO labels of the task or of evaluate, if one file holds them all.

        Examples
        --------
        >>> from tasks.keypoints.example import pose_task
        >>> task = pose_task()
        >>> ids = task.output._label_ids(task.source.items("inference"))
        >>> sorted(ids.pictures.values()), ids.category
        ([1, 2, 3, 4], 1)
        """
        paths, of_evaluate = self.settings.paths, self.settings.evaluate.labels
        pictures, names = [item.picture.path for item in items], self.labels.skeleton.names
        for labels in (paths.label_path, of_evaluate):
            if labels is not None and Path(paths.locate(labels)).exists():
                beside = labels == of_evaluate
                found = find_ids(paths.locate(labels), paths.data_root, pictures, names, beside)
                if found is not None:
                    return found
        return None
