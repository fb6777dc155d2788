"""Where a training is watched from outside: TensorBoard's events, and runs of trackio.

`results.csv` is the record of a training; a tracker shows what it holds. The packages are optional, and imported only
when they are asked for. A tracker that fails is dropped with a warning, and the training goes on.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from utils.errors import SettingsError
from utils.logging import VerbosityLogger
from utils.runtime.setting_types import Section

ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")  # variables by which trackio would send figures away


class TrackingConfig(Section):
    """Show losses and scores of each epoch in trackio."""

    project: str | None = Field(
        None, description="project of trackio that shows the training; null does not use trackio"
    )
    name: str | None = Field(None, description="of the run in the project; null: task and folder of the run")
    space_id: str | None = Field(
        None, description="Hugging Face Space that gets the figures, over the network; null keeps them on this machine"
    )

    def clashes(self) -> Iterator[str]:
        """Say of each setting that acts only with a project, and is without one.

        Examples
        --------
        >>> list(TrackingConfig(name="first").clashes())
        ['train.tracking.name: has no effect without train.tracking.project; name one, or drop it']
        """
        for name in ("name", "space_id"):
            if self.project is None and getattr(self, name) is not None:
                yield f"train.tracking.{name}: has no effect without train.tracking.project; name one, or drop it"


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a training when it begins or goes on.

    Parameters
    ----------
    folder : Path
        The run's.
    name : str
        Of the run, where the settings give none.
    fingerprint : str
        Of the training; a run of another training is never gone on with.
    epoch : int
        Epochs that are done.
    settings : mapping
        The resolved ones, as JSON.
    rows : sequence of mappings
        What results.csv holds of the epochs that are done.

    Examples
    --------
    >>> TrackedRun(Path("runs/coral/1"), "coral-1", "ab").epoch
    0
    """

    folder: Path
    name: str
    fingerprint: str
    epoch: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()


class Tracker(Protocol):
    """Shows the numbers of a training."""

    def log(self, row: Mapping[str, Any], epoch: int) -> None:
        """Take the numbers of an epoch."""

    def finish(self) -> None:
        """Write what waits; the training ends, or pauses."""


def require_trackers(tensorboard: bool, tracking: TrackingConfig) -> None:
    """Raise where a tracker is asked for whose package is missing.

    Raises
    ------
    SettingsError
        With the command that installs it.

    Examples
    --------
    >>> require_trackers(False, TrackingConfig())
    """
    asked = {"tensorboard": (tensorboard, "train.tensorboard", "train.tensorboard: false")}
    asked["trackio"] = (tracking.project is not None, "train.tracking.project", "train.tracking.project: null")
    for package, (wanted, setting, off) in asked.items():
        if wanted and find_spec(package) is None:
            raise SettingsError(f"{setting}: the package is missing; pip install {package}, or set {off}")


