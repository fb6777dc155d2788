"""DeepLabCut: csv tables of keypoints."""
