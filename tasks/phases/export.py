"""Export: the best checkpoint -> files for use elsewhere."""

from __future__ import annotations

from pathlib import Path

from config import expand_path
from tasks.context import Context, PhaseResult, Workload
from tasks.phases.evaluate import restore
from tasks.task import Task
from utils.runtime import distributed


def run(task: Task, context: Context) -> PhaseResult:
    """Write the files that a task exports.

    Parameters
    ----------
    task : Task
        The task.
    context : Context
        The run's folder.

    Returns
    -------
    PhaseResult
        `done`.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.distill.example import student_example
    >>> task, context = student_example(tempfile.mkdtemp())
    >>> run(task, context)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: export: no checkpoint in ...; run train first, or name one in export.checkpoint
    """
    settings = task.settings.export
    task, model, checkpoint = restore(task, settings.checkpoint, context, "export")
    context.begin(Workload("writes the exported files"))
    folder = Path(expand_path(settings.output_dir)) if settings.output_dir else context.folder / "export"
    for path in distributed.run_on_main(lambda: [str(file) for file in task.output.export(model, folder, checkpoint)]):
        context.log.info(f"export: {path}")
    return PhaseResult("done")
