"""Backbone, picture input of heads and windows of scenes continue a picture in one way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.backbones.random_backbone import write_random_backbone
from models.base import FeatureSpec
from models.layers import ImageInput
from tasks.example import example_task
from utils.geometry.padding import pad_picture
from utils.raster.tiling import Window


def reflected(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """As NumPy does it, by its own code."""
    below, right = size[0] - picture.shape[0], size[1] - picture.shape[1]
    return np.pad(picture, [(0, below), (0, right), *[(0, 0)] * (picture.ndim - 2)], mode="reflect")


@pytest.mark.parametrize("size", [(5, 7), (6, 9), (9, 30), (5, 8)])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_arrays_and_tensors_are_reflected_without_repeating_the_edge(shape, size):
    picture = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    padded = pad_picture(picture, size)
    assert np.array_equal(padded, reflected(picture, size))
    planes = torch.from_numpy(np.ascontiguousarray(np.moveaxis(picture, -1, 0) if picture.ndim == 3 else picture))
    turned = pad_picture(planes, size).numpy()
    assert np.array_equal(np.moveaxis(turned, 0, -1) if picture.ndim == 3 else turned, padded)
    assert pad_picture(picture, shape[:2]) is picture
    with pytest.raises(ValueError, match=r"a picture of \(5, 7\) cannot be padded to \(5, 6\)"):
        pad_picture(picture, (5, 6))


def by_backbone(picture: np.ndarray, tmp_path) -> np.ndarray:
    from models.backbone import load_backbone

    backbone = load_backbone(str(write_random_backbone(tmp_path, patch_size=4)), [0])
    planes = torch.from_numpy(picture).permute(2, 0, 1)[None]
    padded = (backbone.normalize(planes) - backbone.shift) / backbone.scale
    return padded[0].permute(1, 2, 0).numpy()


def by_head(picture: np.ndarray, tmp_path) -> np.ndarray:
    spec = FeatureSpec((8,), (4,), 4, 3, (0.0,) * 3, (1 / 255,) * 3)
    return ImageInput(spec, cells=4)(torch.from_numpy(picture).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()


def by_scene(picture: np.ndarray, tmp_path) -> np.ndarray:
    import rasterio

    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(0.5, 0, 500000, 0, -0.5, 5500000), "dtype": "uint8"}
    path = tmp_path / "scene.tif"
    with rasterio.open(path, "w", driver="GTiff", count=3, height=6, width=5, **place) as raster:
        raster.write(np.moveaxis(picture, -1, 0))
    task, _ = example_task(tmp_path, f"inference.inputs={path}", "dataset.value_range=[0, 255]", "prepare.tile_size=8")
    task.source.prepare_data()
    [item] = task.source.items("inference")
    arrays = task.source.scenes.read(item, Window(0, 0, 8, 8))
    assert arrays["valid"].sum() == picture[..., 0].size
    return arrays["image"]


@pytest.mark.parametrize("pad", [by_backbone, by_head, by_scene])
def test_one_picture_is_padded_alike_everywhere(pad, tmp_path):
    """On cfec367 it was reflected, replicated and mirrored with its edge."""
    picture = np.random.default_rng(1).integers(0, 256, (6, 5, 3)).astype(np.uint8)
    np.testing.assert_allclose(pad(picture, tmp_path), reflected(picture, (8, 8)), atol=0.01)


def test_entries_of_a_scene_smaller_than_a_tile_are_made_again(tmp_path):
    """Their windows were padded in another way; all others keep their manifests."""
    from tasks.segmentation.items import SceneItem

    large, small = (SceneItem("a", (), "a", Window(0, 0, 8, width), 8, 4, (0, 8)) for width in (8, 7))
    assert large.stamp() == ["a", [], [0, 0, 8, 8], 8, 4]
    assert small.stamp() == ["a", [], [0, 0, 8, 7], 8, 4, "reflect"]
