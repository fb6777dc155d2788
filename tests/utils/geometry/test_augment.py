"""Views form a group and lose nothing; whatever moves an image moves its points, vectors and labels alike."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import torch

from utils.geometry import warps
from utils.geometry.augment import (
    IDENTITY,
    RandomColour,
    RandomGeometry,
    View,
    colour_matrix,
    views_of,
)
from utils.geometry.fields import Image, Mask, warp
from utils.geometry.warps import transform_points, transform_vectors, warp_image, warp_labels, warp_valid

VIEWS = views_of(hflip=True, rotate90=True)
NAMES = [view.name for view in VIEWS]


def random_image(height: int = 5, width: int = 7, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(np.uint8)


def draw_blob(point: tuple[float, float], size: tuple[int, int], sigma: float = 3.0) -> np.ndarray:
    """A Gaussian whose middle lies at a point, measured from the outer corner."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    blob = 250 * np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * sigma**2))
    return np.rint(blob).astype(np.uint8)[..., None]


def find_blob(image: np.ndarray) -> np.ndarray:
    """Centre of mass, as a point measured from the outer corner."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    weights = image[..., 0].astype(np.float64)
    return np.array([(x * weights).sum(), (y * weights).sum()]) / weights.sum()


# --- views -----------------------------------------------------------------------------------------------------------


def test_there_are_eight_views_and_names_lead_back() -> None:
    assert len(VIEWS) == len(set(NAMES)) == 8
    assert VIEWS[0] == IDENTITY
    assert [View.from_name(name) for name in NAMES] == VIEWS
    with pytest.raises(ValueError, match="unknown view 'flip'; known: identity, rot90"):
        View.from_name("flip")
    with pytest.raises(ValueError, match="expected 0, 1, 2 or 3, got 4"):
        View(False, 4)


@pytest.mark.parametrize("view", VIEWS, ids=NAMES)
def test_view_and_inverse_give_back_array_points_and_vectors(view: View) -> None:
    image, size = random_image(), (5, 7)
    points = np.random.default_rng(1).random((4, 2)) * (7, 5)
    turned = view.apply(image)
    assert turned.flags.c_contiguous
    assert np.array_equal(view.invert().apply(turned), image)
    moved = view.points(points, size)
    np.testing.assert_allclose(view.invert().points(moved, turned.shape[:2]), points, atol=1e-12)
    assert np.array_equal(view.invert().vectors(view.vectors(points)), points)
    assert view.compose(view.invert()) == IDENTITY


@pytest.mark.parametrize(("first", "second"), list(itertools.product(VIEWS, VIEWS)))
def test_composition_is_one_view_after_the_other(first: View, second: View) -> None:
    image = random_image()
    both = first.compose(second)
    assert both in VIEWS
    assert np.array_equal(both.apply(image), second.apply(first.apply(image)))


@pytest.mark.parametrize("view", VIEWS, ids=NAMES)
def test_pixel_stands_where_its_point_goes(view: View) -> None:
    image = np.arange(35, dtype=np.uint8).reshape(5, 7)
    turned = view.apply(image)
    for (row, column), value in np.ndenumerate(image):
        x, y = view.points(np.array([column + 0.5, row + 0.5]), (5, 7))
        assert turned[int(y), int(x)] == value
        assert (x % 1, y % 1) == (0.5, 0.5)


@pytest.mark.parametrize("view", VIEWS, ids=NAMES)
def test_tensors_arrays_matrix_and_warp_agree(view: View) -> None:
    image, points = random_image(), np.array([[0.0, 0.0], [7.0, 5.0], [2.25, 1.5]])
    tensor = view.apply(torch.from_numpy(image).permute(2, 0, 1)[None])
    assert tensor.is_contiguous()
    assert np.array_equal(tensor[0].permute(1, 2, 0).numpy(), view.apply(image))
    matrix = view.matrix((5, 7))
    assert np.array_equal(warp_image(image, matrix, view.apply(image).shape[:2]), view.apply(image))
    assert np.array_equal(transform_points(points, matrix), view.points(points, (5, 7)))
    assert np.array_equal(view.points(torch.from_numpy(points), (5, 7)).numpy(), view.points(points, (5, 7)))
    assert np.array_equal(transform_vectors(points, matrix), view.vectors(points))


@pytest.mark.parametrize("choice", list(itertools.product([False, True], repeat=3)))
def test_chosen_views_are_closed_and_begin_with_the_identity(choice: tuple[bool, bool, bool]) -> None:
    views = views_of(*choice)
    assert views[0] == IDENTITY
    assert {first.compose(second) for first in views for second in views} == set(views)
    expected = {(0, False): 1, (1, False): 2, (2, False): 4, (0, True): 4}.get((sum(choice[:2]), choice[2]), 8)
    assert len(views) == expected


def test_mean_over_a_group_of_views_is_equivariant() -> None:
    weights = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))

    def predict(image: torch.Tensor) -> torch.Tensor:
        return sum(view.invert().apply(view.apply(image) * weights) for view in VIEWS) / len(VIEWS)

    image = torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    for view in VIEWS:
        torch.testing.assert_close(predict(view.apply(image)), view.apply(predict(image)))


# --- geometry --------------------------------------------------------------------------------------------------------

GEOMETRIES = {
    "crop": RandomGeometry((96, 112)),
    "scale": RandomGeometry((96, 112), scale=(0.5, 2.0)),
    "rotate": RandomGeometry((150, 160), rotation_deg=180.0),
    "flip": RandomGeometry((130, 110), views=tuple(VIEWS)),
    "all": RandomGeometry((120, 100), scale=(0.7, 1.5), rotation_deg=30.0, views=tuple(VIEWS)),
}


@pytest.mark.parametrize("name", sorted(GEOMETRIES))
def test_image_and_points_agree_to_a_tenth_of_a_pixel(name: str) -> None:
    geometry, generator, checked = GEOMETRIES[name], np.random.default_rng(3), 0
    for _ in range(40):
        point = tuple(generator.uniform((30, 30), (90, 70)))
        matrix = geometry.sample((100, 120), generator)
        expected = transform_points(np.array(point), matrix)
        if (np.minimum(expected, np.array(geometry.size[::-1]) - expected) < 22).any():
            continue  # the blob is cut
        image = warp_image(draw_blob(point, (100, 120)), matrix, geometry.size)
        image = image * warp_valid(np.ones((100, 120), bool), matrix, geometry.size)[..., None]  # no mirrored blob
        assert np.abs(find_blob(image) - expected).max() < 0.1
        checked += 1
    assert checked >= 5


def move(geometry: RandomGeometry, image: np.ndarray, label: np.ndarray, valid: np.ndarray, seed: int):
    """A picture (H, W, C), its label and its validity after a movement that a seed draws."""
    matrix = geometry.sample(image.shape[:2], np.random.default_rng(seed))
    fields = {"image": Image(), "label": Mask(9), "valid": Mask(0)}
    moved = warp(fields, {"image": image, "label": label, "valid": valid}, matrix, geometry.size)
    return moved["image"], moved["label"], moved["valid"], matrix


def test_label_and_validity_follow_the_image() -> None:
    mask = cv2.GaussianBlur(np.random.default_rng(4).random((100, 120)), (0, 0), 6) > 0.5
    picture = mask.astype(np.uint8)[..., None] * 255
    for seed in range(10):
        image, label, valid, _ = move(GEOMETRIES["all"], picture, mask.astype(np.uint8), np.ones_like(mask), seed)
        inside = cv2.erode(valid.astype(np.uint8), np.ones((3, 3))) > 0
        assert image.shape == (*label.shape, 1) == (120, 100, 1)
        assert np.array_equal(label == 9, ~valid)
        assert ((image[..., 0] > 127) == (label == 1))[inside].mean() > 0.99


def test_outside_is_neither_valid_nor_labelled() -> None:
    ones = np.ones((4, 4), np.uint8)
    _, label, valid, matrix = move(RandomGeometry((6, 9)), random_image(4, 4), ones, ones > 0, 0)
    assert valid.sum() == (label == 1).sum() == 16
    assert (label[~valid] == 9).all()
    corner = transform_points(np.zeros(2), matrix).astype(int)
    assert valid[corner[1] : corner[1] + 4, corner[0] : corner[0] + 4].all()


def test_crops_without_scale_copy_pixels_and_reach_every_place() -> None:
    image, geometry, generator = random_image(6, 8), RandomGeometry((4, 5)), np.random.default_rng(0)
    places = set()
    for _ in range(300):
        matrix = geometry.sample((6, 8), generator)
        x, y = (-matrix[:2, 2]).astype(int)
        assert np.array_equal(warp_image(image, matrix, (4, 5)), image[y : y + 4, x : x + 5])
        places.add((x, y))
    assert places == set(itertools.product(range(4), range(3)))


@pytest.mark.parametrize("name", ["crop", "scale", "flip"])
def test_crop_stays_inside_a_picture_that_is_large_enough(name: str) -> None:
    geometry, generator = GEOMETRIES[name], np.random.default_rng(5)
    corners = np.array(list(itertools.product((0, geometry.size[1]), (0, geometry.size[0]))), float)
    for _ in range(50):
        back = np.linalg.inv(geometry.sample((400, 300), generator))
        sources = transform_points(corners, back)
        assert sources.min() > -1e-6
        assert (sources <= np.array([300, 400]) + 1e-6).all()


def test_scales_and_angles_fill_their_range() -> None:
    generator, geometry = np.random.default_rng(0), RandomGeometry((8, 8), (0.5, 2.0), rotation_deg=20.0)
    matrices = [geometry.sample((50, 50), generator) for _ in range(400)]
    scales = np.array([np.sqrt(np.linalg.det(matrix[:2, :2])) for matrix in matrices])
    angles = np.array([np.degrees(np.arctan2(matrix[0, 1], matrix[0, 0])) for matrix in matrices])
    assert 0.5 <= scales.min() < 0.53 < 1.9 < scales.max() <= 2.0
    assert abs((scales < 1).mean() - 0.5) < 0.1  # as many shrunk as enlarged
    assert -20 <= angles.min() < -19 < 19 < angles.max() <= 20


@pytest.mark.parametrize("zoom", [1 / 31, 1 / 13, 1 / 8])
def test_a_picture_that_shrinks_a_lot_is_smoothed_as_by_one_wide_blur(zoom, monkeypatch):
    """Done in two steps, blocks and the rest, it neither moves nor gets darker, up to its edges."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (803, 1101, 5), np.uint8)
    cv2.rectangle(plane := np.zeros((803, 1101), np.uint8), (301, 205), (700, 498), 255, -1)
    image[..., 0] = plane
    size = (round(803 * zoom), round(1101 * zoom))
    matrix = np.diag([size[1] / 1101, size[0] / 803, 1])
    small = warp_image(image, matrix, size)
    monkeypatch.setattr(warps, "_SMOOTHED", 1e9)
    at_once = warp_image(image, matrix, size)
    assert small.shape == (*size, 5)
    assert np.abs(small.astype(int) - at_once).mean() < 1
    for found in (small, at_once):
        y, x = (np.average(np.indices(size)[axis] + 0.5, weights=found[..., 0]) for axis in (0, 1))
        np.testing.assert_allclose((x / matrix[0, 0], y / matrix[1, 1]), (501, 352), atol=0.02 / zoom)
    assert not np.array_equal(small, at_once)


