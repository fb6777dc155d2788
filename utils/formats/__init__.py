"""Label formats of keypoints: readers and writers around one type, `PoseSet`; to convert is to read and to write."""
