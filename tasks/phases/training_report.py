"""What a training leaves for people: a row per epoch in results.csv, its plot, and the trackers that are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.belief import caption
from tasks.context import Context
from tasks.task import Task
from utils.report.caption import captioned
from utils.report.plots import plot_training
from utils.report.tables import CsvLog
from utils.report.tracking import TrackedRun, Tracking, start_trackers

PLOT_EVERY = 10  # epochs


class TrainingReport:
    """The report of a training; rank 0 has the only one that is used.

    Parameters
    ----------
    task : Task
        Says which scores are plotted.
    context : Context
        The run's folder and log.
    fingerprint : str
        Of the training.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import training_example
    >>> training_example(tempfile.mkdtemp()).report.path.name
    'results.csv'
    """

    def __init__(self, task: Task, context: Context, fingerprint: str):
        self.task, self.context, self.fingerprint = task, context, fingerprint
        self.path = context.folder / "results.csv"
        self.tracking: Tracking | None = None

    def begin(self, epoch: int) -> None:
        r"""Go on after an epoch, 0 for a new training: rows of later ones are dropped, trackers are started.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> report = training_example(tempfile.mkdtemp()).report
        >>> for number in (1, 2):
        ...     report.add({"epoch": number, "train_loss": 0.5}, number)
        >>> report.begin(1)
        >>> report.path.read_text()
        'epoch,train_loss\n1,0.5\n'
        """
        table, settings = CsvLog(self.path), self.task.settings
        table.truncate_after("epoch", epoch)
        folder = self.context.folder
        run = TrackedRun(
            folder,
            f"{self.task.name}-{folder.name}",
            self.fingerprint,
            epoch,
            settings.model_dump(mode="json"),
            table.rows(),
        )
        self.tracking = start_trackers(run, settings.train.tensorboard, settings.train.tracking, self.context.log)

    def add(self, row: Mapping[str, Any], epoch: int) -> None:
        """Add an epoch to results.csv, to the trackers, and now and then to the plot.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> report = training_example(tempfile.mkdtemp()).report
        >>> report.add({"epoch": 1, "train_loss": 0.5, "lr": 0.1}, 1)
        >>> report.path.read_text().splitlines()[0]
        'epoch,train_loss,lr'
        """
        CsvLog(self.path).append(row)
        if self.tracking is not None:
            self.tracking.log(row, epoch)
        if epoch % PLOT_EVERY == 0:
            self.plot()

    def plot(self, best: Mapping[str, Any] | None = None) -> None:
        """Plot the epochs so far, with a caption where the best score, in the form of the state, cannot be believed.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> report = training_example(tempfile.mkdtemp()).report
        >>> report.plot()
        >>> (report.context.folder / "training.png").exists()
        True
        """
        primary, best = self.task.primary, best or {}
        with captioned(caption(primary, best.get(primary, float("nan")), best.get("belief"))):
            rows, folder = CsvLog(self.path).rows(), self.context.folder
            plot_training(rows, folder / "training.png", scores=self.task.plotted)

    def finish(self) -> None:
        """Let the trackers write what waits.

        Examples
        --------
        >>> import tempfile
        >>> from tasks.example import training_example
        >>> report = training_example(tempfile.mkdtemp()).report
        >>> report.begin(0)
        >>> report.finish()
        >>> report.tracking.trackers
        {}
        """
        if self.tracking is not None:
            self.tracking.finish()