def test_shrinking_averages_what_it_drops() -> None:
    stripes = np.zeros((64, 64, 1), np.uint8)
    stripes[:, (np.arange(64) + 1) % 4 < 2] = 200  # as wide as two pixels: without smoothing all or nothing is seen
    small = warp_image(stripes, np.diag([0.25, 0.25, 1]), (16, 16))
    assert np.abs(small.astype(float) - 100).max() < 25


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 9])
def test_any_number_of_channels_is_warped_channel_by_channel(channels: int) -> None:
    image = random_image(20, 30, channels)
    matrix = GEOMETRIES["all"].sample((20, 30), np.random.default_rng(1))
    warped = warp_image(image, matrix, (16, 24))
    assert warped.shape == (16, 24, channels)
    for index in range(channels):
        alone = warp_image(image[..., index : index + 1], matrix, (16, 24))[..., 0]
        # OpenCV interpolates 1, 3 and 4 channels exactly, other numbers in steps of 1 / 32 pixel.
        assert np.abs(warped[..., index].astype(int) - alone).max() <= (0 if channels in (1, 3, 4) else 8)


def test_same_generator_gives_the_same_sample() -> None:
    image, valid = random_image(40, 50), np.ones((40, 50), bool)
    first, again, other = (move(GEOMETRIES["all"], image, image[..., 0], valid, seed) for seed in (7, 7, 8))
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert not np.array_equal(first[-1], other[-1])


