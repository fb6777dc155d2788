"""Keypoints: animals and tools, from few labels."""
