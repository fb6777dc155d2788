"""CVAT: an XML file of pictures or tracks with boxes, outlines, lines, masks and skeletons."""