def test_warps_round_labels_to_the_nearest_pixel() -> None:
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert np.array_equal(warp_labels(labels, np.diag([3.0, 3.0, 1]), (6, 9)), labels.repeat(3, 0).repeat(3, 1))
    assert np.array_equal(
        warp_valid(labels > 2, np.diag([3.0, 3.0, 1]), (6, 9)), (labels > 2).repeat(3, 0).repeat(3, 1)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (0, 4)}, r"size: expected positive height and width, got \(0, 4\)"),
        ({"size": (4, 4), "scale": (2.0, 1.0)}, r"scale: expected 0 < smallest <= largest, got \(2.0, 1.0\)"),
        ({"size": (4, 4), "rotation_deg": 200.0}, "rotation_deg: expected 0 to 180, got 200.0"),
        ({"size": (4, 4), "views": ()}, "views: expected at least one"),
    ],
)
def test_geometry_names_what_makes_no_sense(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomGeometry(**options)


# --- colours ---------------------------------------------------------------------------------------------------------


def test_no_change_leaves_colours_alone() -> None:
    image = random_image(8, 9, 5)
    assert np.array_equal(RandomColour()(image, np.random.default_rng(0)), image)
    np.testing.assert_allclose(colour_matrix(1, 1, 1, 0, 50)[:, :3], np.eye(3), atol=1e-12)


def test_only_the_first_three_channels_change_and_the_input_does_not() -> None:
    image = random_image(16, 16, 5)
    before = image.copy()
    changed = RandomColour(0.3, 0.3, 0.3, 20.0, 1.0, 10.0)(image, np.random.default_rng(0))
    assert np.array_equal(image, before)
    assert np.array_equal(changed[..., 3:], image[..., 3:])
    assert (changed[..., :3] != image[..., :3]).mean() > 0.9
    again = RandomColour(0.3, 0.3, 0.3, 20.0, 1.0, 10.0)(image, np.random.default_rng(0))
    assert np.array_equal(changed, again)


def test_grey_has_no_saturation_and_no_hue() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (8, 8, 1)).astype(np.uint8).repeat(3, axis=2)
    changed = RandomColour(saturation=0.9, hue_deg=90.0)(grey, np.random.default_rng(0))
    assert np.abs(changed.astype(int) - grey).max() <= 1
    pixel = colour_matrix(1.0, 1.0, 0.0, 0.0, 0.0) @ (200.0, 100.0, 50.0, 1.0)
    assert np.ptp(pixel) < 1e-9  # without saturation everything is grey


