"""Keypoints: animals and tools, from few labels."""

from tasks.keypoints.task import KeypointsTask

__all__ = ["KeypointsTask"]
