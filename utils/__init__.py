"""Leaf tools, named by subject; none of them knows a task or a head."""

IGNORE_INDEX = 255  # label of pixels that no loss and no score counts
