"""Pictures and their points move together, there and back, whatever the crop, turn, mirror or scale."""

from __future__ import annotations

import numpy as np
import pytest

from utils.formats.types import infer_flip_idx
from utils.geometry.crops import (
    box_of_points,
    canvas_of,
    crop_of_box,
    drop_outside,
    move_boxes,
    move_keypoints,
    move_points,
    points_back,
    random_similarity,
    tight_box,
    warp_picture,
    whole_picture,
)
from utils.geometry.warps import warp_image

SIZE = (150, 220)
NAMES = ("snout", "left_ear", "right_ear", "tail")


def draw_dot(point, size: tuple[int, int] = SIZE, sigma: float = 3.0) -> np.ndarray:
    """A Gaussian whose middle lies at a point, measured from the outer corner."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    dot = 250 * np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * sigma**2))
    return np.rint(dot).astype(np.uint8)[..., None]


def find_dot(image: np.ndarray) -> np.ndarray:
    """Centre of mass, as a point measured from the outer corner."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    weights = image[..., 0].astype(np.float64)
    return np.array([(x * weights).sum(), (y * weights).sum()]) / weights.sum()


def random_matrix(generator: np.random.Generator, canvas: tuple[int, int]) -> np.ndarray:
    """A crop of a random box, then random movement."""
    corner, extent = generator.uniform(-20, 120, 2), generator.uniform(60, 110, 2)
    crop = crop_of_box(np.concatenate([corner, corner + extent]), canvas, generator.uniform(1.0, 1.6))
    movement = random_similarity(generator, canvas, (0.6, 1.6), 180.0)
    movement[:2, 2] += 0.1 * generator.uniform(-1, 1, 2) * (canvas[1], canvas[0])
    return movement @ (mirror(canvas) if generator.random() < 0.5 else np.eye(3)) @ crop


def mirror(canvas: tuple[int, int]) -> np.ndarray:
    """Left and right swapped."""
    return np.array([[-1.0, 0, canvas[1]], [0, 1, 0], [0, 0, 1]])


# --- pictures and points ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_a_dot_lands_where_its_point_does(seed: int) -> None:
    generator = np.random.default_rng(seed)
    canvas = (int(generator.integers(120, 260)), int(generator.integers(120, 260)))
    matrix = random_matrix(generator, canvas)
    target = np.array([canvas[1], canvas[0]]) * generator.uniform(0.3, 0.7, 2)
    point = points_back(np.array([*target, 2.0]), matrix)[:2]
    if not (12 < point[0] < SIZE[1] - 12 and 12 < point[1] < SIZE[0] - 12):
        matrix = matrix @ np.array([[1.0, 0, point[0] - 110], [0, 1, point[1] - 75], [0, 0, 1]])
        point = np.array([110.0, 75.0])
    image, _ = warp_picture(draw_dot(point), matrix, canvas)
    np.testing.assert_allclose(find_dot(image), target, atol=0.1)


@pytest.mark.parametrize("canvas", [(75, 110), (50, 50), (400, 500), (224, 224)])
def test_a_dot_stays_with_its_point_in_a_whole_picture(canvas: tuple[int, int]) -> None:
    point = np.array([60.25, 91.5, 2])
    matrix = whole_picture(SIZE, canvas)
    image, valid = warp_picture(draw_dot(point), matrix, canvas)
    np.testing.assert_allclose(find_dot(image), move_points(point, matrix)[:2], atol=0.1)
    scale = matrix[0, 0]
    assert valid.sum() == round(SIZE[0] * scale) * round(SIZE[1] * scale)
    assert valid[0, 0]


@pytest.mark.parametrize("seed", range(20))
def test_points_come_back_exactly(seed: int) -> None:
    generator = np.random.default_rng(seed)
    matrix = random_matrix(generator, (224, 320))
    keypoints = np.concatenate([generator.uniform(-500, 3000, (3, 4, 2)), generator.integers(0, 3, (3, 4, 1))], axis=-1)
    np.testing.assert_allclose(points_back(move_points(keypoints, matrix), matrix), keypoints, atol=1e-9)
    boxes = move_boxes(np.array([1.0, 2, 3, 9]), matrix)
    assert (boxes[:2] < boxes[2:]).all()


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_left_stays_left_of_the_body_axis(seed: int, mirrored: bool) -> None:
    """Facing up, the left ear is on the left; the side on which it lies must survive every movement."""
    keypoints = np.array([[50.0, 20, 2], [40, 30, 2], [60, 30, 1], [50, 80, 2]])
    matrix = random_similarity(np.random.default_rng(seed), (100, 100), (0.5, 2), 180)
    matrix = matrix @ mirror((100, 100)) if mirrored else matrix
    snout, left, right, tail = move_keypoints(keypoints, matrix, infer_flip_idx(NAMES))[:, :2]
    axis, across = snout - tail, left - right
    assert axis[0] * across[1] - axis[1] * across[0] < 0
    moved = move_keypoints(keypoints, matrix, infer_flip_idx(NAMES))
    assert moved[:, 2].tolist() == ([2, 1, 2, 2] if mirrored else [2, 2, 1, 2])