def test_contrast_keeps_the_mean_and_scales_the_spread() -> None:
    image = np.random.default_rng(0).normal(120, 15, (40, 40, 1)).astype(np.uint8).repeat(3, axis=2)
    for seed in range(5):
        changed = RandomColour(contrast=0.5)(image, np.random.default_rng(seed))
        factor = 1 + 0.5 * (2 * np.random.default_rng(seed).random(6)[1] - 1)
        assert abs(changed.mean() - image.mean()) < 1
        assert changed.std() / image.std() == pytest.approx(factor, abs=0.03)


def test_colour_names_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match=r"contrast: expected 0 or more and less than 1.0, got 1.5"):
        RandomColour(contrast=1.5)
    with pytest.raises(ValueError, match=r"at least three channels, got \(4, 4, 2\)"):
        RandomColour(brightness=0.1)(random_image(4, 4, 2), np.random.default_rng(0))


def test_colours_change_in_the_share_of_pictures_that_is_asked_for():
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    generator = np.random.default_rng(1)
    often = [not np.array_equal(RandomColour(0.5, probability=0.25)(image, generator), image) for _ in range(400)]
    assert 0.18 < np.mean(often) < 0.32
    each = RandomColour(0.5, 0.5, 0.5, 60.0, probability=0.25)
    some = [not np.array_equal(each(image, generator), image) for _ in range(400)]
    assert 0.6 < np.mean(some) < 0.76, "1 - .75^4: each of the four by itself"
