"""The drawn truth agrees with itself: masks, boxes, keypoints and tracks of foxes; classes and roofs of the land."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from rasterio.features import rasterize

from utils.samples.world import CLASSES, GROUNDS, KEYPOINTS, UNLABELLED, draw_chase, draw_land, draw_photo

SIZE = (192, 256)


@pytest.fixture(scope="module")
def photos() -> list:
    return [draw_photo(np.random.default_rng(seed), SIZE, kind) for seed in range(5) for kind in GROUNDS]


@pytest.fixture(scope="module")
def chase() -> list:
    return list(draw_chase(np.random.default_rng([7, 2]), 40, SIZE))


@pytest.fixture(scope="module")
def land() -> tuple:
    return draw_land(7, 0, (384, 512))


def pixel(point: np.ndarray) -> tuple[int, int]:
    return int(point[1]), int(point[0])


def test_boxes_are_tight_around_masks_which_do_not_overlap(photos, chase, land):
    for objects in (*(objects for _, objects in photos + chase), land[2]):
        for thing in objects:
            left, top, right, bottom = thing.box_xyxy.astype(int)
            inside = thing.mask[top:bottom, left:right]
            assert inside.sum() == thing.mask.sum() > 0
            assert inside.any(axis=1)[[0, -1]].all()
            assert inside.any(axis=0)[[0, -1]].all()
        assert np.sum([thing.mask for thing in objects], axis=0).max() == 1


def test_visible_keypoints_lie_in_their_mask_and_points_outside_the_picture_are_not_labelled(photos):
    counts = {0: 0, 1: 0, 2: 0}
    for _, objects in photos:
        for thing in objects:
            assert thing.keypoints.shape == (len(KEYPOINTS), 2)
            assert (thing.visibility == 2).sum() >= 6
            for point, visible in zip(thing.keypoints, thing.visibility, strict=True):
                counts[visible] += 1
                assert ((point >= 0) & (point < SIZE[::-1])).all()
                if visible == 2:
                    assert thing.mask[pixel(point)]
                if visible == 0:
                    assert not point.any()
    assert min(counts.values()) > 0


def test_keypoints_beneath_another_fox_are_hidden(chase):
    """The foxes of the chase cross: a keypoint in the other's mask is never visible, and some are hidden by it."""
    beneath = 0
    for _, objects in chase:
        for thing, other in zip(objects, objects[::-1], strict=True):
            covered = [bool(other.mask[pixel(point)]) for point in thing.keypoints] * (thing.visibility > 0)
            assert not (thing.visibility[covered] == 2).any()
            beneath += covered.sum()
    assert beneath > 0


def test_left_is_left_of_the_body(photos):
    for _, objects in photos:
        for thing in objects:
            points = dict(zip(KEYPOINTS, thing.keypoints, strict=True))
            labelled = dict(zip(KEYPOINTS, thing.visibility > 0, strict=True))
            for part in ("ear", "paw"):
                if all(labelled[name] for name in ("snout", "tail_base", f"left_{part}", f"right_{part}")):
                    ahead = points["snout"] - points["tail_base"]
                    to_left = points[f"left_{part}"] - points[f"right_{part}"]
                    assert ahead[0] * to_left[1] - ahead[1] * to_left[0] < 0  # y points down


def test_the_snout_is_drawn_where_its_label_is(photos):
    """A nose is dark, and something around it is not."""
    shares = []
    for image, objects in photos:
        for thing in objects:
            if thing.visibility[0] == 2:
                row, column = pixel(thing.keypoints[0])
                around = image[max(row - 6, 0) : row + 7, max(column - 6, 0) : column + 7]
                shares.append(image[row, column].max() / around.max())
    assert len(shares) > 15
    assert np.median(shares) < 0.4


def test_tracks_keep_their_ids_and_move_little_from_frame_to_frame(chase):
    colours, places = {}, {}
    for image, objects in chase:
        assert [thing.track_id for thing in objects] == [1, 2]
        for thing in objects:
            centre = thing.keypoints[thing.visibility == 2].mean(axis=0)
            colours.setdefault(thing.track_id, []).append(image[thing.mask].mean(axis=0))
            places.setdefault(thing.track_id, []).append(centre)
    redness = {track: np.array(values)[:, 0] / np.array(values)[:, 2] for track, values in colours.items()}
    assert redness[1].min() > 1.5 > 1.2 > redness[2].max()  # the first is the red one in every frame
    for track in places.values():
        steps = np.linalg.norm(np.diff(track, axis=0), axis=1)
        assert np.median(steps) > 1
        assert np.median(steps) < 12


@pytest.mark.parametrize(
    "draw",
    [lambda seed: draw_land(seed, 0, SIZE)[0], lambda seed: draw_photo(np.random.default_rng(seed), SIZE, "sand")[0]],
    ids=["land", "photo"],
)
def test_same_seed_same_bytes_and_another_seed_others(draw):
    assert draw(3).tobytes() == draw(3).tobytes() != draw(4).tobytes()


def test_land_has_every_class_nodata_corners_and_an_unlabelled_site(land):
    image, areas, _ = land
    shares = {name: sum(area.shape.area for area in areas if area.name == name) for name in (*CLASSES, UNLABELLED)}
    assert min(shares[name] for name in CLASSES) > 0.01 * image[..., 0].size
    assert 0 < shares[UNLABELLED] < 0.05 * image[..., 0].size
    footprint = rasterize([area.shape for area in areas], image.shape[:2])
    assert np.array_equal(image.min(axis=-1) > 0, footprint > 0)
    assert 0.005 < (footprint == 0).mean() < 0.1
    union = shapely.union_all([area.shape for area in areas])
    assert np.isclose(union.area, sum(area.shape.area for area in areas))


def test_buildings_are_those_of_the_areas(land):
    image, areas, buildings = land
    roofs = rasterize([area.shape for area in areas if area.name == "building"], image.shape[:2]) > 0
    assert np.array_equal(np.any([thing.mask for thing in buildings], axis=0), roofs)
    assert {thing.name for thing in buildings} == {"building"}
    assert len({thing.track_id for thing in buildings}) == len(buildings) > 3


def test_colour_alone_is_not_enough_but_says_something():
    """The best class for each coarse colour, learned on one scene, on another: better than chance, far from right."""
    (codes, target), (other_codes, truth) = (coarse_colours(index) for index in (0, 1))
    counts = np.zeros((16**3, len(CLASSES)))
    np.add.at(counts, (codes[target >= 0], target[target >= 0]), 1)
    prediction = (counts / counts.sum(axis=0)).argmax(axis=1)[other_codes]
    recalls = [(prediction[truth == index] == index).mean() for index in range(len(CLASSES))]
    assert 0.35 < np.mean(recalls) < 0.9


def coarse_colours(index: int) -> tuple[np.ndarray, np.ndarray]:
    image, areas, _ = draw_land(7, index, (384, 512))
    shapes = [(area.shape, CLASSES.index(area.name)) for area in areas if area.name in CLASSES]
    return (image // 16).astype(int) @ [256, 16, 1], rasterize(shapes, image.shape[:2], fill=-1, dtype=np.int16)
