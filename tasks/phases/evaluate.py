"""Evaluate: the best checkpoint on a named split -> metrics.json, tables, plots and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from tasks.belief import caption, sentence
from tasks.context import Context, PhaseResult, Workload
from tasks.evidence import judge_evaluation
from tasks.item import Item, Piece
from tasks.phases.prediction import score
from tasks.prepared import PreparedItem, is_complete, manifest_key, read_entries
from tasks.runs import choose_device, find_checkpoint
from tasks.stores import open_store
from tasks.task import Task
from tasks.trained import build_trained, description_in_errors
from utils.errors import DataError
from utils.geometry.augment import IDENTITY
from utils.metrics import nan_to_none
from utils.report.plots import captioned, save_picture
from utils.runtime import distributed
from utils.runtime.checkpoints import Checkpoint, load_checkpoint
from utils.runtime.files import digest_file, digest_json, read_json, write_json
from utils.store.feature_store import FeatureStore


def run(task: Task, context: Context) -> PhaseResult:
    """Score the best checkpoint of a task.

    Parameters
    ----------
    task : Task
        The task.
    context : Context
        The run's folder.

    Returns
    -------
    PhaseResult
        With the primary score.

    Raises
    ------
    DataError
        If there is no checkpoint, or it does not fit.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> from tasks.phases import prepare, train
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> _ = prepare.run(task, context)
    >>> trained = train.run(task, context).metrics["mIoU"]
    >>> run(task, context).metrics["mIoU"] == trained
    True
    """
    settings = task.settings.evaluate
    task, model, checkpoint = restore(task, settings.checkpoint, context, "evaluate")
    folder = context.folder / f"evaluate_{settings.split}"
    fingerprint = evaluation_fingerprint(task, checkpoint)
    finished = read_json(folder / "metrics.json", {}, checksum=True)
    if finished.get("fingerprint") == fingerprint:
        context.log.info(f"evaluate: {folder} holds these scores; nothing to do")
        return close(task, finished["metrics"], finished.get("belief"), "up to date", context)
    device = choose_device(task.settings.device("evaluate"))
    if model is not None:
        model.to(device).eval()
    prepared, store = stored_or_live(task, settings.split)
    if not prepared:
        raise DataError(f"evaluate: the split {settings.split} names no picture; fill its list, or score another split")
    items = [entry.item for entry in prepared]
    context.begin(workload(task, items, stored=store is not None), task, items[0])
    pictures = Pictures(task, items, settings.pictures)
    views = task.prediction_views()
    batch_size = settings.batch_size
    metrics = score(task, model, prepared, store, device, batch_size, context, views, pictures.take, constant=True)
    metrics.update(task.output.extra_metrics(model, context))
    training = checkpoint.description.get("training") if checkpoint else None
    belief = distributed.run_on_main(lambda: judge_evaluation(task, settings.split, metrics, training, prepared, store))
    metrics.pop("constant")
    text = caption(task.primary, float(metrics[task.primary]), belief)

    def write() -> None:
        with captioned(text):
            task.output.report(metrics, folder, context.log)
        plain = nan_to_none(metrics)  # JSON knows no NaN
        scores = {"fingerprint": fingerprint, "split": settings.split, "metrics": plain, "belief": belief}
        write_json(folder / "metrics.json", scores, checksum=True)

    with captioned(text):
        distributed.run_on_all(lambda: pictures.save(folder))  # each rank has what it predicted
    distributed.run_on_main(write)
    return close(task, metrics, belief, "done", context)


def close(
    task: Task, metrics: dict[str, Any], belief: dict[str, Any] | None, status: str, context: Context
) -> PhaseResult:
    """Say whether the score can be believed, and give the result of the phase.

    Examples
    --------
    >>> from tasks.belief import few_steps, judge
    >>> from tasks.example import example_context, scene_task
    >>> belief = judge("mIoU", 0.5, {}, few_steps(6))
    >>> close(scene_task(), {"mIoU": 0.5}, belief, "done", example_context(Path("run"))).doubt
    'mIoU 0.5000 cannot be believed: only 6 steps of training (fewer than 50)'
    """
    value = metrics[task.primary]
    value = float("nan") if value is None else float(value)  # JSON knows no NaN
    doubt = sentence(task.primary, value, belief)
    if doubt:
        context.log.warning(f"evaluate: {doubt}")
    return PhaseResult(status, {task.primary: value}, doubt)


def workload(task: Task, items: Sequence[Item], stored: bool = False) -> Workload:
    """What it takes to predict some items, from stored features or from pictures.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> task = scene_task("inference.tta.horizontal_flip=true")
    >>> workload(task, task.source.items("inference"))
    Workload(text='1 items, at most 9 windows in 2 views', backbone=18, head=18, read=0.0, saved=0)
    """
    views = 1 if stored else len(task.prediction_views())
    windows = sum(task.source.count_samples(item) for item in items)
    text = f"{len(items)} items, at most {windows} windows" + (f" in {views} views" if views > 1 else "")
    return Workload(text, backbone=0 if stored else windows * views, head=windows * views)


def restore(
    task: Task, named: str | None, context: Context, phase: str
) -> tuple[Task, nn.Module | None, Checkpoint | None]:
    """Make task and model as they were when the checkpoint was written.

    The task itself is kept where its training in this run describes its checkpoints as this one describes itself. A
    task without training has no checkpoint and no model.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> restore(task, None, context, "evaluate")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: evaluate: no checkpoint in ...; run train first, or name one in evaluate.checkpoint
    """
    if "train" not in task.phases:
        task.setup()
        return task, None, None
    path = find_checkpoint(named, context.folder, phase)
    checkpoint = load_checkpoint(path)
    context.log.info(f"{phase}: using {checkpoint.path}")
    described = task.trained_as
    with description_in_errors(checkpoint):
        if described is not None and described == {key: checkpoint.description.get(key) for key in described}:
            task.take_checkpoint(checkpoint)
        else:
            task = type(task).from_checkpoint(task.name, task.settings, checkpoint)
        model = build_trained(task, checkpoint)
    return task, model, checkpoint


def evaluation_fingerprint(task: Task, checkpoint: Checkpoint | None) -> str:
    """Digest of all that the scores depend on.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> task.source.prepare_data()
    >>> len(evaluation_fingerprint(task, None))
    32
    """
    split = task.settings.evaluate.split
    return digest_json(
        {
            "checkpoint": digest_file(checkpoint.path) if checkpoint else None,
            "items": [item.stamp() for item in task.source.items(split)],
            "recipe": task.source.cache_key(),
            "views": [view.name for view in task.prediction_views()],
            "pictures": task.settings.evaluate.pictures,
            "split": split,
            **task.output.extra_metrics_key(),
        }
    )


def stored_or_live(task: Task, split: str) -> tuple[list[PreparedItem], FeatureStore | None]:
    """Take stored features where all of the split's are there and pictures are predicted as they are.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import prepared_example
    >>> task, store, prepared = prepared_example(tempfile.mkdtemp())
    >>> stored_or_live(task, "val")[1] is not None, stored_or_live(task, "test")[1] is None
    (True, False)
    """
    store = open_store(task.settings, "train")
    recipe, views = task.source.cache_key(), task.source.views(split)
    items = task.source.items(split)
    found = [read_entries(store, manifest_key(recipe, item, views)) for item in items]
    plain = task.prediction_views() == [IDENTITY] and task.settings.train.features == "cached"
    prepared = [PreparedItem(item, entries or []) for item, entries in zip(items, found, strict=True)]
    usable = plain and all(is_complete(store, entries) for entries in found)
    return prepared, store if usable else None


class Pictures:
    """Keeps what is drawn of as many items as asked for, spread evenly over the split, while it is predicted.

    Parameters
    ----------
    task : Task
        Draws.
    items : sequence of Item
        The split.
    number : int
        Pictures to draw.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import prepared_example
    >>> task, store, prepared = prepared_example(tempfile.mkdtemp())
    >>> pictures = Pictures(task, [entry.item for entry in prepared], 1)
    >>> sorted(pictures.pieces) == [prepared[0].item.id]
    True
    """

    def __init__(self, task: Task, items: Sequence[Item], number: int):
        self.task = task
        step = max(len(items) // max(number, 1), 1)
        self.pieces: dict[str, list[Piece]] = {item.id: [] for item in items[::step][:number]}

    def take(self, piece: Piece) -> None:
        """Keep a piece if its item is drawn and shows it.

        Examples
        --------
        >>> pictures = Pictures(None, [Item("a", ())], 1)
        >>> pictures.take(Piece(Item("b", ()), {}))
        >>> pictures.pieces
        {'a': []}
        """
        kept = self.pieces.get(piece.item.id)
        if kept is not None and self.task.output.shows(piece, len(kept)):
            kept.append(piece)

    def save(self, folder: Path) -> None:
        """Draw the items of which something was kept on this rank.

        Examples
        --------
        >>> import tempfile
        >>> Pictures(None, [Item("a", ())], 1).save(Path(tempfile.mkdtemp()))
        """
        for name, pieces in self.pieces.items():
            picture = self.task.output.draw(pieces[0].item, pieces) if pieces else None
            if picture is not None:
                save_picture(folder / f"{safe_name(name)}.png", picture)


def safe_name(text: str) -> str:
    """Make a file name of an item's id.

    Examples
    --------
    >>> safe_name("a/b@y0,x0")
    'a_b@y0_x0'
    """
    return "".join(letter if letter.isalnum() or letter in "-_.@" else "_" for letter in text)
