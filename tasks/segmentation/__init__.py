"""Semantic segmentation of georeferenced rasters and photo sets."""

from tasks.segmentation.task import SegmentationTask

__all__ = ["SegmentationTask"]
