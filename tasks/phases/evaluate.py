"""Evaluate: the best checkpoint on named splits -> metrics.json, tables, plots and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from tasks.belief import caption, sentence
from tasks.context import Context, PhaseResult, Workload
from tasks.evidence import judge_evaluation
from tasks.grey_inputs import tell_grey
from tasks.item import Item, Piece
from tasks.named_files import located
from tasks.phases.prediction import score
from tasks.prepared import PreparedItem, is_complete, manifest_key, read_entries
from tasks.runs import choose_device, find_checkpoint
from tasks.seen import seen_in_training, tell_seen
from tasks.stores import open_store
from tasks.task import Task
from tasks.trained import build_trained, description_in_errors
from utils.errors import DataError, SettingsError
from utils.geometry.augment import IDENTITY
from utils.metrics import nan_to_none
from utils.raster.inputs import tell_passed_over
from utils.report.caption import captioned
from utils.report.plots import save_picture
from utils.runtime import distributed
from utils.runtime.checkpoints import Checkpoint, load_checkpoint
from utils.runtime.files import digest_file, digest_json, read_json, write_json
from utils.store.feature_store import FeatureStore

NAMED = "inputs"  # in place of a split: the pictures that `evaluate.inputs` names


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
    splits = settings.splits or [NAMED]
    with evaluate_in_errors(splits[0]):
        task, model, checkpoint = restore(task, settings.checkpoint, context, "evaluate", named=splits == [NAMED])
        plans = [plan_split(task, checkpoint, split, context.folder) for split in splits]
        task.check_memory(["evaluate"])
    due = [plan for plan in plans if not plan.is_finished]
    prepared = {plan.split: stored_or_live(task, plan.split) for plan in due}
    if due:
        items, views = [item for plan in due for item in plan.items], len(task.prediction_views("evaluate"))
        stored = all(store is not None for _, store in prepared.values())
        context.begin(workload(task, items, views, stored), task, items[0])
    if due and model is not None:
        model.to(choose_device(task.settings.device("evaluate"))).eval()
    results = {}
    for plan in plans:
        if plan.is_finished:
            context.log.info(f"evaluate: {plan.folder} holds these scores; nothing to do")
            finished = plan.finished
            metrics, belief, left_out = finished["metrics"], finished.get("belief"), finished["left_out"]
        else:
            metrics, belief, left_out = score_split(task, model, checkpoint, plan, *prepared[plan.split], context)
        status = "up to date" if plan.is_finished else "done"
        results[plan.split] = close(task, metrics, belief, left_out, status, context)
    return join_results(results)


class SplitPlan(NamedTuple):
    """What is to be scored of one split, and what its folder holds already.

    Examples
    --------
    >>> SplitPlan("val", [], Path("run/evaluate_val"), "ab", {"fingerprint": "ab"}).is_finished
    True
    """

    split: str
    items: list[Item]
    folder: Path
    fingerprint: str
    finished: dict[str, Any]

    @property
    def is_finished(self) -> bool:
        """Whether the folder holds these very scores.

        Examples
        --------
        >>> SplitPlan("val", [], Path("run/evaluate_val"), "ab", {}).is_finished
        False
        """
        return self.finished.get("fingerprint") == self.fingerprint


def plan_split(task: Task, checkpoint: Checkpoint | None, split: str, folder: Path) -> SplitPlan:
    """Look at what is to be scored of one split.

    Raises
    ------
    DataError
        If it names no picture.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> task.source.prepare_data()
    >>> plan = plan_split(task, None, "val", context.folder)
    >>> len(plan.items), plan.folder.name, plan.is_finished
    (1, 'evaluate_val', False)
    """
    items, place = list(task.source.items(split)), folder / f"evaluate_{split}"
    fingerprint = evaluation_fingerprint(task, checkpoint, split)
    plan = SplitPlan(split, items, place, fingerprint, read_json(place / "metrics.json", {}, checksum=True))
    if not items and not plan.is_finished:
        raise DataError(f"evaluate: the split {split} names no picture; fill its list, or score another split")
    return plan


def score_split(
    task: Task,
    model: nn.Module | None,
    checkpoint: Checkpoint | None,
    plan: SplitPlan,
    prepared: list[PreparedItem],
    store: FeatureStore | None,
    context: Context,
) -> tuple[dict[str, Any], dict[str, Any] | None, str]:
    """Score one split and write its folder; gives the scores, what speaks against them, and what is left out.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import prepared_example
    >>> from utils.logging import VerbosityLogger
    >>> task, store, prepared = prepared_example(tempfile.mkdtemp())
    >>> plan = plan_split(task, None, "val", store.folder)
    >>> context = Context(VerbosityLogger("error"), store.folder)
    >>> metrics, *_ = score_split(task, task.build_model().eval(), None, plan, prepared, store, context)
    >>> metrics["support"], (plan.folder / "metrics.json").exists()
    (6144, True)
    """
    settings, split, folder = task.settings.evaluate, plan.split, plan.folder
    path = str(checkpoint.path) if checkpoint else None
    if plan.finished:
        before = plan.finished.get("checkpoint")
        changed = f"of {before} are replaced by those of {path}"
        again = "are made anew, as the checkpoint, settings or pictures have changed since"
        context.log.info(f"evaluate: the scores in {folder} {changed if before not in (None, path) else again}")
    facts: dict[str, Any] = {"split": split, "pictures": len(plan.items), "checkpoint": path}
    facts |= tell_what(task, checkpoint, split, plan.items, context)
    pictures = Pictures(task, plan.items, settings.pictures)
    device, views = choose_device(task.settings.device("evaluate")), task.prediction_views("evaluate")
    asked: dict[str, Any] = {"watch": pictures.take, "constant": True, "phase": "evaluate"}
    metrics = score(task, model, prepared, store, device, settings.batch_size, context, views, **asked)
    metrics.update(task.output.extra_metrics(model, context))
    task.output.take_scores(metrics)
    training = checkpoint.description.get("training") if checkpoint else None
    seen = facts.get("seen")
    belief = distributed.run_on_main(lambda: judge_evaluation(task, split, metrics, training, prepared, store, seen))
    metrics.pop("constant")
    text = caption(task.primary, float(metrics[task.primary]), belief)
    distributed.run_on_main(lambda: pictures.remove(folder, plan.finished.get("drawn", [])))

    def write() -> None:
        with captioned(text):
            task.output.report(metrics, folder, context.log)
        plain = nan_to_none(metrics)  # JSON knows no NaN
        drawn = sorted(map(picture_name, pictures.pieces))
        scores = {"fingerprint": plan.fingerprint, **facts, "metrics": plain, "belief": belief, "drawn": drawn}
        write_json(folder / "metrics.json", scores, checksum=True)

    with captioned(text):
        distributed.run_on_all(lambda: pictures.save(folder))  # each rank has what it predicted
    distributed.run_on_main(write)
    return metrics, belief, facts["left_out"]


def join_results(results: Mapping[str, PhaseResult]) -> PhaseResult:
    """One result of all splits; of several the scores and doubts name their split.

    Examples
    --------
    >>> parts = {"val": PhaseResult("up to date", {"mIoU": 0.5}, "few"), "test": PhaseResult("done", {"mIoU": 0.4})}
    >>> join_results(parts)
    PhaseResult(status='done', metrics={'mIoU val': 0.5, 'mIoU test': 0.4}, doubt='val: few', faults=(), failures=())
    """
    if len(results) == 1:
        return next(iter(results.values()))
    status = "done" if any(result.status == "done" for result in results.values()) else "up to date"
    scores = {f"{name} {split}": value for split, result in results.items() for name, value in result.metrics.items()}
    doubts = [f"{split}: {result.doubt}" for split, result in results.items() if result.doubt]
    return PhaseResult(status, scores, "; ".join(doubts))


def close(
    task: Task,
    metrics: dict[str, Any],
    belief: dict[str, Any] | None,
    left_out: str,
    status: str,
    context: Context,
) -> PhaseResult:
    """Say what the score leaves out and whether it can be believed, and give the result of the phase.

    Examples
    --------
    >>> from tasks.belief import few_steps, judge
    >>> from tasks.example import example_context, scene_task
    >>> belief = judge("mIoU", 0.5, {}, few_steps(6))
    >>> close(scene_task(), {"mIoU": 0.5}, belief, "", "done", example_context(Path("run"))).doubt
    'mIoU 0.5000 cannot be believed: only 6 steps of training up to this checkpoint (fewer than 50)'
    """
    value = metrics[task.primary]
    value = float("nan") if value is None else float(value)  # JSON knows no NaN
    if left_out:
        context.log.warning(f"evaluate: {task.primary} {value:.4f} does not count all pictures: {left_out}")
    doubt = sentence(task.primary, value, belief)
    if doubt:
        context.log.warning(f"evaluate: {doubt}")
    return PhaseResult(status, {task.primary: value}, doubt)


def workload(task: Task, items: Sequence[Item], views: int, stored: bool = False) -> Workload:
    """What it takes to predict some items, from stored features or from pictures.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> task = scene_task()
    >>> workload(task, task.source.items("inference"), 2)
    Workload(text='1 items, at most 9 windows in 2 views', backbone=18, head=18, read=0.0, saved=0)
    """
    windows = sum(task.source.count_samples(item) for item in items)
    text = f"{len(items)} items, at most {windows} windows" + (f" in {views} views" if views > 1 else "")
    return Workload(text, backbone=0 if stored else windows * views, head=windows * views)


@contextmanager
def evaluate_in_errors(split: str) -> Iterator[None]:
    """Name the settings of `evaluate` in errors about pictures that these name, in place of those of `paths`.

    Raises
    ------
    SettingsError, DataError
        The same error with the names that the file has.

    Examples
    --------
    >>> with evaluate_in_errors(NAMED):
    ...     raise DataError("paths.label_path: no label in new for any of 3 pictures")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: evaluate.labels: no label in new for any of 3 pictures
    """
    try:
        yield
    except (SettingsError, DataError) as error:
        if split != NAMED:
            raise
        text = str(error).replace("paths.raw_images_dir", "evaluate.inputs")
        raise type(error)(text.replace("paths.label_path", "evaluate.labels")) from error


def tell_what(
    task: Task, checkpoint: Checkpoint | None, split: str, items: Sequence[Item], context: Context
) -> dict[str, Any]:
    """Log what is scored and how: averaged views, a scaled grid, and pictures that training saw; say what is left out.

    Returns
    -------
    dict
        The same, for metrics.json: `views`, `left_out`, `grid` where pixels are counted, and `seen` for pictures that
        the settings name.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp(), "evaluate.tta.vertical_flip=true")
    >>> tell_what(task, None, "val", [], context)
    {'views': ['identity', 'vflip'], 'left_out': '', 'grid': {'scale': 1.0, 'pixels': "the picture's"}}
    """
    views = [view.name for view in task.prediction_views("evaluate")]
    if len(views) > 1:
        context.log.info(f"evaluate: averaging {len(views)} views of each picture ({', '.join(views)}; evaluate.tta)")
    elif "inference" in task.phases and len(task.prediction_views()) > 1:
        context.log.info("evaluate: pictures are scored as they are; inference.tta does not count (evaluate.tta does)")
    facts: dict[str, Any] = {"views": views, "left_out": task.source.left_out(split)}
    grid = task.output.score_grid()
    if grid is not None:
        facts["grid"] = grid
        if grid["pixels"] != "the picture's":
            context.log.info(f"evaluate: scores count pixels that are {grid['pixels']}; labels are read on these too")
    if split == NAMED and checkpoint is not None:
        find = lambda: seen_in_training(checkpoint.description, task.source, items)  # noqa: E731 - on one rank
        facts["seen"] = distributed.run_on_main(find)
        say = context.log.warning if facts["seen"] is None or any(facts["seen"].values()) else context.log.info
        say(f"evaluate: {len(items)} pictures; {tell_seen(facts['seen'], len(items))}")
        for line in tell_passed_over(located(task.settings, task.settings.evaluate.inputs)):
            context.log.warning(f"evaluate: {line}")
        if grey := tell_grey(checkpoint.description, items):
            context.log.warning(f"evaluate: {grey}")
    return facts


def restore(
    task: Task, path: str | None, context: Context, phase: str, named: bool = False
) -> tuple[Task, nn.Module | None, Checkpoint | None]:
    """Make task and model as they were when the checkpoint was written.

    The task itself is kept where its training in this run describes its checkpoints as this one describes itself, and
    its data are not replaced by those that `evaluate` names (`named`). A task without training has no checkpoint and no
    model.

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
    settings = type(task).settings_for_named(task.settings) if named else task.settings
    if "train" not in task.phases:
        task = type(task)(task.name, settings) if named else task
        task.setup()
        return task, None, None
    checkpoint = load_checkpoint(find_checkpoint(path, context.folder, phase))
    context.log.info(f"{phase}: using {checkpoint.path}")
    described = None if named else task.trained_as
    with description_in_errors(checkpoint):
        if (
            not named
            and described is not None
            and described == {key: checkpoint.description.get(key) for key in described}
        ):
            task.take_checkpoint(checkpoint)
        else:
            task = type(task).from_checkpoint(task.name, settings, checkpoint)
        model = build_trained(task, checkpoint)
    return task, model, checkpoint


