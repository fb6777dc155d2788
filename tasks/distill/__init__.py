"""Distillation: a small backbone is trained on the feature maps of a large one, without labels."""
