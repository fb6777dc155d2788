"""Made-up foxes: labels lie where marks are drawn, sides are told by the body, and files are made once, alike."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.animals import KEYPOINTS, SIZE, label_scene, locate_animals, make_animals, trace_outlines
from utils.errors import DataError
from utils.files import digest_file
from utils.formats.types import infer_flip_idx
from utils.fox_scenes import draw_pose, draw_scene, draw_sun, plan_scene, walk
from utils.foxes import COATS, EDGES, build_fox, hidden_keypoints, locate_keypoints
from utils.grounds import GROUNDS
from utils.limbs import distance_to, make_fur, measure_limb, paint_limb, paint_limbs
from utils.videos import VideoReader, is_video

SMALL = {"train": 3, "val": 1, "frames": 3, "size": (128, 160)}


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    return make_animals(tmp_path_factory.mktemp("animals"))


@pytest.fixture(scope="module")
def labels(animals) -> dict:
    return {split: json.loads(path.read_text()) for split, path in animals.annotations.items()}


@pytest.fixture(scope="module")
def scenes() -> list:
    """Scenes with what can be seen of each fox and their labels."""
    made = []
    for seed, ground in itertools.product(range(8), sorted(GROUNDS)):
        scene = plan_scene(np.random.default_rng([seed, len(ground)]), SIZE, ground)
        image, cover = draw_scene(scene, SIZE)
        made.append((scene, image, cover, label_scene(scene, cover)))
    return made


def read_keypoints(label: dict) -> np.ndarray:
    return np.array(label["keypoints"]).reshape(-1, 3)


def centre_of_mass(weights: np.ndarray) -> np.ndarray:
    y, x = np.indices(weights.shape) + 0.5
    return np.array([(x * weights).sum(), (y * weights).sum()]) / weights.sum()


# --- keypoints -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(25))
def test_each_mark_is_drawn_where_its_label_is(seed: int) -> None:
    generator = np.random.default_rng(seed)
    limbs = build_fox(draw_pose(generator, (400, 400)), COATS["red"])
    sun, fur = draw_sun(generator), make_fur(generator)
    marks = {limb.keypoint: limb for limb in limbs if limb.keypoint}
    assert sorted(marks) == sorted(KEYPOINTS)
    for name, place in zip(KEYPOINTS, locate_keypoints(limbs), strict=True):
        layer = np.zeros((400, 400, 4))
        paint_limb(layer, marks[name], sun, fur)
        if (place > 8).all() and (place < 392).all():
            np.testing.assert_allclose(centre_of_mass(layer[..., 3]), place, atol=0.1)


def test_marks_show_in_pictures(animals, labels) -> None:
    """A nose is dark wherever it can be seen, and something around it is not."""
    shares = []
    for image, label in images_and_labels(animals, labels, "train"):
        x, y, v = read_keypoints(label)[0]
        if v == 2 and 6 < x < SIZE[1] - 6 and 6 < y < SIZE[0] - 6:
            column, row = int(x), int(y)
            around = image[row - 6 : row + 7, column - 6 : column + 7]
            shares.append(image[row, column].max() / around.max())
    assert len(shares) > 60
    assert np.max(shares) < 0.6
    assert np.median(shares) < 0.3


def images_and_labels(animals, labels: dict, split: str):
    names = {image["id"]: image["file_name"] for image in labels[split]["images"]}
    for label in labels[split]["annotations"]:
        yield cv2.imread(str(animals.images / names[label["image_id"]])), label


def test_left_is_left_of_the_body(labels) -> None:
    """Seen from above and looking up in the picture, left ears and paws are on the left."""
    checked = 0
    for label in labels["train"]["annotations"] + labels["val"]["annotations"]:
        snout, left_ear, right_ear, left_paw, right_paw, tail, _ = read_keypoints(label)
        for left, right in ((left_ear, right_ear), (left_paw, right_paw)):
            if min(point[2] for point in (snout, tail, left, right)) > 0:
                ahead, leftwards = (snout - tail)[:2], (left - right)[:2]
                assert ahead[0] * leftwards[1] - ahead[1] * leftwards[0] < 0
                checked += 1
    assert checked > 150


def test_visibility_agrees_with_what_is_painted(scenes) -> None:
    """Beneath another fox: v = 1. In the open: v = 2. Decided here by painting each fox alone."""
    found = {1: 0, 2: 0}
    for scene, _, _, labelled in scenes:
        layers = [paint_limbs(fox.limbs, SIZE, scene.sun, fox.fur)[..., 3] for fox in scene.foxes]
        for index, label in enumerate(labelled):
            above = np.max([np.zeros(SIZE), *layers[index + 1 :]], axis=0)
            own = hidden_keypoints(scene.foxes[index].limbs)
            for (x, y, v), hidden in zip(read_keypoints(label), own, strict=True):
                if v == 0:
                    continue
                rows, columns = (slice(max(int(place) - 1, 0), int(place) + 2) for place in (y, x))
                patch = above[rows, columns]
                if patch.min() > 0.9:
                    assert v == 1
                    found[1] += 1
                elif patch.max() < 0.1:
                    assert v == (1 if hidden else 2)
                    found[2] += 1
    assert found[1] > 4
    assert found[2] > 100


def test_points_outside_the_picture_are_not_labelled(scenes) -> None:
    outside = 0
    for scene, _, _, labelled in scenes:
        for fox, label in zip(scene.foxes, labelled, strict=True):
            places, keypoints = locate_keypoints(fox.limbs), read_keypoints(label)
            inside = (places >= 0).all(axis=1) & (places < (SIZE[1], SIZE[0])).all(axis=1)
            assert np.array_equal(keypoints[:, 2] > 0, inside)
            assert not keypoints[~inside].any()
            np.testing.assert_allclose(keypoints[inside, :2], places[inside], atol=1e-3)
            assert label["num_keypoints"] == inside.sum() >= 5
            outside += (~inside).sum()
    assert outside > 5


# --- boxes, areas, outlines ------------------------------------------------------------------------------------------


def test_boxes_areas_and_outlines_are_those_of_what_is_seen(scenes) -> None:
    for _, _, cover, labelled in scenes:
        for seen, label in zip(cover, labelled, strict=True):
            mask = seen > 0.5
            x, y, width, height = label["bbox"]
            assert label["area"] == mask.sum() == mask[y : y + height, x : x + width].sum()
            assert mask[y].any()
            assert mask[y + height - 1].any()
            assert mask[:, x].any()
            assert mask[:, x + width - 1].any()
            filled = fill([np.array(outline).reshape(-1, 2) for outline in label["segmentation"]])
            assert (filled & mask).sum() / (filled | mask).sum() > 0.95


def fill(outlines: list[np.ndarray]) -> np.ndarray:
    """Pixels whose centres lie in a polygon."""
    y, x = np.indices(SIZE) + 0.5
    inside = np.zeros(SIZE, bool)
    for outline in outlines:
        for (x1, y1), (x2, y2) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
            if y1 != y2:
                inside ^= ((y1 <= y) != (y2 <= y)) & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return inside


def test_an_outline_lies_on_the_edge_of_a_disc() -> None:
    y, x = np.indices((60, 80)) + 0.5
    cover = np.clip(20.5 - np.hypot(x - 40.3, y - 29.6), 0, 1)
    (outline,) = trace_outlines(cover)
    radii = np.hypot(*(outline - (40.3, 29.6)).T)
    assert np.abs(radii - 20).max() < 0.4
    assert trace_outlines(np.zeros((60, 80))) == []


# --- limbs -----------------------------------------------------------------------------------------------------------


def test_distances_agree_with_many_discs() -> None:
    """A limb is the union of all discs along it; the nearest of very many is as near as the limb."""
    generator = np.random.default_rng(0)
    limb = max(build_fox(draw_pose(generator, SIZE), COATS["red"]), key=lambda limb: len(limb.points))
    places = generator.uniform((0, 0), SIZE[::-1], (200, 2))
    steps = np.linspace(0, len(limb.points) - 1, 4000)
    known = np.arange(len(limb.points))
    axis = np.stack([np.interp(steps, known, limb.points[:, k]) for k in (0, 1)], axis=1)
    discs = np.hypot(*(places[:, None] - axis).transpose(2, 0, 1)) - np.interp(steps, known, limb.radii)
    distance = distance_to(limb, *places.T)
    # Perpendicular to the axis, not to the slanted edge: the difference is the square of a small slope.
    np.testing.assert_allclose(distance, discs.min(axis=1), atol=0.03 * np.abs(distance).max())
    assert np.array_equal(measure_limb(limb, *places.T).distance, distance)


def test_fur_moves_along() -> None:
    """A fox moved by whole pixels is the same picture, moved."""
    sun, fur = np.array([-0.5, -0.4, 0.77]), make_fur(np.random.default_rng(1))
    pose = draw_pose(np.random.default_rng(3), (60, 60))
    here, there = (
        build_fox(type(pose)(**{**vars(pose), "centre": centre}), COATS["umber"]) for centre in ((90, 80), (120, 70))
    )
    one, other = (paint_limbs(limbs, (180, 220), sun, fur) for limbs in (here, there))
    np.testing.assert_allclose(one[10:, :-30], other[:-10, 30:], atol=1e-6)
    assert one[..., 3].sum() > 1500


# --- pictures --------------------------------------------------------------------------------------------------------


def test_a_default_sample_takes_seconds(tmp_path: Path) -> None:
    start = time.process_time()
    make_animals(tmp_path)
    assert time.process_time() - start < 10  # under 5 where nothing else runs


def test_pictures_are_varied(animals, labels, scenes) -> None:
    pictures = [cv2.imread(str(path)) for path in sorted(animals.images.iterdir())]
    assert len(pictures) == 76
    assert {picture.shape for picture in pictures} == {(*SIZE, 3)}
    assert len({picture.tobytes() for picture in pictures}) == 76
    counts = np.bincount([label["image_id"] for label in labels["train"]["annotations"]])[1:]
    assert len(counts) == 60
    assert sorted(set(counts.tolist())) == [1, 2, 3]
    visibility = np.concatenate([read_keypoints(label)[:, 2] for label in labels["train"]["annotations"]])
    shares = np.bincount(visibility.astype(int)) / len(visibility)
    assert 0.02 < shares[0] < 0.15
    assert 0.02 < shares[1] < 0.2
    brightness = [picture.mean() for picture in pictures]
    assert max(brightness) / min(brightness) > 1.5
    assert not any(image.min() == image.max() for _, image, _, _ in scenes)


def test_headings_cover_all_directions(labels) -> None:
    axes = []
    for label in labels["train"]["annotations"]:
        keypoints = read_keypoints(label)
        if keypoints[0, 2] and keypoints[5, 2]:
            axes.append((keypoints[0] - keypoints[5])[:2])
    angles = np.arctan2(*np.array(axes).T) % (2 * np.pi)
    assert (np.histogram(angles, 8, (0, 2 * np.pi))[0] > 2).all()


# --- files -----------------------------------------------------------------------------------------------------------


def test_labels_are_coco_keypoints(animals, labels) -> None:
    for split, count in (("train", 60), ("val", 16)):
        coco = labels[split]
        (category,) = coco["categories"]
        assert infer_flip_idx(category["keypoints"]) == (0, 2, 1, 4, 3, 5, 6)
        assert category["skeleton"] == [[first + 1, second + 1] for first, second in EDGES]
        assert len(coco["images"]) == count
        ids = [label["id"] for label in coco["annotations"]]
        assert ids == list(range(1, len(ids) + 1))
        for image in coco["images"]:
            assert (image["height"], image["width"]) == SIZE
            assert (animals.images / image["file_name"]).is_file()
        assert {label["image_id"] for label in coco["annotations"]} == {image["id"] for image in coco["images"]}


def test_the_video_shows_foxes_that_walk(animals) -> None:
    assert is_video(animals.video)
    reader = VideoReader(animals.video)
    assert (reader.size, reader.fps, reader.count_frames()) == (SIZE, 20, 60)
    frames = np.stack(list(reader.frames()))
    assert all(np.abs(one.astype(int) - other).mean() > 0.5 for one, other in itertools.pairwise(frames))
    still = np.median(frames, axis=0)
    assert (np.abs(frames - still).max(axis=(0, 3)) > 60).mean() > 0.2  # where foxes passed


def test_a_walk_is_smooth_and_stays_in_the_picture() -> None:
    for start in np.linspace(0, 2 * np.pi, 7):
        places = np.stack(
            [locate_keypoints(build_fox(walk(start, k / 20, 1.05, SIZE), COATS["red"])) for k in range(60)]
        )
        assert (places > 0).all()
        assert (places < SIZE[::-1]).all()
        assert np.hypot(*np.diff(places, axis=0).transpose(2, 0, 1)).max() < 11
        ahead = places[:, 0] - places[:, 5]
        moved = np.gradient(places.mean(axis=1), axis=0)
        assert ((ahead * moved).sum(axis=1) > 0).all()  # nobody walks backwards


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    one, again, other = (
        make_animals(tmp_path / name, seed=seed, **SMALL) for name, seed in (("a", 7), ("b", 7), ("c", 8))
    )
    files = sorted(path.relative_to(one.folder) for path in one.folder.rglob("*") if path.is_file())
    assert len(files) == 8
    for name in files:
        assert digest_file(one.folder / name) == digest_file(again.folder / name)
        assert digest_file(one.folder / name) != digest_file(other.folder / name)


def test_a_whole_sample_is_left_alone_and_a_broken_one_made_again(tmp_path: Path) -> None:
    animals = make_animals(tmp_path, **SMALL)
    (tmp_path / "notes.txt").write_text("mine")

    def stamps() -> dict:
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}

    before = stamps()
    assert make_animals(tmp_path, **SMALL) == animals
    assert stamps() == before
    whole = digest_file(animals.video)
    animals.video.write_bytes(animals.video.read_bytes()[:-100])
    make_animals(tmp_path, **SMALL)
    assert digest_file(animals.video) == whole
    (animals.images / "val_000.png").unlink()
    make_animals(tmp_path, **SMALL)
    assert (animals.images / "val_000.png").is_file()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_interrupted_sample_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    animals = locate_animals(tmp_path)
    animals.video.mkdir()
    with pytest.raises(DataError, match=r"chase\.mp4: is there already, and not of the sample"):
        make_animals(tmp_path, **SMALL)
    (tmp_path / "sample.json").write_text("{}")  # so it is the sample's; but the video cannot take its name
    with pytest.raises(DataError, match="cannot be written"):
        make_animals(tmp_path, **SMALL)
    assert json.loads((tmp_path / "sample.json").read_text())["files"] == {}
    animals.video.rmdir()
    make_animals(tmp_path, **SMALL)
    assert VideoReader(animals.video).count_frames() == 3
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"the sample could not be written \(.+\); free space"):
        make_animals(tmp_path / "file" / "deep", **SMALL)


@pytest.mark.parametrize("wrong", [{"size": (100, 200)}, {"size": (129, 200)}, {"train": 0}, {"frames": 0}])
def test_senseless_samples_are_refused(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(ValueError, match="at least 128 pixels"):
        make_animals(tmp_path, **{**SMALL, **wrong})
    assert not list(tmp_path.iterdir())
