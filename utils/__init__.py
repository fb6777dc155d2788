"""Leaf tools, named by subject; none of them knows a task or a head."""

import os

# OpenCV's own lines go past the log and name no file; it reads this when it is first imported, so after this module.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")

IGNORE_INDEX = 255  # label of pixels that no loss and no score counts
