"""Overlays that are where the points are, sheets that show errors, tables and plots that hold the scores."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.keypoints.drawing import draw_names, draw_poses, mark_radius
from utils.keypoints.matching import PredictedPose, TruthPose
from utils.keypoints.metrics import PoseScores
from utils.keypoints.plots import (
    MISSED,
    SURPLUS,
    draw_pose_comparison,
    plot_error_histogram,
    plot_keypoint_table,
    poses_region,
)
from utils.keypoints.tables import keypoint_rows, keypoint_table, swap_table, write_keypoint_table
from utils.metrics import nan_to_none
from utils.report.colours import class_palette, mark_colours
from utils.report.plots import WRONG
from utils.report.tables import read_csv

ROOT = Path(__file__).resolve().parents[3]
REAL = ROOT.parent / "shared" / "data"
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data sets in {REAL}")

NAMES = ["nose", "l_ear", "r_ear", "tail"]


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(3)


def read_rgb(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def centre_of(picture: np.ndarray, colour: tuple[int, ...] | np.ndarray) -> np.ndarray:
    """Mean x, y of the pixels of a colour; the centre of the first pixel is (0.5, 0.5)."""
    rows, columns = np.nonzero((picture == np.asarray(colour)).all(axis=-1))
    assert len(rows), f"no pixel has the colour {tuple(colour)}"
    return np.array([columns.mean(), rows.mean()]) + 0.5


def make_scores(generator: np.random.Generator, absent: int | None = None) -> dict:
    scores = PoseScores(4, flip_idx=[0, 2, 1, 3])
    for index in range(30):
        truth = np.column_stack([generator.uniform(0, 200, (4, 2)), np.full(4, 2)])
        if absent is not None:
            truth[absent] = (np.nan, np.nan, 0)
        found = truth + np.column_stack([generator.normal(0, 5, (4, 2)), np.zeros(4)])
        found[generator.random(4) < 0.2] = np.nan
        scores.update([(truth, None, 2500.0, False)], [(found, 0.5)], str(index))
    return scores.compute()


# --- overlays --------------------------------------------------------------------------------------------------------


def test_marks_are_centred_on_their_points_to_a_fraction_of_a_pixel(generator: np.random.Generator) -> None:
    """Measured by weight, so that the smooth rim counts; a point half a pixel off would show."""
    errors = []
    for _ in range(40):
        point = generator.uniform(20, 60, 2)
        picture = draw_poses(np.zeros((80, 80, 3), np.uint8), [np.array([[*point, 1.0]])], radius=6.0)
        weight = picture.sum(axis=-1).astype(float)
        rows, columns = np.mgrid[:80, :80] + 0.5
        errors.append([np.average(columns, weights=weight) - point[0], np.average(rows, weights=weight) - point[1]])
    assert np.abs(np.mean(errors, axis=0)).max() < 0.06
    assert np.abs(errors).max() < 0.3


def test_marks_grow_with_the_picture_and_shrink_with_the_animal() -> None:
    drawn = []
    for scale in (2, 4, 6):
        image = np.zeros((300 * scale, 400 * scale, 3), np.uint8)
        pose = np.array([[100.0, 100, 1], [300, 200, 1]]) * [scale, scale, 1]
        drawn.append((draw_poses(image, [pose]) > 0).any(axis=-1).mean())
    assert drawn == pytest.approx([drawn[2]] * 3, rel=0.25)  # the same share of the picture
    small, large = np.array([[0.0, 0], [30, 30]]), np.array([[0.0, 0], [900, 900]])
    assert mark_radius((1080, 1920), [small]) < mark_radius((1080, 1920), [large]) == mark_radius((1080, 1920), [])


def test_the_picture_itself_stays_and_channels_do_not_matter(generator: np.random.Generator) -> None:
    pose = np.array([[20.0, 10, 0.5], [40, 30, 0.5]])
    image = generator.integers(0, 256, (50, 70, 5)).astype(np.uint8)
    before = image.copy()
    drawn = draw_poses(image, [pose], [(0, 1)])
    assert np.array_equal(image, before)
    assert np.array_equal(drawn[:, 60:], image[:, 60:, :3])
    assert np.array_equal(drawn, draw_poses(image[..., :3], [pose], [(0, 1)]))
    grey = draw_poses(image[..., 0], [pose])
    assert np.array_equal(grey[:, 60:], image[:, 60:, :1].repeat(3, axis=2))


@pytest.mark.parametrize("nowhere", [np.nan, np.inf, -np.inf])
def test_what_is_nowhere_is_not_drawn(nowhere: float) -> None:
    image = np.full((40, 40, 3), 9, np.uint8)
    pose = np.array([[nowhere, 20.0, 1], [20.0, nowhere, 1], [np.nan, np.nan, 1]])
    assert np.array_equal(draw_poses(image, [pose], [(0, 1), (1, 2)]), image)
    assert np.array_equal(draw_poses(image, [], [(0, 1)]), image)


def test_points_far_outside_are_taken_and_their_bones_lead_there() -> None:
    image = np.zeros((60, 90, 3), np.uint8)
    drawn = draw_poses(image, [np.array([[45.0, 30, 1], [1e12, 30, 1]])], [(0, 1)], radius=5.0)
    colour = class_palette(1)[0]
    assert (np.abs(drawn[28:32, 85].astype(int) - colour).sum(axis=-1) < 30).any()
    assert not drawn[:, :25].any()


def test_visibility_hides_and_hollows() -> None:
    pose = np.array([[20.0, 20, 0], [60, 20, 1], [100, 20, 2]])
    image = np.zeros((40, 120, 3), np.uint8)
    drawn = draw_poses(image, [pose], [(0, 1)], third="visibility", radius=6.0)
    assert not drawn[:, :45].any()  # neither the point nor its bone
    assert drawn[20, 60].tolist() == [255, 255, 255]
    assert drawn[20, 100].tolist() == class_palette(3)[2].tolist()
    assert drawn[20, 65].tolist() == class_palette(3)[1].tolist()
    assert draw_poses(image, [pose], radius=6.0)[20, 20].tolist() == class_palette(3)[0].tolist()  # a score of 0


def test_more_keypoints_than_colours_are_drawn() -> None:
    pose = np.column_stack([np.tile(np.arange(5, 305, 10), 10), np.repeat(np.arange(5, 105, 10), 30), np.ones(300)])
    drawn = draw_poses(np.zeros((110, 310, 3), np.uint8), [pose], radius=2.0)
    assert drawn[95, 295].tolist() == class_palette(256)[299 - 256].tolist()


# --- names -----------------------------------------------------------------------------------------------------------


def written(names: list[str], poses: list[np.ndarray], size: tuple[int, int], radius: float = 3.0) -> np.ndarray:
    """Where something is written, (H, W)."""
    picture = np.full((*size, 3), 128, np.uint8)
    draw_names(picture, poses, names, radius)
    return (picture != 128).any(axis=-1)


def test_names_stand_beside_their_points_and_never_on_a_point() -> None:
    pose = np.array([[40.5, 30.5, 1], [150.5, 80.5, 1], [np.nan, 5.0, 1]])
    marked = written(["nose", "tail", "ear"], [pose], (100, 200))
    assert marked[20:40, 45:100].any(), "to the right of the nose"
    assert marked[70:90, 155:].any()
    assert not marked[24:37, 34:47].any(), "the mark itself"
    assert not marked[:15].any(), "nothing for a point that is nowhere"
    near = np.array([[40.5, 30.5, 1], [60.5, 30.5, 1]])
    marked = written(["nose", ""], [near], (100, 200))
    assert not marked[20:40, 55:67].any(), "the other point stands there"
    assert marked[20:40, :35].any(), "so the name is on the left"


def test_names_that_have_no_room_are_left_out(generator: np.random.Generator) -> None:
    crowd = [np.column_stack([generator.uniform(0, 400, (8, 2)) * (1, 0.5), np.ones(8)]) for _ in range(6)]
    names = [f"point {index}" for index in range(8)]
    boxes: list[tuple[int, int, int, int]] = []

    def keep(picture, text, start, *_: object) -> None:
        (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
        boxes.append((start[0], start[1] - height, start[0] + width, start[1] + below))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cv2, "putText", keep)
        written(names, crowd, (200, 400))
    places = np.array(boxes)
    assert 5 < len(places) < 48
    assert places.min() >= -1
    assert (places[:, 2:] <= (401, 201)).all()
    for index, box in enumerate(places):
        for other in places[:index]:  # to a pixel, for what is rounded
            assert not ((other[:2] + 1 < box[2:] - 1) & (box[:2] + 1 < other[2:] - 1)).all()
        for pose in crowd:
            assert not ((pose[:, :2] > box[:2] + 1) & (pose[:, :2] < box[2:] - 1)).all(axis=1).any()
    assert not written(["a name that is wider than all of the picture"], [crowd[0][:1]], (100, 100)).any()


def test_letters_grow_with_the_picture() -> None:
    heights = []
    for size in ((120, 160), (480, 640), (2160, 3840)):
        marked = written(["H"], [np.array([[size[1] / 2, size[0] / 2, 1.0]])], size)
        heights.append(np.ptp(np.flatnonzero(marked.any(axis=1))) + 1)
    assert heights[0] >= 10, "with the rim"
    assert heights[0] <= heights[1] < heights[2]


# --- sheets ----------------------------------------------------------------------------------------------------------


def show_whole_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.keypoints.plots.poses_region", lambda poses, size: (0, 0, size[1], size[0]))


def test_sheet_shows_picture_truth_prediction_and_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    show_whole_picture(monkeypatch)
    image = np.full((300, 512, 3), 90, np.uint8)
    pose = np.array([[100.0, 100, 2], [200, 100, 1], [200, 200, 2], [np.nan, np.nan, 0]])
    found = np.array([[100.0, 100, 0.9], [260, 100, 0.8], [np.nan, np.nan, 0.1], [400, 250, 0.7]])
    ghost = found + np.array([150, -60, 0])
    predictions = [PredictedPose(ghost, 0.4), PredictedPose(found, 0.9)]
    sheet = draw_pose_comparison(image, [TruthPose(pose)], predictions, NAMES, [(0, 1)])
    assert sheet.shape == (22 + 300 + 22, 4 * 512 + 3 * 4, 3)
    panels = [sheet[22:322, 516 * index : 516 * index + 512] for index in range(4)]
    palette = class_palette(4)
    assert np.array_equal(panels[0], image)
    assert panels[1][200, 200].tolist() == palette[2].tolist()
    assert panels[1][100, 200].tolist() == [255, 255, 255]  # occluded: a ring
    assert not (panels[1] == palette[3]).all(axis=-1).any()
    assert panels[2][250, 400].tolist() == palette[3].tolist()
    assert not (panels[2] == palette[2]).all(axis=-1)[150:].any()
    errors = panels[3]
    wrong, missed, surplus = mark_colours((WRONG, MISSED, SURPLUS), palette.tolist())
    assert (wrong, surplus) == (WRONG, SURPLUS)
    assert missed != MISSED  # which the second keypoint's orange is like
    assert centre_of(errors, WRONG)[1] == pytest.approx(100, abs=1)  # from (260, 100) to (200, 100)
    red = np.nonzero((errors == WRONG).all(axis=-1).any(axis=0))[0]
    assert 198 <= red.min() <= 202
    assert 245 <= red.max() <= 260
    assert centre_of(errors, missed) == pytest.approx([200, 200], abs=1.5)
    assert errors[40, 250].tolist() == list(SURPLUS)
    assert not (errors == palette[3]).all(axis=-1).any()  # predicted, but not labelled: no error
    assert (sheet[322:] == missed).all(axis=-1).any()  # the legend


def test_sheet_without_truth_has_two_panels_and_no_marks_of_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    show_whole_picture(monkeypatch)
    image = np.zeros((100, 200, 3), np.uint8)
    sheet = draw_pose_comparison(image, None, [PredictedPose(np.full((4, 3), 50.0), 0.5)], NAMES)
    assert sheet.shape[1] == 2 * 512 + 4
    assert not (sheet == WRONG).all(axis=-1).any()


def test_zoom_shows_the_animal_where_it_is(generator: np.random.Generator) -> None:
    """The marks in the panel, carried back by hand, are the points."""
    for _ in range(10):
        pose = np.column_stack([generator.uniform(300, 420, (4, 2)), np.full(4, 2)])
        image = np.zeros((900, 1300, 3), np.uint8)
        x1, y1, x2, y2 = poses_region([pose], (900, 1300))
        assert x1 < pose[:, 0].min() < pose[:, 0].max() < x2
        assert max(x2 - x1, y2 - y1) < 260
        sheet = draw_pose_comparison(image, [TruthPose(pose)], [], NAMES)
        height = sheet.shape[0] - 2 * 22
        width = round((x2 - x1) * min(512 / max(x2 - x1, y2 - y1), 4.0))
        panel = sheet[22 : 22 + height, width + 4 : 2 * width + 4]
        for point, colour in zip(pose[:, :2], class_palette(4), strict=True):
            if (np.abs(pose[:, :2] - point).max(axis=1) < 8).sum() == 1:  # no other mark covers it
                expected = (point - (x1, y1)) * (width / (x2 - x1), height / (y2 - y1))
                assert centre_of(panel, colour) == pytest.approx(expected, abs=1.0)


@pytest.mark.parametrize("size", [(1, 1), (30, 40), (40, 1000), (2000, 1500)])
def test_sheets_of_any_size_and_of_nothing(size: tuple[int, int]) -> None:
    image, nothing = np.zeros((*size, 3), np.uint8), np.full((4, 3), np.nan)
    unlabelled = TruthPose(np.zeros((4, 3)))
    crowd = TruthPose(np.full((4, 3), 2.0), None, None, True)
    outside = PredictedPose(np.full((4, 3), -5000.0), 0.5)
    for truth in (None, [], [unlabelled, crowd]):
        for predictions in ([], [PredictedPose(nothing, 0.5), outside]):
            sheet = draw_pose_comparison(image, truth, predictions, NAMES, [(0, 1)])
            assert sheet.dtype == np.uint8
            assert sheet.shape[0] >= 45
            assert sheet.shape[1] <= 4 * 512 + 12


@needs_real_data
def test_a_real_picture_of_several_fish() -> None:
    stem = "2024_08_09_09_56_52_frame_001410"
    image = cv2.imread(str(REAL / f"kp_salmon/images/train/{stem}.png"))
    rows = np.loadtxt(REAL / f"kp_salmon/labels/train/{stem}.txt")
    poses = [row[5:].reshape(-1, 3) * [image.shape[1], image.shape[0], 1] for row in rows]
    drawn = draw_poses(image, poses, third="visibility")
    palette = class_palette(11)
    for pose in poses:
        for index in np.flatnonzero(pose[:, 2] == 2):
            x, y = pose[index, :2].astype(int)
            assert (drawn[y, x] == palette).all(axis=-1).any()  # a mark, its own or that of one that lies on it
    sheet = draw_pose_comparison(image, [TruthPose(pose) for pose in poses], [], [str(k) for k in range(11)])
    assert sheet.shape[1] == 4 * 512 + 12


# --- plots and tables ------------------------------------------------------------------------------------------------


def test_histogram_takes_all_or_each_keypoint(tmp_path: Path, generator: np.random.Generator) -> None:
    result = nan_to_none(make_scores(generator, absent=3))  # as it comes back from JSON
    counts, edges = result["histogram"]["counts"], result["histogram"]["edges_px"]
    missed = result["per_keypoint"]["missed"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_error_histogram(counts, edges, tmp_path / "each.png", missed, NAMES)
        plot_error_histogram(np.sum(counts, axis=0), edges, tmp_path / "all.png", result["missed"])
        plot_error_histogram(np.zeros((4, 16), int), edges, tmp_path / "none.png", [0] * 4, NAMES)
    assert read_rgb(tmp_path / "each.png").shape == (400, 1400, 3)
    plain = read_rgb(tmp_path / "all.png")
    assert plain.shape == (400, 700, 3)
    assert (np.abs(plain.astype(int) - MISSED).max(axis=-1) < 12).sum() > 100  # the bar of missed points
    blue = (np.abs(plain.astype(int) - class_palette(1)[0]).max(axis=-1) < 12).sum()
    assert blue > 1000
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def test_histogram_refuses_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected 3 edges, got 2"):
        plot_error_histogram([1, 2], [0, 1], tmp_path / "a.png")
    with pytest.raises(ValueError, match="2 names, 1 rows and 1 counts"):
        plot_error_histogram([1, 2], [0, 1, 2], tmp_path / "a.png", 0, ["nose", "tail"])
    assert not list(tmp_path.iterdir())


def test_keypoint_picture_grows_with_the_skeleton(tmp_path: Path, generator: np.random.Generator) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_keypoint_table(nan_to_none(make_scores(generator, absent=1)), NAMES, tmp_path / "four.png")
        plot_keypoint_table(PoseScores(40).compute(), [f"point {k}" for k in range(40)], tmp_path / "forty.png")
    assert read_rgb(tmp_path / "forty.png").shape[0] > 3 * read_rgb(tmp_path / "four.png").shape[0]
    with pytest.raises(ValueError, match="expected 4 names, got 1: nose"):
        plot_keypoint_table(make_scores(generator), ["nose"], tmp_path / "no.png")


def test_tables_hold_the_scores(tmp_path: Path, generator: np.random.Generator) -> None:
    result = make_scores(generator, absent=3)
    write_keypoint_table(tmp_path / "deep" / "keypoints.csv", result, NAMES)
    rows = read_csv(tmp_path / "deep" / "keypoints.csv")
    assert [row["keypoint"] for row in rows] == [*NAMES, "all"]
    assert rows[3]["labelled"] == "0"
    assert rows[3]["PCK@4px"] == ""  # absent: unknown, not 0
    for row, expected in zip(rows, keypoint_rows(result, NAMES), strict=True):
        if expected["labelled"]:
            assert float(row["median_error_px"]) == pytest.approx(expected["median_error_px"], rel=1e-5)
            assert float(row["PCK@0.1size"]) == pytest.approx(expected["PCK@0.1size"], rel=1e-5)
    text = keypoint_table(result, NAMES)
    assert text == keypoint_table(json.loads(json.dumps(nan_to_none(result))), NAMES)
    assert len(text.splitlines()) == 2 + 5
    assert f"| {result['PCK@4px']:.3f} |" in text.splitlines()[-1]
    swaps = swap_table(result, NAMES).splitlines()
    assert len(swaps) == 2 + 2
    assert "l_ear / r_ear" in swaps[2]
