"""Pictures of keypoints with their truth."""

from __future__ import annotations

import numpy as np

from tasks.base import Piece
from tasks.keypoints.pictures import PoseItem, decode_picture
from utils.formats.types import Skeleton
from utils.pose_matching import PredictedPose, TruthPose
from utils.pose_plots import draw_pose_comparison


def draw_item(item: PoseItem, piece: Piece, skeleton: Skeleton) -> np.ndarray:
    """Draw a picture, its truth and what was predicted side by side.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.keypoints.example import animals_example
    >>> task, context = animals_example(tempfile.mkdtemp())
    >>> item = task.data.items("val")[0]
    >>> found = {"keypoints": np.zeros((0, 7, 3)), "scores": np.zeros(0)}
    >>> draw_item(item, Piece(item, found), task.data.skeleton).shape[2]
    3
    """
    true = [
        TruthPose(animal.keypoints, animal.box_xyxy, animal.area, animal.is_crowd) for animal in item.picture.instances
    ]
    found = [
        PredictedPose(keypoints, float(score))
        for keypoints, score in zip(piece.arrays["keypoints"], piece.arrays["scores"], strict=True)
    ]
    image = decode_picture(item.picture)
    return draw_pose_comparison(image, true, found, skeleton.names, skeleton.edges)