def evaluation_fingerprint(task: Task, checkpoint: Checkpoint | None, split: str) -> str:
    """Digest of all that the scores depend on.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp())
    >>> task.source.prepare_data()
    >>> len(evaluation_fingerprint(task, None, "val"))
    32
    """
    return digest_json(
        {
            "checkpoint": digest_file(checkpoint.path) if checkpoint else None,
            "items": [item.stamp() for item in task.source.items(split)],
            "recipe": task.source.cache_key(),
            "views": [view.name for view in task.prediction_views("evaluate")],
            "pictures": task.settings.evaluate.pictures,
            "split": split,
            "predicting": task.predicting_key("evaluate"),
            "left_out": task.source.left_out(split),
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
    plain = task.prediction_views("evaluate") == [IDENTITY] and task.settings.train.features == "cached"
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
                save_picture(folder / picture_name(name), picture)

    def remove(self, folder: Path, drawn: Sequence[str]) -> None:
        """Remove what an earlier evaluation drew of items that are not drawn now.

        Examples
        --------
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "b.png").touch()
        >>> Pictures(None, [Item("a", ())], 1).remove(folder, ["a.png", "b.png"])
        >>> list(folder.iterdir())
        []
        """
        for name in set(map(str, drawn)) - set(map(picture_name, self.pieces)):
            (folder / Path(name).name).unlink(missing_ok=True)


def picture_name(text: str) -> str:
    """Name the comparison picture of an item.

    Examples
    --------
    >>> picture_name("a/b")
    'a_b.png'
    """
    return f"{safe_name(text)}.png"


def safe_name(text: str) -> str:
    """Make a file name of an item's id.

    Examples
    --------
    >>> safe_name("a/b@y0,x0")
    'a_b@y0_x0'
    """
    return "".join(letter if letter.isalnum() or letter in "-_.@" else "_" for letter in text)
