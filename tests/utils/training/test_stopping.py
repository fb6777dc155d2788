import math

import pytest

from utils.errors import DinolithError, SettingsError
from utils.training.stopping import EarlyStopping, NonFiniteGuard


@pytest.mark.parametrize(("mode", "sign"), [("max", 1.0), ("min", -1.0)])
def test_early_stopping_in_both_directions(mode, sign):
    stopping = EarlyStopping(patience=2, delta=0.1, mode=mode)
    assert [stopping.update(sign * value) for value in (0.5, 0.55, 0.61, 0.65)] == [True, False, True, False]
    assert not stopping.should_stop
    stopping.update(math.nan)
    assert stopping.should_stop
    assert stopping.best == sign * 0.61


def test_a_slow_start_is_not_an_end():
    """Keypoints score 0 until the first peak is sure enough: patience that ran from there stopped before anything."""
    stopping = EarlyStopping(patience=2)
    for value in (math.nan, 0.0, 0.0, math.nan, 0.0, 0.0):
        stopping.update(value)
        assert not stopping.should_stop
    assert [stopping.update(value) for value in (0.1, 0.0, 0.1)] == [True, False, False]
    assert stopping.should_stop


def test_nan_is_no_first_best_and_infinity_is_no_gain_over_itself():
    stopping = EarlyStopping(patience=3)
    assert [stopping.update(value) for value in (math.nan, 0.0, math.inf, math.inf)] == [False, True, True, False]
    assert stopping.waited == 1


def test_its_state_goes_there_and_back():
    stopping = EarlyStopping(patience=51)
    for _ in range(50):
        stopping.update(0.5)
    assert not stopping.should_stop
    other = EarlyStopping(patience=49)
    other.load_state_dict(stopping.state_dict())
    assert other.should_stop
    assert not other.update(0.5)


def test_an_unknown_mode_is_refused():
    with pytest.raises(SettingsError, match="mode: expected max or min, got 'best'"):
        EarlyStopping(mode="best")


def test_the_guard_counts_in_a_row_and_gives_up_with_advice():
    guard = NonFiniteGuard(limit=2)
    for loss in (math.nan, math.inf, 1.0, math.nan, -math.inf):
        assert guard.update(loss) == math.isfinite(loss)
    other = NonFiniteGuard(limit=2)
    other.load_state_dict(guard.state_dict())
    with pytest.raises(DinolithError, match=r"not finite 3 times in a row \(5 in all\); lower muon_lr and adamw_lr"):
        other.update(math.nan)
