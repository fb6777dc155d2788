"""Pose scores against plain loops, a second implementation of COCO's AP, and worked values."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from utils.errors import SettingsError
from utils.keypoints.matching import PredictedPose, TruthPose, match_poses, pose_area, pose_diagonal
from utils.keypoints.metrics import HISTOGRAM_EDGES_PX, PCK_PX, PoseScores
from utils.keypoints.oks import COCO_SIGMAS, oks_scores, resolve_sigmas
from utils.metrics import nan_to_none
from utils.runtime.distributed import gather_objects

ROOT = Path(__file__).resolve().parents[3]
REAL = ROOT.parent / "shared" / "data"
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data sets in {REAL}")

Picture = tuple[list[TruthPose], list[PredictedPose]]


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(7)


def make_picture(generator: np.random.Generator, num_keypoints: int = 5) -> Picture:
    """Animals of many sizes, some crowds or unlabelled, predicted well, badly, twice or not at all, and some ghosts."""
    truth, predictions = [], []
    for _ in range(generator.integers(0, 5)):
        centre, size = generator.uniform(0, 1000, 2), generator.choice([15, 60, 200])
        points = centre + generator.normal(0, size / 2, (num_keypoints, 2))
        visibility = generator.choice([0, 1, 2], num_keypoints, p=[0.2, 0.2, 0.6]) * (generator.random() > 0.1)
        keypoints = np.where(visibility[:, None] > 0, points, np.nan)
        box = np.concatenate([points.min(axis=0), points.max(axis=0)])
        area = float(size**2) * generator.uniform(0.5, 1.5)
        truth.append(TruthPose(np.column_stack([keypoints, visibility]), box, area, bool(generator.random() < 0.1)))
        for _ in range(generator.integers(0, 3)):
            found = points + generator.normal(0, size * generator.choice([0.01, 0.05, 0.2]), points.shape)
            found[generator.random(num_keypoints) < 0.1] = np.nan
            score = round(float(generator.random()), 1)  # rounded, so that there are ties
            predictions.append(PredictedPose(np.column_stack([found, generator.random(num_keypoints)]), score))
    for _ in range(generator.integers(0, 2)):
        ghost = np.column_stack([generator.uniform(0, 1000, (num_keypoints, 2)), np.ones(num_keypoints)])
        predictions.append(PredictedPose(ghost, float(generator.random())))
    return truth, predictions


def move(keypoints: np.ndarray, x: float, y: float) -> np.ndarray:
    return keypoints + np.array([x, y, 0.0])


def fill(scores: PoseScores, pictures: list[Picture], first: int = 0) -> PoseScores:
    for index, (truth, predictions) in enumerate(pictures, start=first):
        scores.update(truth, predictions, f"{index:04d}")
    return scores


# --- OKS: COCO's definition, written a second time -------------------------------------------------------------------


def similarity(truth: TruthPose, prediction: PredictedPose, sigmas: np.ndarray) -> float:
    """OKS of one pair, point by point; where nothing is labelled, of the distance to the box at double size."""
    labelled = [k for k in range(len(sigmas)) if truth.keypoints[k, 2] > 0]
    total = 0.0
    for k in labelled or range(len(sigmas)):
        x, y = prediction.keypoints[k, :2]
        if labelled:
            dx, dy = x - truth.keypoints[k, 0], y - truth.keypoints[k, 1]
        else:
            x1, y1, x2, y2 = truth.box_xyxy
            dx = max(0, (x1 - (x2 - x1)) - x) + max(0, x - (x2 + (x2 - x1)))
            dy = max(0, (y1 - (y2 - y1)) - y) + max(0, y - (y2 + (y2 - y1)))
        if not math.isnan(x + y):
            total += math.exp(-(dx**2 + dy**2) / (2 * truth.area * (2 * sigmas[k]) ** 2))
    return total / len(labelled or sigmas)


def judge(picture: Picture, sigmas: np.ndarray, threshold: float, low: float, high: float) -> tuple[list, int]:
    """(score, hit) of each prediction of a picture that counts, and the number of truths to be found."""
    truth, predictions = picture
    ignored = [pose.is_crowd or not (pose.keypoints[:, 2] > 0).any() or not low <= pose.area <= high for pose in truth]
    taken, verdicts = set(), []
    for prediction in sorted(predictions, key=lambda pose: -pose.score)[:20]:
        values = [similarity(pose, prediction, sigmas) for pose in truth]
        choice = None
        for wanted in (False, True):  # truths that count go first
            best = min(threshold, 1 - 1e-10)
            for index, value in enumerate(values):
                free = index not in taken or truth[index].is_crowd
                if ignored[index] == wanted and free and value >= best:
                    choice, best = index, value
            if choice is not None:
                break
        if choice is not None:
            taken.add(choice)
            if not ignored[choice]:
                verdicts.append((prediction.score, True))
        else:
            found = prediction.keypoints[np.isfinite(prediction.keypoints[:, 0]), :2]
            area = float(np.prod(found.max(axis=0) - found.min(axis=0))) if len(found) else 0.0
            if low <= area <= high:
                verdicts.append((prediction.score, False))
    return verdicts, ignored.count(False)


def reference_scores(pictures: list[Picture], sigmas: np.ndarray, low: float = 0, high: float = 1e10) -> dict:
    """AP and AR of every threshold."""
    precisions, recalls = {}, {}
    for threshold in np.linspace(0.5, 0.95, 10):
        judged = [judge(picture, sigmas, threshold, low, high) for picture in pictures]
        verdicts = sorted((verdict for part, _ in judged for verdict in part), key=lambda verdict: -verdict[0])
        count = sum(part for _, part in judged)
        curve, hits = [], 0
        for rank, (_, hit) in enumerate(verdicts, start=1):
            hits += hit
            curve.append((hits / count, hits / rank))
        name = round(float(threshold), 2)
        recalls[name] = hits / count
        precisions[name] = np.mean(
            [max((p for r, p in curve if r >= recall), default=0.0) for recall in np.linspace(0, 1, 101)]
        )
    return {
        "AP": np.mean(list(precisions.values())),
        "AR": np.mean(list(recalls.values())),
        "AP50": precisions[0.5],
        "AP75": precisions[0.75],
        "AR50": recalls[0.5],
        "AR75": recalls[0.75],
    }


@pytest.mark.parametrize("seed", range(6))
def test_oks_scores_equal_a_second_implementation(seed: int) -> None:
    generator = np.random.default_rng(seed)
    pictures = [make_picture(generator) for _ in range(25)]
    sigmas = resolve_sigmas([0.03, 0.05, 0.05, 0.08, 0.1], 5)
    scores = oks_scores([truth for truth, _ in pictures], [found for _, found in pictures], sigmas)
    expected = reference_scores(pictures, sigmas)
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert 0.05 < scores["AP"] < scores["AP50"] < 0.95  # a case in which something is at stake
    medium = reference_scores(pictures, sigmas, 32**2, 96**2)
    large = reference_scores(pictures, sigmas, 96**2, 1e10)
    assert scores["AP_medium"] == pytest.approx(medium["AP"], abs=1e-9)
    assert scores["AR_medium"] == pytest.approx(medium["AR"], abs=1e-9)
    assert scores["AP_large"] == pytest.approx(large["AP"], abs=1e-9)
    assert scores["AR_large"] == pytest.approx(large["AR"], abs=1e-9)


def test_oks_of_worked_pairs() -> None:
    """Ten pixels off at a size of 100 and a sigma of 0.05 is exp(-1/2) = 0.607: right at 0.5, 0.55 and 0.6."""
    truth, sigmas = TruthPose(np.array([[0.0, 0, 2], [100, 0, 1]]), area=10_000.0), np.array([0.05, 0.05])
    off, lost = truth.keypoints.copy(), truth.keypoints.copy()
    off[:, 1] += 10
    lost[0, 1] = np.nan  # one point exact, the other missing, which is not the same as found at 0: 0.5
    for keypoints, value, recall in ((off, math.exp(-0.5), 0.3), (lost, 0.5, 0.1)):
        prediction = PredictedPose(keypoints, 0.9)
        assert similarity(truth, prediction, sigmas) == pytest.approx(value)
        assert oks_scores([[truth]], [[prediction]], sigmas)["AR"] == pytest.approx(recall)


def test_false_positives_and_empty_pictures_count(generator: np.random.Generator) -> None:
    truth = [TruthPose(np.column_stack([generator.uniform(0, 100, (5, 2)), np.full(5, 2)]), area=900.0)]
    right = [PredictedPose(truth[0].keypoints, 0.5)]
    ghost = [PredictedPose(truth[0].keypoints + 500, 0.9)]
    sigmas = resolve_sigmas(0.05, 5)
    assert oks_scores([truth, []], [right, []], sigmas)["AP"] == 1.0
    assert oks_scores([truth, []], [right, ghost], sigmas)["AP"] == 0.5
    assert oks_scores([truth, []], [right + ghost, ghost], sigmas)["AP"] == pytest.approx(1 / 3)
    assert oks_scores([truth, []], [[], []], sigmas)["AP"] == 0.0
    assert math.isnan(oks_scores([[], []], [ghost, []], sigmas)["AP"])


def test_what_is_predicted_on_a_crowd_is_not_false() -> None:
    single = np.array([[10.0, 10, 2], [40, 50, 2]])
    crowd = TruthPose(np.array([[np.nan, np.nan, 0]] * 2), np.array([200.0, 200, 400, 400]), None, True)
    inside = [PredictedPose(np.array([[250.0, 300, 1], [260 + 10 * k, 310, 1]]), 0.9) for k in range(3)]
    scores = PoseScores(2)
    scores.update([TruthPose(single, None, 1200.0), crowd], [PredictedPose(single, 0.5), *inside], "a")
    result = scores.compute()
    assert result["OKS_AP"] == 1.0
    assert result["instances"] == result["matched"] == 1
    assert result["PCK@2px"] == 1.0


def test_only_twenty_predictions_of_a_picture_count() -> None:
    truth = TruthPose(np.array([[10.0, 10, 2], [40, 50, 2]]), area=1200.0)
    ghosts = [PredictedPose(truth.keypoints + 300 * (k + 1), 0.9) for k in range(20)]
    assert oks_scores([[truth]], [[PredictedPose(truth.keypoints, 0.1), *ghosts]], resolve_sigmas(0.05, 2))["AR"] == 0
    assert (
        oks_scores([[truth]], [[PredictedPose(truth.keypoints, 0.1), *ghosts[1:]]], resolve_sigmas(0.05, 2))["AR"] == 1
    )


def test_sigmas_are_checked() -> None:
    assert np.array_equal(resolve_sigmas("coco", 17), COCO_SIGMAS)
    with pytest.raises(SettingsError, match=r"one per keypoint \(4\), got 17"):
        resolve_sigmas("coco", 4)
    with pytest.raises(SettingsError, match="above 0, got"):
        resolve_sigmas([0.1, 0.0], 2)
    with pytest.raises(SettingsError, match="a list of numbers or 'coco', got 'voc'"):
        resolve_sigmas("voc", 2)
    with pytest.raises(SettingsError, match="above 0, got"):
        PoseScores(2, sigmas=float("nan"))


# --- pixel errors ----------------------------------------------------------------------------------------------------


def test_one_truth_and_one_prediction_give_the_plain_error_of_each_point(generator: np.random.Generator) -> None:
    scores, errors = PoseScores(6), []
    for index in range(30):
        truth = np.column_stack([generator.uniform(0, 500, (6, 2)), generator.integers(0, 3, 6)])
        found = truth[:, :2] + generator.normal(0, generator.choice([1, 5, 300]), (6, 2))
        found[generator.random(6) < 0.15] = np.nan
        scores.update([(truth, None, None, False)], [(np.column_stack([found, np.ones(6)]), 1.0)], str(index))
        for k in range(6):
            if truth[k, 2] > 0:
                errors.append((k, math.dist(truth[k, :2], found[k])))
    result = scores.compute()
    known = [error for _, error in errors if not math.isnan(error)]
    assert result["labelled"] == len(errors)
    assert result["missed"] == len(errors) - len(known) > 0
    assert result["mean_error_px"] == pytest.approx(np.mean(known))
    assert result["median_error_px"] == pytest.approx(np.median(known))
    shares = {limit: np.mean([error <= limit for _, error in errors]) for limit in PCK_PX}
    for limit, share in shares.items():
        assert result[f"PCK@{limit}px"] == pytest.approx(share)
    assert result["weighted_PCK"] == pytest.approx((shares[2] + shares[4] + 2 * shares[8] + 2 * shares[16]) / 6)
    table = result["per_keypoint"]
    for k in range(6):
        of_point = [error for point, error in errors if point == k]
        assert table["labelled"][k] == len(of_point)
        assert table["PCK@8px"][k] == pytest.approx(np.mean([error <= 8 for error in of_point]))
        assert table["median_error_px"][k] == pytest.approx(np.nanmedian(of_point))
    assert result["mPCK@8px"] == pytest.approx(np.mean(table["PCK@8px"]))


def test_histogram_agrees_with_pck(generator: np.random.Generator) -> None:
    result = fill(PoseScores(5), [make_picture(generator) for _ in range(30)]).compute()
    counts = np.array(result["histogram"]["counts"])
    assert result["histogram"]["edges_px"] == list(HISTOGRAM_EDGES_PX)
    assert counts.sum() + result["missed"] == result["labelled"]
    assert (counts.sum(axis=1) + result["per_keypoint"]["missed"]).tolist() == result["per_keypoint"]["labelled"]
    for limit in PCK_PX:
        below = counts[:, : HISTOGRAM_EDGES_PX.index(limit)].sum(axis=1)
        assert below / result["per_keypoint"]["labelled"] == pytest.approx(result["per_keypoint"][f"PCK@{limit}px"])


def test_an_error_on_a_threshold_is_within_it() -> None:
    scores = PoseScores(1)
    scores.update([([[10.0, 10.0, 2]], None, 1600.0, False)], [([[10.0, 14.0, 1]], 1.0)], "a")
    result = scores.compute()
    assert (result["PCK@2px"], result["PCK@4px"], result["PCK@0.05size"], result["PCK@0.1size"]) == (0, 1, 0, 1)
    assert sum(result["histogram"]["counts"][0][: HISTOGRAM_EDGES_PX.index(4)]) == 1


def test_occluded_points_count_and_unlabelled_ones_do_not() -> None:
    truth = np.array([[0.0, 0, 2], [0, 9, 1], [np.nan, np.nan, 0]])
    prediction = np.array([[1.0, 0, 1], [3, 9, 1], [0, 0, 1]])
    scores = PoseScores(3)
    scores.update([(truth, None, 81.0, False)], [(prediction, 1.0)], "a")
    result = scores.compute()
    assert (result["labelled"], result["mean_error_px"]) == (2, 2.0)
    assert math.isnan(result["per_keypoint"]["PCK@4px"][2])
    assert result["per_keypoint"]["labelled"][2] == 0


def test_a_truth_that_nobody_found_is_missed_and_not_an_error() -> None:
    truth = np.array([[0.0, 0, 2], [0, 9, 2]])
    scores = PoseScores(2)
    scores.update([(truth, None, None, False), (move(truth, 300, 0), None, None, False)], [(truth, 0.9)], "a")
    scores.update([(truth, None, None, False)], [], "b")
    result = scores.compute()
    assert (result["labelled"], result["missed"], result["mean_error_px"]) == (6, 4, 0.0)
    assert result["PCK@16px"] == pytest.approx(1 / 3)
    assert (result["instances"], result["matched"], result["predictions"], result["pictures"]) == (3, 1, 1, 2)


# --- matching --------------------------------------------------------------------------------------------------------


def test_matching_finds_shuffled_animals(generator: np.random.Generator) -> None:
    for _ in range(20):
        count = int(generator.integers(2, 8))
        centres = 400 * np.stack([np.arange(count), np.zeros(count)], axis=-1)
        poses = [centre + generator.uniform(0, 80, (4, 2)) for centre in centres]
        order = generator.permutation(count)
        truth = [TruthPose(np.column_stack([points, np.full(4, 2)])) for points in poses]
        found = [
            PredictedPose(np.column_stack([poses[k] + generator.normal(0, 5, (4, 2)), np.ones(4)]), 1) for k in order
        ]
        assert [order[index] for index in match_poses(truth, found)] == list(range(count))


def test_a_truth_that_nobody_found_does_not_pull_others_apart() -> None:
    """The plain sum of distances would be least with both pairs wrong: 200 + 99 against 1 + 300."""
    shape = np.array([[0.0, 0, 2], [20, 0, 2]])
    truth = [TruthPose(shape), TruthPose(move(shape, 100, 0))]
    found = [PredictedPose(move(shape, 1, 0), 1.0), PredictedPose(move(shape, -200, 0), 1.0)]
    assert match_poses(truth, found) == [0, 1]


def test_matching_takes_missing_points_and_poses() -> None:
    shape = np.array([[0.0, 0, 2], [20, 0, 2], [np.nan, np.nan, 0]])
    half, nothing = shape.copy(), np.full((3, 3), np.nan)
    half[0, :2] = np.nan
    truth = [TruthPose(shape), TruthPose(move(shape, 100, 0))]
    assert match_poses(truth, [PredictedPose(move(half, 99, 0), 1.0)]) == [-1, 0]
    assert match_poses(truth, [PredictedPose(nothing, 1.0)]) == [-1, -1]
    # right in one point and silent on the other is worse than right in both
    assert match_poses(truth[:1], [PredictedPose(half, 1.0), PredictedPose(move(shape, 1, 0), 1.0)]) == [1]
    # far off, but the only one with a point in common
    assert match_poses(truth[:1], [PredictedPose(nothing, 1.0), PredictedPose(shape + 5000, 1.0)]) == [1]
    single = TruthPose(np.array([[5.0, 5, 2], [0, 0, 0], [0, 0, 0]]))
    assert match_poses([single], [PredictedPose(shape, 1.0)]) == [0]
    assert match_poses([], [PredictedPose(shape, 1.0)]) == []


# --- size ------------------------------------------------------------------------------------------------------------


def test_size_is_taken_from_area_box_points_or_the_other_animals() -> None:
    flat = np.array([[10.0, 10, 2], [50, 10, 1]])
    assert pose_area(TruthPose(flat, np.array([0.0, 0, 100, 40]), 900.0)) == (900.0, "area")
    assert pose_area(TruthPose(flat, np.array([0.0, 0, 100, 40]), 0.0)) == (pytest.approx(2120), "box")
    assert pose_area(TruthPose(flat, np.array([9.0, 9, 9, 9]))) == (400.0, "keypoints")
    scores = PoseScores(2)
    single = np.array([[10.0, 10, 2], [np.nan, np.nan, 0]])
    found = move(single, 0, 4)
    scores.update([(single, None, None, False)], [(found, 1.0)], "single")
    assert math.isnan(scores.compute()["PCK@0.1size"])
    assert math.isnan(scores.compute()["OKS_AP"])
    scores.update([(flat, None, 1600.0, False)], [(flat, 1.0)], "sized")
    result = scores.compute()
    assert result["size_sources"] == {"area": 1, "box": 0, "keypoints": 0, "unknown": 1}
    assert (result["PCK@0.05size"], result["PCK@0.1size"]) == (pytest.approx(2 / 3), 1.0)
    assert result["OKS_AR75"] == 0.5  # exp(-16 / (8 * 0.05^2 * 1600)) is 0.61
    assert result["OKS_AR50"] == 1.0


def test_the_diagonal_is_that_of_the_box_or_of_the_points() -> None:
    truth, box = np.array([[0.0, 0, 2], [30, 40, 2]]), np.array([0.0, 0, 60, 80])
    assert (pose_diagonal(TruthPose(truth, box)), pose_diagonal(TruthPose(truth))) == (100.0, 50.0)


def test_scores_relative_to_size_do_not_depend_on_scale(generator: np.random.Generator) -> None:
    pictures = [make_picture(generator) for _ in range(20)]
    results = []
    for scale in (1.0, 3.0):
        factor = np.array([scale, scale, 1.0])
        scaled = [
            (
                [TruthPose(p.keypoints * factor, p.box_xyxy * scale, p.area * scale**2, p.is_crowd) for p in truth],
                [PredictedPose(pose.keypoints * factor, pose.score) for pose in found],
            )
            for truth, found in pictures
        ]
        results.append(fill(PoseScores(5, [1, 0, 3, 2, 4]), scaled).compute())
    for name in ("PCK@0.05size", "PCK@0.2size", "OKS_AP", "OKS_AR", "swap_rate", "matched"):
        assert results[0][name] == pytest.approx(results[1][name]), name
    assert results[1]["mean_error_px"] == pytest.approx(3 * results[0]["mean_error_px"])


# --- left and right --------------------------------------------------------------------------------------------------


def test_swaps_are_counted_per_pair(generator: np.random.Generator) -> None:
    flip, swapped, comparable = [0, 2, 1, 4, 3], [0, 0], [0, 0]
    scores = PoseScores(5, flip)
    for index in range(40):
        truth = np.column_stack([generator.uniform(0, 300, (5, 2)), np.full(5, 2)])
        truth[generator.random(5) < 0.1, 2] = 0
        found = truth.copy()
        for pair, (left, right) in enumerate(((1, 2), (3, 4))):
            lost = generator.random() < 0.2
            if generator.random() < 0.3:
                found[[left, right]] = found[[right, left]]
                swapped[pair] += not lost and min(truth[[left, right], 2]) > 0
            if lost:
                found[left, :2] = np.nan
            comparable[pair] += not lost and min(truth[[left, right], 2]) > 0
        scores.update([(truth, None, None, False)], [(found, 1.0)], str(index))
    result = scores.compute()
    assert result["per_pair"]["pairs"] == [[1, 2], [3, 4]]
    assert result["per_pair"]["swapped"] == swapped
    assert result["per_pair"]["comparable"] == comparable
    assert result["swap_rate"] == pytest.approx(sum(swapped) / sum(comparable))
    assert 0 < result["swap_rate"] < 1


def test_no_pair_gives_no_swap_rate() -> None:
    for flip in (None, [0, 1]):
        result = fill(PoseScores(2, flip), [([], [])]).compute()
        assert math.isnan(result["swap_rate"])
        assert result["per_pair"]["pairs"] == []


# --- state -----------------------------------------------------------------------------------------------------------


def test_shares_of_ranks_merge_to_the_result_of_one_process(generator: np.random.Generator) -> None:
    pictures = [make_picture(generator) for _ in range(31)]
    whole = fill(PoseScores(5, [1, 0, 2, 4, 3]), pictures)
    states = []
    for rank in (2, 0, 1):  # as lists of another order
        share = PoseScores(5, [1, 0, 2, 4, 3])
        for index in range(rank, len(pictures), 3):
            share.update(*pictures[index], f"{index:04d}")
        states.append(json.loads(json.dumps(share.state(), allow_nan=False)))
    total = PoseScores(5, [1, 0, 2, 4, 3])
    for state in gather_objects(states)[0]:
        total.merge(state)
    assert nan_to_none(total.compute()) == nan_to_none(whole.compute())  # to the last bit
    assert json.dumps(nan_to_none(whole.compute()), allow_nan=False)


def test_what_is_added_later_does_not_change_the_state_given_before() -> None:
    scores = PoseScores(1)
    before = scores.state()
    scores.update([], [], "a")
    assert before["pictures"] == {}


def test_bad_input_is_named() -> None:
    scores = PoseScores(2)
    scores.update([], [], "a")
    with pytest.raises(ValueError, match="picture 'a' was scored before"):
        scores.update([], [], "a")
    with pytest.raises(ValueError, match="picture 'a' was scored before"):
        scores.merge(scores.state())
    with pytest.raises(ValueError, match="a state of 2 keypoints, got 3"):
        scores.merge(PoseScores(3).state())
    with pytest.raises(ValueError, match=r"picture 'b': expected a pose of shape \(2, 3\), got \(2, 2\)"):
        scores.update([], [(np.zeros((2, 2)), 1.0)], "b")
    with pytest.raises(ValueError, match="picture 'b': prediction 0 has the score nan"):
        scores.update([], [(np.zeros((2, 3)), math.nan)], "b")
    with pytest.raises(ValueError, match="picture 'b': a labelled point of truth 0 has no place"):
        scores.update([(np.array([[math.inf, 0, 2], [0, 0, 0]]), None, None, False)], [], "b")
    with pytest.raises(ValueError, match="expected 2 indices, got 3"):
        PoseScores(2, [0, 1, 2])
    with pytest.raises(ValueError, match="mirroring twice"):
        PoseScores(3, [1, 2, 0])
    assert scores.compute()["pictures"] == 1  # what was refused left nothing behind


@needs_real_data
def test_labels_of_a_real_set_scored_against_themselves_and_three_pixels_off() -> None:
    labels = json.loads((REAL / "kp_openfield/annotations/val.json").read_text())
    exact, shifted = PoseScores(4, [0, 2, 1, 3]), PoseScores(4, [0, 2, 1, 3])
    for annotation in labels["annotations"]:
        keypoints = np.array(annotation["keypoints"], float).reshape(-1, 3)
        x, y, width, height = annotation["bbox"]
        truth = [(keypoints, np.array([x, y, x + width, y + height]), annotation["area"], False)]
        exact.update(truth, [(keypoints, 1.0)], str(annotation["image_id"]))
        shifted.update(truth, [(move(keypoints, 0, 3), 1.0)], str(annotation["image_id"]))
    result = exact.compute()
    assert (result["pictures"], result["mean_error_px"], result["weighted_PCK"], result["swap_rate"]) == (24, 0, 1, 0)
    assert (result["OKS_AP"], result["OKS_AR"]) == (1.0, 1.0)
    result = shifted.compute()
    assert result["mean_error_px"] == pytest.approx(3.0)
    assert (result["PCK@2px"], result["PCK@4px"], result["OKS_AP50"]) == (0.0, 1.0, 1.0)
    assert result["OKS_AP"] < 1.0  # the smallest animals feel it


def test_the_mean_of_all_points_counts_those_that_were_missed() -> None:
    """One animal of 20 x 20 pixels, a point 3 px off and one missed; then all of another, which nobody found."""
    scores = PoseScores(2)
    truth = (np.array([[10.0, 10, 2], [20, 10, 2]]), np.array([0.0, 0, 20, 20]), 400.0, False)
    scores.update([truth], [(np.array([[13.0, 10, 0.9], [np.nan, np.nan, 0.0]]), 0.9)], "a")
    scores.update([truth], [], "b")
    result = scores.compute()
    assert (result["labelled"], result["missed"], result["mean_error_px"]) == (4, 3, 3.0)
    assert result["mean_error_all_px"] == (3 + 20 + 20 + 20) / 4
    assert result["per_keypoint"]["mean_error_all_px"] == [(3 + 20) / 2, 20.0]
