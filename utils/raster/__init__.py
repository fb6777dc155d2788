"""Georeferenced rasters: scenes, windows, strips, writers, polygons and labels in any CRS."""
