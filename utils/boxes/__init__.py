"""Boxes: geometry, suppression, scores, plots and drawing."""
