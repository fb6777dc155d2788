"""Semantic segmentation of georeferenced rasters and photo sets."""