def finite_numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row by column, also of one that was read from a file; the epoch is left out.

    Examples
    --------
    >>> finite_numbers({"epoch": 3, "loss": "0.5", "mIoU": "", "AP/cat": float("nan"), "AP/dog": 1.0})
    {'loss': 0.5, 'AP/dog': 1.0}
    """
    numbers = {name: float(value) for name, value in row.items() if name != "epoch" and value not in (None, "")}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


class TensorBoard:
    """Events of TensorBoard in the folder `tensorboard` of a run.

    Events of epochs that are trained again, after a resumption, take the place of the earlier ones.

    Parameters
    ----------
    run : TrackedRun
        The training.

    Examples
    --------
    >>> import tempfile
    >>> run = TrackedRun(Path(tempfile.mkdtemp()), "coral-1", "ab")
    >>> if find_spec("tensorboard"):
    ...     board = TensorBoard(run)
    ...     board.log({"loss": 0.5}, 1)
    ...     board.finish()
    ...     assert len(list((run.folder / "tensorboard").iterdir())) == 1
    """

    def __init__(self, run: TrackedRun):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.epoch + 1)
        if run.epoch == 0:
            text = json.dumps(run.settings, indent=2)
            self.writer.add_text("settings", "\n".join(f"    {line}" for line in text.splitlines()), 0)

    def log(self, row: Mapping[str, Any], epoch: int) -> None:
        """Add the numbers of an epoch, and write them.

        Examples
        --------
        >>> from unittest.mock import Mock
        >>> board = TensorBoard.__new__(TensorBoard)
        >>> board.writer = Mock()
        >>> board.log({"loss": 0.5}, 2)
        >>> board.writer.add_scalar.call_args.args
        ('loss', 0.5, 2)
        """
        for name, value in finite_numbers(row).items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def finish(self) -> None:
        """Close the file of events.

        Examples
        --------
        >>> from unittest.mock import Mock
        >>> board = TensorBoard.__new__(TensorBoard)
        >>> board.writer = Mock()
        >>> board.finish()
        >>> board.writer.close.call_count
        1
        """
        self.writer.close()


class Trackio:
    """A run of trackio.

    A training that goes on does so in its run: epochs that the run has are not logged again, and those that it lacks,
    because the process was killed before they were written, are taken from results.csv.

    Parameters
    ----------
    config : TrackingConfig
        Project, run and Space.
    run : TrackedRun
        The training.

    Examples
    --------
    >>> Trackio(TrackingConfig(project="reef"), TrackedRun(Path("1"), "coral-1", "ab"))  # doctest: +SKIP
    """

    def __init__(self, config: TrackingConfig, run: TrackedRun):
        import trackio

        self.trackio = trackio
        assert config.project is not None
        name = config.name or run.name
        with _on_this_machine() if config.space_id is None else nullcontext(), redirect_stdout(io.StringIO()):
            goes_on = config.space_id is not None or self._holds(config.project, name, run.fingerprint)
            self.run = trackio.init(
                project=config.project,
                name=name,
                space_id=config.space_id,
                config={**run.settings, "training": run.fingerprint},
                resume="allow" if goes_on else "never",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )
        self.next_epoch = self.run._next_step  # trackio tells the last step of a run that goes on nowhere else
        for row in run.rows:
            self.log(row, int(row["epoch"]))

    def _holds(self, project: str, name: str, fingerprint: str) -> bool:
        """Whether the latest run of a name is of this training.

        Examples
        --------
        >>> from types import SimpleNamespace
        >>> tracker = Trackio.__new__(Trackio)
        >>> runs = [SimpleNamespace(name="first", config={"training": "ab"})]
        >>> tracker.trackio = SimpleNamespace(Api=lambda: SimpleNamespace(runs=lambda project: runs))
        >>> [tracker._holds("reef", "first", fingerprint) for fingerprint in ("ab", "cd")]
        [True, False]
        """
        try:
            runs = [run for run in self.trackio.Api().runs(project) if run.name == name]
        except ValueError:  # there is no such project yet
            return False
        return bool(runs) and (runs[-1].config or {}).get("training") == fingerprint

    def log(self, row: Mapping[str, Any], epoch: int) -> None:
        """Add the numbers of an epoch, unless the run has them.

        Examples
        --------
        >>> from unittest.mock import Mock
        >>> tracker = Trackio.__new__(Trackio)
        >>> tracker.run, tracker.next_epoch = Mock(), 3
        >>> [tracker.log({"loss": 0.5}, epoch) for epoch in (2, 3)]
        [None, None]
        >>> [call.kwargs["step"] for call in tracker.run.log.call_args_list]
        [3]
        """
        if epoch >= self.next_epoch:
            self.run.log(finite_numbers(row), step=epoch)

    def finish(self) -> None:
        """Wait until all is written.

        Examples
        --------
        >>> from unittest.mock import Mock
        >>> tracker = Trackio.__new__(Trackio)
        >>> tracker.trackio = Mock()
        >>> tracker.finish()
        >>> tracker.trackio.finish.call_count
        1
        """
        with redirect_stdout(io.StringIO()):
            self.trackio.finish()


@contextmanager
def _on_this_machine() -> Iterator[None]:
    """Keep trackio from sending figures away, and from asking the Hub whose token this is.

    Examples
    --------
    >>> os.environ["TRACKIO_SPACE_ID"] = "me/space"
    >>> with _on_this_machine():
    ...     print(os.environ.get("TRACKIO_SPACE_ID"))
    None
    >>> os.environ.pop("TRACKIO_SPACE_ID")
    'me/space'
    """
    from huggingface_hub import constants

    kept = {name: os.environ.pop(name) for name in ELSEWHERE if name in os.environ}
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        os.environ.update(kept)


class Tracking:
    """All trackers of a training; one that fails is dropped, and the training goes on.

    Parameters
    ----------
    log : VerbosityLogger
        Told of a tracker that fails.
    makers : mapping of str to callable
        By name; each starts a tracker.

    Examples
    --------
    >>> def break_off():
    ...     raise OSError("no space")
    >>> tracking = Tracking(VerbosityLogger(), {"trackio": break_off})
    [WARNING] train: tracking by trackio stops (OSError: no space); the training goes on, results.csv has all figures
    >>> tracking.trackers
    {}
    """

    def __init__(self, log: VerbosityLogger, makers: Mapping[str, Callable[[], Tracker]]):
        self.log_of_run = log
        self.trackers: dict[str, Tracker] = {}
        for name, make in makers.items():
            self._try(name, lambda make=make, name=name: self.trackers.update({name: make()}))  # type: ignore[misc]

    def _try(self, name: str, call: Callable[[], None]) -> None:
        """Make a call of a tracker; drop the tracker where that fails.

        Examples
        --------
        >>> tracking = Tracking(VerbosityLogger("error"), {})
        >>> tracking.trackers["trackio"] = None
        >>> tracking._try("trackio", lambda: tracking.trackers["trackio"].finish())
        >>> tracking.trackers
        {}
        """
        try:
            call()
        except Exception as error:
            self.trackers.pop(name, None)
            self.log_of_run.warning(
                f"train: tracking by {name} stops ({type(error).__name__}: {error}); the training goes on, "
                "results.csv has all figures"
            )

    def log(self, row: Mapping[str, Any], epoch: int) -> None:
        """Give the numbers of an epoch to all trackers.

        Examples
        --------
        >>> from unittest.mock import Mock
        >>> board = Mock()
        >>> Tracking(VerbosityLogger("error"), {"tensorboard": lambda: board}).log({"loss": 0.5}, 1)
        >>> board.log.call_args.args
        ({'loss': 0.5}, 1)
        """
        for name, tracker in list(self.trackers.items()):
            self._try(name, lambda tracker=tracker: tracker.log(row, epoch))  # type: ignore[misc]

    def finish(self) -> None:
        """Let all trackers write what waits.

        Examples
        --------
        >>> from unittest.mock import Mock
        >>> board = Mock()
        >>> Tracking(VerbosityLogger("error"), {"tensorboard": lambda: board}).finish()
        >>> board.finish.call_count
        1
        """
        for name, tracker in list(self.trackers.items()):
            self._try(name, tracker.finish)
        self.trackers = {}


def start_trackers(run: TrackedRun, tensorboard: bool, tracking: TrackingConfig, log: VerbosityLogger) -> Tracking:
    """Start what the settings ask for.

    Parameters
    ----------
    run : TrackedRun
        The training.
    tensorboard : bool
        Whether to write events.
    tracking : TrackingConfig
        Whether and where to use trackio.
    log : VerbosityLogger
        Told where figures are shown, and of a tracker that fails.

    Returns
    -------
    Tracking
        Empty where nothing is asked for.

    Examples
    --------
    >>> run = TrackedRun(Path("runs/coral/1"), "coral-1", "ab")
    >>> start_trackers(run, False, TrackingConfig(), VerbosityLogger("error")).trackers
    {}
    """
    makers: dict[str, Callable[[], Tracker]] = {}
    if tensorboard:
        makers["TensorBoard"] = lambda: TensorBoard(run)
    if tracking.project is not None:
        makers["trackio"] = lambda: Trackio(tracking, run)
    started = Tracking(log, makers)
    if "TensorBoard" in started.trackers:
        log.info(f"train: TensorBoard shows this training: tensorboard --logdir {run.folder / 'tensorboard'}")
    if "trackio" in started.trackers:
        where = f"in the Space {tracking.space_id}" if tracking.space_id else "on this machine"
        log.info(
            f"train: trackio shows this training, {where}, as run {tracking.name or run.name}: "
            f"trackio show --project {tracking.project}"
        )
    return started