def test_without_sides_nothing_is_swapped_and_a_wrong_length_is_refused() -> None:
    keypoints = np.array([[1.0, 2, 2], [3, 4, 2]])
    mirror = np.diag([-1.0, 1, 1])
    assert move_keypoints(keypoints, mirror, None)[:, 0].tolist() == [-1, -3]
    with pytest.raises(ValueError, match="flip_idx is for 3 keypoints, but there are 2"):
        move_keypoints(keypoints, mirror, (0, 2, 1))


# --- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_looking_at_a_part_only_changes_no_pixel(seed: int) -> None:
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    matrix = np.diag([*[generator.uniform(0.15, 2)] * 2, 1]) @ random_matrix(generator, (90, 70))
    warped, valid = warp_picture(image, matrix, (90, 70))
    whole = warp_image(image, matrix, (90, 70))
    # OpenCV rounds places to a 32nd of a pixel, here from two origins
    assert np.abs(warped[valid].astype(int) - whole[valid]).max(initial=0) <= 8
    assert not warped[~valid].any()


def test_whole_pixel_crops_are_copies_and_the_outside_is_black() -> None:
    image = np.random.default_rng(0).integers(1, 256, (*SIZE, 3)).astype(np.uint8)
    matrix = crop_of_box(np.array([190, -10, 230, 20]), canvas=(30, 40), scale=1.0)
    warped, valid = warp_picture(image, matrix, (30, 40))
    assert np.array_equal(warped[10:, :30], image[:20, 190:])
    assert not warped[:10].any()
    assert not warped[:, 30:].any()
    assert np.array_equal(valid, warped.all(axis=-1))


def test_a_canvas_beside_the_picture_is_empty() -> None:
    image, valid = warp_picture(
        np.full((*SIZE, 3), 9, np.uint8), np.array([[1.0, 0, 900], [0, 1, 0], [0, 0, 1]]), (8, 9)
    )
    assert image.shape == (8, 9, 3)
    assert not image.any()
    assert not valid.any()


def test_shrinking_does_not_alias() -> None:
    """A fine chequerboard becomes grey, not black, white or stripes."""
    y, x = np.indices((240, 320))
    image = (255 * ((x + y) % 2)).astype(np.uint8)[..., None]
    warped, valid = warp_picture(image, whole_picture((240, 320), (60, 80)), (60, 80))
    assert valid.all()
    assert np.abs(warped.astype(int) - 127).max() < 20


def test_crops_may_be_larger_than_opencv_allows() -> None:
    image = np.zeros((4, 40_000, 1), np.uint8)
    image[:, 36_000:] = 200
    warped, valid = warp_picture(image, crop_of_box(np.array([35_998, 0, 36_002, 4]), (4, 4), 1.0), (4, 4))
    assert warped[0, :, 0].tolist() == [0, 0, 200, 200]
    assert valid.all()


# --- canvases and boxes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("multiple", [1, 14, 16])
@pytest.mark.parametrize("seed", range(6))
def test_every_picture_fits_its_canvas_and_the_median_has_the_short_side(seed: int, multiple: int) -> None:
    generator = np.random.default_rng(seed)
    sizes = [tuple(size) for size in generator.integers(100, 2000, (21, 2)).tolist()]
    canvas = canvas_of(sizes, 336, multiple)
    assert canvas[0] % multiple == canvas[1] % multiple == 0
    scaled = []
    for size in sizes:
        corner = move_points(np.array([size[1], size[0], 2.0]), whole_picture(size, canvas))
        assert corner[0] <= canvas[1] + 1e-9
        assert corner[1] <= canvas[0] + 1e-9
        assert np.isclose(corner[0], canvas[1]) or np.isclose(corner[1], canvas[0])
        scaled.append(corner[:2].min())
    assert 336 - 1e-6 <= np.median(scaled) <= 336 + multiple


def test_the_canvas_wastes_least() -> None:
    generator = np.random.default_rng(3)
    sizes = generator.integers(100, 2000, (60, 2))
    aspects = sizes[:, 1] / sizes[:, 0]

    def covered(aspect: float) -> float:
        return np.minimum(aspects / aspect, aspect / aspects).mean()

    height, width = canvas_of([tuple(size) for size in sizes.tolist()], 5000)
    best = max(covered(aspect) for aspect in np.geomspace(0.05, 20, 4000))
    assert covered(width / height) >= best - 1e-3


