r"""Accuracy of every head against simple rivals on the same windows, several seeds, scene by scene.

    python -m benchmarks.accuracy docs/configs/geo_buildings.yml paths.data_root=/data/geo_buildings \
        model.backbone=/models/dinov2-small --heads linear dpt unet --seeds 1 2 3

Rivals: a logistic regression on the pixels' colours, and one on the tokens of the chosen blocks (the linear probe).
Each line gives the IoU of the last class on the scenes of val, its value with the threshold that is best on val
(calibration), and the scenes of test, which are reported and not counted. With `inference.tta` set, predictions are
averaged over its views, which are then computed instead of read.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from config import Settings, load_settings
from models import HEADS
from tasks import kinds, load_task
from tasks.context import Context
from tasks.model import load_trained_state
from tasks.phases import load_phase
from tasks.phases.prediction import score
from tasks.prepared import PreparedItem, PreparedReader, prepared_items
from tasks.probe import fit_probe
from tasks.runs import BEST, checkpoint_path, set_up_machine
from tasks.sample import Batch
from tasks.stores import open_store
from tasks.task import Task
from utils.logging import VerbosityLogger
from utils.report.tables import format_table
from utils.runtime.checkpoints import load_checkpoint


def make_task(settings: Settings, head: str, seed: int, log: VerbosityLogger) -> tuple[Task, Context]:
    """Make the file's first task with another head and seed, and a run's folder of its own."""
    name, config = next(iter(settings.tasks.items()))
    config = config.model_copy(
        update={
            "model": config.model.model_copy(update={"head": head}),
            "resources": config.resources.model_copy(update={"seed": seed}),
        }
    )
    folder = Path(config.paths.runs_root) / "accuracy" / f"{head}_{seed}"
    return load_task(config.kind)(name, config), Context(log, folder)


def measure(task: Any, model: nn.Module, splits: dict[str, list[PreparedItem]], context: Context) -> dict[str, Any]:
    """Score a model on val (stored features, unless there are views to average) and test (computed ones)."""
    views = task.prediction_views()
    store = open_store(task.settings, "train") if len(views) == 1 else None
    with torch.no_grad():
        scores = score(task, model, splits["val"], store, "cpu", 8, context, views)
        scores["test"] = (
            score(task, model, splits["test"], None, "cpu", 4, context, views) if splits["test"] else {"per_scene": {}}
        )
    return scores


class WithMaps(nn.Module):
    """Computes the maps of a batch that has none, for models that only read them."""

    def __init__(self, task: Any, model: nn.Module):
        super().__init__()
        self.task, self.model = [task], model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Complete the batch, then predict."""
        if batch.feature_maps is None:
            batch.feature_maps = self.task[0].features.maps(batch.arrays["image"][:, :3])
        return self.model(batch)


def row(name: str, task: Any, scores: dict[str, Any], seconds: float) -> list[Any]:
    """One line of the table."""
    last = task.classes[-1]
    scenes = {**scores["per_scene"], **scores["test"]["per_scene"]}
    calibration = scores.get("calibration", {})
    cells = [
        scores["per_class"][last]["IoU"],
        calibration.get("IoU", float("nan")),
        calibration.get("threshold", float("nan")),
    ]
    return [name, *cells, *(scene["per_class"][last]["IoU"] for scene in scenes.values()), seconds]


def main() -> None:
    """Measure rivals, then every head with every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", help="key.path=value")
    parser.add_argument("--heads", nargs="+", default=sorted(HEADS["segmentation"]))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--log", default="error", choices=["error", "info"])
    options = parser.parse_intermixed_args()
    settings = load_settings(options.config, options.overrides, kinds())
    set_up_machine(settings.shared.resources)
    log = VerbosityLogger(options.log)
    task, context = make_task(settings, "linear", options.seeds[0], log)
    load_phase("prepare")(task, context)
    store = open_store(task.settings, "train")
    splits = {split: prepared_items(task, store, split, "accuracy") for split in ("train", "val")}
    splits["test"] = [PreparedItem(item, []) for item in task.source.items("test")]
    reader = PreparedReader(task, store, splits["train"])
    rows = []
    for name, on_colours in (("colours, logistic regression", True), ("linear probe of the blocks", False)):
        started = time.perf_counter()
        probe = fit_probe(task, reader, on_colours)
        seconds = time.perf_counter() - started
        rows.append(row(name, task, measure(task, WithMaps(task, probe), splits, context), seconds))
        print(rows[-1], flush=True)
    for head in options.heads:
        for seed in options.seeds:
            task, context = make_task(settings, head, seed, log)
            started = time.perf_counter()
            load_phase("train")(task, context)
            seconds = time.perf_counter() - started
            model = task.build_model().eval()
            load_trained_state(model, load_checkpoint(checkpoint_path(context.folder, BEST)).tensors)
            rows.append(row(f"{head}, seed {seed}", task, measure(task, model, splits, context), seconds))
            print(rows[-1], flush=True)
    scenes = [item.item.id for item in splits["val"] + splits["test"]]
    header = [
        "Model",
        "IoU",
        "IoU calibrated",
        "threshold",
        *sorted(scenes[: len(splits["val"])]),
        *scenes[len(splits["val"]) :],
    ]
    print(format_table([*header, "seconds"], rows))
    for head in options.heads:
        values = np.array([entry[1:] for entry in rows if entry[0].startswith(f"{head}, ")], float)
        print(
            f"{head}: IoU {values[:, 0].mean():.3f} +- {values[:, 0].std():.3f}, calibrated {values[:, 1].mean():.3f}"
        )


if __name__ == "__main__":
    main()
