"""Keypoints: decoding, matching, losses, scores and drawing."""