@pytest.mark.parametrize(("sizes", "short_side"), [([], 10), ([(0, 5)], 10), ([(5, 5)], 0)])
def test_no_canvas_for_nothing(sizes: list, short_side: int) -> None:
    with pytest.raises(ValueError, match="expected pictures and sides above 0"):
        canvas_of(sizes, short_side)


@pytest.mark.parametrize("canvas", [(64, 64), (64, 96), (96, 64)])
def test_a_crop_holds_its_box_in_the_middle_undistorted(canvas: tuple[int, int]) -> None:
    box = np.array([-30.0, 12, 55, 40])
    matrix = crop_of_box(box, canvas, 1.25)
    assert matrix[0, 0] == matrix[1, 1] > 0
    moved = move_boxes(box, matrix)
    np.testing.assert_allclose((moved[:2] + moved[2:]) / 2, (canvas[1] / 2, canvas[0] / 2))
    assert np.isclose(max((moved[2] - moved[0]) / canvas[1], (moved[3] - moved[1]) / canvas[0]), 1 / 1.25)


@pytest.mark.parametrize("box", [[3, 3, 3, 3], [5, 1, 2, 9], [0, 0, np.nan, 4], [0, 0, np.inf, 4]])
def test_a_box_without_extent_is_refused(box: list) -> None:
    with pytest.raises(ValueError, match="with an extent"):
        crop_of_box(np.array(box, float), (10, 10))


def test_a_line_is_box_enough() -> None:
    assert crop_of_box(np.array([2.0, 5, 2, 9]), (8, 8), 1.0)[0, 0] == 2


def test_boxes_of_points_and_polygons() -> None:
    keypoints = np.array([[10.0, 10, 2], [20, 50, 1], [900, 900, 0]])
    assert box_of_points(keypoints, margin=0.0, least=0.0).tolist() == [10, 10, 20, 50]
    assert box_of_points(keypoints, margin=0.25).tolist() == [0, 0, 30, 60]
    assert tight_box(np.array([[1, 2], [3, 8], [0, 4]])).tolist() == [0, 2, 3, 8]
    assert tight_box(np.zeros((0, 2))) is None


def test_missing_points_are_zeros_on_a_canvas() -> None:
    keypoints = np.array([[[9.999, 0, 1], [10, 0, 2]], [[-1e-9, 3, 2], [np.nan, 1, 2]]], np.float32)
    dropped = drop_outside(keypoints, (5, 10))
    assert dropped.dtype == np.float32
    assert dropped[0, 0].tolist() == keypoints[0, 0].tolist()
    assert not dropped.reshape(4, 3)[1:].any()
    assert keypoints[0, 1, 2] == 2


# --- augmentation ----------------------------------------------------------------------------------------------------


def test_random_similarities_stay_in_range_and_do_not_distort() -> None:
    generator, canvas = np.random.default_rng(0), (60, 100)
    matrices = np.stack([random_similarity(generator, canvas, (0.5, 2.0), 30.0) for _ in range(500)])
    scales = np.sqrt(np.abs(np.linalg.det(matrices[:, :2, :2])))
    assert 0.5 <= scales.min() < 0.55
    assert 1.85 < scales.max() <= 2
    assert abs(np.log(scales).mean()) < 0.06
    np.testing.assert_allclose(
        matrices[:, :2, :2] @ matrices[:, :2, :2].transpose(0, 2, 1), scales[:, None, None] ** 2 * np.eye(2), atol=1e-9
    )
    centres = matrices[:, :2, :2] @ (50, 30) + matrices[:, :2, 2]
    assert np.abs(centres - (50, 30)).max() < 1e-9
    upright = matrices[:, 1, 1] / scales
    assert upright.min() >= np.cos(np.radians(30)) - 1e-9


def test_the_generator_is_asked_alike_whatever_the_settings() -> None:
    one, other = np.random.default_rng(0), np.random.default_rng(0)
    random_similarity(one, (5, 5), (1, 1), 0)
    random_similarity(other, (9, 5), (0.5, 2), 90)
    assert one.random() == other.random()
    assert np.array_equal(random_similarity(one, (5, 7), (1, 1), 0), np.eye(3))


@pytest.mark.parametrize("wrong", [((0, 1), 0), ((2, 1), 0), ((1, 1), 181)])
def test_senseless_ranges_are_refused(wrong: tuple) -> None:
    with pytest.raises(ValueError, match="expected 0 < smallest"):
        random_similarity(np.random.default_rng(0), (5, 5), *wrong)
