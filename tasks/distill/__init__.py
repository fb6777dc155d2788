"""Distillation: a small backbone learns the feature maps of a large one from pictures without labels."""
