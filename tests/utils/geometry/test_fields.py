"""Every kind of field moves with the picture: under each view and back, and under random warps of unequal sides."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from utils.errors import DataError
from utils.geometry.augment import IDENTITY, RandomGeometry, View, views_of
from utils.geometry.crops import random_similarity
from utils.geometry.fields import (
    Boxes,
    Displacements,
    Image,
    Maps,
    Mask,
    Points,
    Transform,
    Values,
    Vectors,
    apply_view,
    collate,
    merge_rows,
    padded_maps,
    sample_size,
    split_rows,
    warp,
)
from utils.geometry.warps import transform_points

VIEWS = views_of(hflip=True, rotate90=True)
NAMES = [view.name for view in VIEWS]
SIZE = (40, 56)
FIELDS = {
    "image": Image(),
    "canvas": Image("black"),
    "instances": Mask(0),
    "valid": Mask(0),
    "keypoints": Points((0, 2, 1)),
    "corners": Points(),
    "boxes": Boxes(),
    "flow": Vectors(),
    "shift": Displacements(),
    "matrix": Transform(),
    "class": Values(),
}


def make_sample(seed: int = 0, size: tuple[int, int] = SIZE) -> dict[str, np.ndarray]:
    """Coordinates are eighths of a pixel, so that they are exact."""
    generator = np.random.default_rng(seed)
    places = generator.integers(8, 8 * min(size) - 8, (6, 2)).astype(np.float32) / 8
    return {
        "image": generator.integers(0, 256, (*size, 3)).astype(np.uint8),
        "canvas": generator.integers(0, 256, (*size, 1)).astype(np.uint8),
        "instances": generator.integers(0, 999, size).astype(np.uint16),
        "valid": generator.random(size) < 0.7,
        "keypoints": np.concatenate([places[:3], [[2], [1], [2]]], axis=1).astype(np.float32)[None],
        "corners": places,
        "boxes": np.concatenate([places[:3], places[:3] + 4], axis=1),
        "flow": generator.normal(size=(*size, 2)).astype(np.float32),
        "shift": generator.normal(size=2).astype(np.float32),
        "matrix": random_similarity(generator, size, (0.5, 2.0), 90.0),
        "class": generator.integers(0, 9, 3),
    }


# --- views -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS, ids=NAMES)
def test_a_view_and_its_inverse_are_the_identity_on_every_kind(view: View) -> None:
    sample = make_sample()
    turned = apply_view(FIELDS, sample, view)
    back = apply_view(FIELDS, turned, view.invert())
    assert sample_size(FIELDS, turned) == (SIZE[::-1] if view.quarter_turns % 2 else SIZE)
    for name, value in sample.items():
        assert back[name].dtype == turned[name].dtype == value.dtype, name
        np.testing.assert_allclose(back[name], value, atol=1e-12, err_msg=name)
        moves = view != IDENTITY and name != "class"
        assert (turned[name].shape != value.shape or not np.array_equal(turned[name], value)) == moves, name


@pytest.mark.parametrize("view", VIEWS, ids=NAMES)
def test_a_marked_pixel_is_where_its_point_box_and_flow_go(view: View) -> None:
    """The pixel in row 7 and column 30 is marked in every grid; so are its centre, its square and its neighbour."""
    sample = make_sample()
    sample["valid"] = np.zeros(SIZE, bool)
    sample["valid"][7, 30] = True
    sample["corners"] = np.array([[30.5, 7.5]])
    sample["boxes"] = np.array([[30, 7, 31, 8]])
    sample["flow"][7, 30] = (3, 1)
    turned = apply_view(FIELDS, sample, view)
    [[row, column]] = np.argwhere(turned["valid"])
    assert turned["corners"].tolist() == [[column + 0.5, row + 0.5]]
    assert turned["boxes"].tolist() == [[column, row, column + 1, row + 1]]
    neighbour = apply_view(FIELDS, sample | {"corners": np.array([[33.5, 8.5]])}, view)["corners"]
    assert np.array_equal(turned["flow"][row, column], (neighbour - turned["corners"])[0])
    assert np.array_equal(turned["image"][row, column], sample["image"][7, 30])
    there = transform_points(transform_points(np.array([2.0, 3.0]), sample["matrix"]), view.matrix(SIZE))
    np.testing.assert_allclose(transform_points(np.array([2.0, 3.0]), turned["matrix"]), there)


@pytest.mark.parametrize("view", VIEWS, ids=NAMES)
@pytest.mark.parametrize("dtype", [np.uint8, bool, np.uint16, np.int32, np.float32, np.int64, np.float64, np.float16])
@pytest.mark.parametrize("channels", [None, 1, 2, 3, 5])
def test_pixels_of_any_type_are_moved_as_numpy_moves_them(channels, dtype, view: View) -> None:
    shape = (5, 7) if channels is None else (5, 7, channels)
    array = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    expected = np.rot90(np.flip(array, 1) if view.flip else array, view.quarter_turns)
    for given in (array, np.asfortranarray(array)):
        turned = view.apply(given)
        assert turned.dtype == dtype
        assert turned.flags.c_contiguous
        assert np.array_equal(turned, expected)


def test_left_and_right_change_places_in_mirrors_only() -> None:
    points = np.array([[20, 5, 2], [10, 5, 2], [30, 5, 1]], np.float32)
    for view in VIEWS:
        moved = Points((0, 2, 1)).apply_view(points, view, SIZE)
        order = [0, 2, 1] if view.flip else [0, 1, 2]
        assert np.array_equal(moved[order, :2], view.points(points[:, :2], SIZE))
        assert moved[order, 2].tolist() == [2, 2, 1]


def test_points_outside_are_dropped_where_they_have_a_visibility() -> None:
    shift = np.array([[1.0, 0, 50], [0, 1, 0], [0, 0, 1]])
    points = np.array([[2.0, 3, 2, 7], [9, 3, 2, 8], [4, 4, 0, 9]])
    moved = Points().warp(points, shift, SIZE, SIZE)
    assert moved.tolist() == [[52, 3, 2, 7], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert Points().warp(points[:, :2], shift, SIZE, SIZE).tolist() == [[52, 3], [59, 3], [54, 4]]


# --- warps -----------------------------------------------------------------------------------------------------------


def draw_blob(point, size: tuple[int, int], sigma: float = 2.5) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return np.rint(250 * np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * sigma**2))).astype(np.uint8)


def find_blob(image: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return np.array([(x * image).sum(), (y * image).sum()]) / image.sum()


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("outside", ["mirror", "black"])
def test_a_blob_a_point_a_box_a_mask_and_a_flow_move_together(outside: str, seed: int) -> None:
    """Drawn at a point, warped, found again; on sides of unequal length, with scale, turn, mirror and crop."""
    generator, size, output = np.random.default_rng(seed), (120, 170), (150, 110)
    point = generator.uniform((60, 40), (110, 80))
    matrix = RandomGeometry(output, (0.7, 1.4), 180.0, tuple(VIEWS)).sample(size, generator)
    matrix[:2, 2] += np.array(output[::-1]) / 2 - transform_points(point, matrix)  # the point comes to the middle
    spot = draw_blob(point, size)
    fields = {
        "image": Image(outside),
        "spot": Mask(0),
        "inside": Mask(0),
        "points": Points(),
        "boxes": Boxes(),
        "flow": Vectors(),
    }
    flow = np.zeros((*size, 2), np.float32)
    flow[:] = (5.0, 2.0)
    sample = {
        "image": spot[..., None],
        "spot": (spot > 125).astype(np.uint16) * 777,
        "inside": np.ones(size, bool),
        "points": point[None],
        "boxes": np.concatenate([point - 6, point + 6])[None],
        "flow": flow,
    }
    moved = warp(fields, sample, matrix, output)
    assert {value.shape[:2] for name, value in moved.items() if name not in ("points", "boxes")} == {output}
    np.testing.assert_allclose(moved["points"][0], np.array(output[::-1]) / 2)
    picture = moved["image"][..., 0].astype(float) * moved["inside"]  # without what is mirrored
    far = np.hypot(*(np.mgrid[: output[0], : output[1]] + 0.5 - moved["points"][0][::-1, None, None])) > 25
    picture[far] = 0
    np.testing.assert_allclose(find_blob(picture), moved["points"][0], atol=0.1)
    assert set(np.unique(moved["spot"])) == {0, 777}, "a mask is never mixed"
    np.testing.assert_allclose(find_blob(moved["spot"] > 0), moved["points"][0], atol=0.3)
    left, top, right, bottom = moved["boxes"][0]
    assert (left, top) < tuple(moved["points"][0]) < (right, bottom)
    corners = transform_points(point + np.array([[-6, -6], [6, -6], [6, 6], [-6, 6]]), matrix)
    np.testing.assert_allclose([left, top, right, bottom], [*corners.min(axis=0), *corners.max(axis=0)])
    expected = transform_points(point + np.array([5, 2]), matrix) - moved["points"][0]
    np.testing.assert_allclose(moved["flow"][75, 55], expected, atol=1e-4)
    assert not moved["flow"][~moved["inside"]].any()
    if outside == "black":
        assert not moved["image"][~moved["inside"]].any()


@pytest.mark.parametrize("view", VIEWS, ids=NAMES)
def test_a_warp_by_the_matrix_of_a_view_is_the_view(view: View) -> None:
    sample = make_sample()
    expected = apply_view(FIELDS, sample, view)
    warped = warp(FIELDS, sample, view.matrix(SIZE), sample_size(FIELDS, expected))
    for name, value in expected.items():
        np.testing.assert_allclose(warped[name], value, atol=1e-5, err_msg=name)


def test_the_outside_of_masks_is_their_fill() -> None:
    shift = np.array([[1.0, 0, 2], [0, 1, 1], [0, 0, 1]])
    for dtype, fill in ((np.uint8, 255), (np.uint16, 9), (np.int32, -1), (bool, 0)):
        mask = np.ones((2, 3), dtype)
        moved = Mask(fill).warp(mask, shift, (2, 3), (4, 5))
        assert moved.dtype == dtype
        assert np.array_equal(moved, np.pad(mask, [(1, 1), (2, 0)], constant_values=fill))


def test_a_movement_of_the_generator_gives_what_it_gave_before() -> None:
    """Sums on cfec367, where `RandomGeometry` itself moved image, label and validity."""
    generator = np.random.default_rng(7)
    image = cv2.GaussianBlur(generator.integers(0, 256, (40, 56, 3)).astype(np.uint8), (0, 0), 2)
    sample = {"image": image, "label": image[..., 0] // 64, "valid": image[..., 1] > 90}
    fields = {"image": Image(), "label": Mask(255), "valid": Mask(0)}
    geometry = RandomGeometry((32, 48), (0.6, 1.5), 30.0, tuple(VIEWS))
    moved = warp(fields, sample, geometry.sample((40, 56), np.random.default_rng(3)), geometry.size)
    sums = {name: int(value.astype(np.int64).sum()) for name, value in moved.items()}
    assert sums == {"image": 591747, "label": 128397, "valid": 1039}


# --- maps ------------------------------------------------------------------------------------------------------------


def test_maps_are_never_turned_and_cropped_by_whole_cells_only() -> None:
    maps, kind = torch.arange(2 * 3 * 4).view(2, 3, 4), Maps(8)
    for view in VIEWS:
        with pytest.raises(ValueError, match=f"cannot be laid down as {view.name}"):
            kind.apply_view(maps, view, (24, 32))
    crop = np.array([[1.0, 0, -8], [0, 1, -16], [0, 0, 1]])
    assert torch.equal(kind.warp(maps, crop, (24, 32), (8, 16)), maps[:, 2:, 1:3])
    for matrix in (crop @ np.diag([-1.0, 1, 1]), crop + np.eye(3, k=2)):
        with pytest.raises(ValueError, match="cropped by whole cells of 8 pixels only"):
            kind.warp(maps, matrix, (24, 32), (8, 16))


@pytest.mark.parametrize("cells", [1, 4])
def test_padded_maps_are_those_of_each_picture_alone(cells: int) -> None:
    """A picture of four cells has 1 or 4 x 4 map cells in each, as stages of a ConvNeXt have."""

    def compute(images: torch.Tensor) -> list[torch.Tensor]:
        grid = [-(-side // 4) * cells for side in images.shape[2:]]
        total = images.sum(dim=(2, 3), keepdim=True)  # depends on all pixels, as attention does
        return [total + torch.arange(float(grid[0] * grid[1])).view(1, 1, *grid)]

    sizes = [(5, 8), (8, 3), (5, 8), (7, 11)]
    pictures = [torch.rand(3, *size) for size in sizes]
    images = torch.stack(
        [torch.nn.functional.pad(p, (0, 12 - p.shape[2], 0, 8 - p.shape[1]), value=9.0) for p in pictures]
    )
    [maps] = padded_maps(compute, images, sizes, cell=4)
    assert maps.shape == (4, 3, 2 * cells, 3 * cells)
    for found, picture in zip(maps, pictures, strict=True):
        [alone] = compute(picture[None])
        assert torch.equal(found[:, : alone.shape[2], : alone.shape[3]], alone[0])


# --- batches ---------------------------------------------------------------------------------------------------------


def test_rows_split_and_merge_without_a_copy() -> None:
    stacked = torch.zeros(2, 4, 6, dtype=torch.uint8)
    first, second = split_rows(FIELDS, {"instances": stacked})
    second["instances"][1, 2] = 5
    assert stacked[1, 1, 2] == 5
    assert merge_rows([first, second])["instances"][1] is second["instances"]
    assert collate(FIELDS, {"instances": stacked})[0]["instances"] is stacked


def test_samples_of_several_sizes_are_padded_below_and_to_the_right() -> None:
    samples = [make_sample(0, (24, 30)), make_sample(1, (20, 36))]
    arrays, sizes = collate(FIELDS, merge_rows(samples))
    assert sizes == [(24, 30), (20, 36)]
    for index, sample in enumerate(samples):
        height, width = sizes[index]
        inside = np.s_[..., :height, :width]
        assert np.array_equal(arrays["image"][index][inside], sample["image"].transpose(2, 0, 1))
        assert np.array_equal(arrays["flow"][index][inside], sample["flow"].transpose(2, 0, 1))
        assert np.array_equal(arrays["valid"][index][inside], sample["valid"])
        assert arrays["valid"][index].sum() == sample["valid"].sum(), "nothing that was added is valid"
        for name in ("boxes", "corners", "keypoints", "matrix"):
            assert np.array_equal(arrays[name][index], sample[name]), "padding moves no coordinate"
    [alone], _ = collate(FIELDS, merge_rows(samples[:1]), padded=(24, 36))[0]["image"], None
    assert torch.equal(alone, arrays["image"][0]), "a rank's share is padded as the whole batch"


def test_what_has_no_kind_or_several_shapes_is_named() -> None:
    with pytest.raises(ValueError, match="field 'mask' has no kind; declared: image"):
        apply_view({"image": Image()}, {"mask": np.zeros((2, 3))}, VIEWS[1])
    with pytest.raises(DataError, match=r"field 'class': samples of shapes \(2,\) and \(3,\) cannot be stacked"):
        collate(FIELDS, {"class": [np.zeros(2), np.zeros(3)]})
    with pytest.raises(ValueError, match="several sizes: image 2 x 3, valid 3 x 2"):
        sample_size(FIELDS, {"image": np.zeros((2, 3, 3)), "valid": np.zeros((3, 2))})
    with pytest.raises(ValueError, match="a sample of boxes has no picture that a view could turn"):
        apply_view(FIELDS, {"boxes": np.zeros((1, 4))}, VIEWS[1])
