"""Small rasters in temporary folders, for examples in docstrings."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from typing import Any

import numpy as np

from utils.raster.files import write_raster


def raster_file(name: str, values: np.ndarray, **options: Any) -> str:
    """Write a raster into a temporary folder, which is removed when the process ends.

    Parameters
    ----------
    name : str
        Its suffix chooses the format.
    values : array, shape (height, width) or (height, width, bands)
        The pixels.
    **options
        As `write_raster` takes them.

    Returns
    -------
    str
        The path of the file.

    Examples
    --------
    >>> import rasterio
    >>> with rasterio.open(raster_file("a.tif", np.zeros((4, 6), np.int16), nodata=-1)) as dataset:
    ...     dataset.shape, dataset.nodata
    ((4, 6), -1.0)
    """
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_raster(f"{folder}/{name}", values, **options)
    return f"{folder}/{name}"
