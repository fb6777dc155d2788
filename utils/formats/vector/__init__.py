"""Vector files: outlines in map coordinates, which become boxes of the rasters that they lie on."""
