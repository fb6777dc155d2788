"""Pictures and videos: sizes, orientation and frames."""
