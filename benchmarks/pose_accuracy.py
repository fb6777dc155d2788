r"""Accuracy of every keypoint head against a plain deconvolution head, same features, same training, several seeds.

    python -m benchmarks.pose_accuracy docs/configs/kp_openfield.yml paths.data_root=/data/kp_openfield \
        model.backbone=/models/dinov2-small --heads plain conv --seeds 1 2 3

Each row is what `evaluate` reports on val for the best checkpoint of a training: PCK at pixels of the original
picture, mean and median error, OKS AP. The plain head (0.3 M: a 1x1 convolution, two transposed ones) is the rival.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from config import Settings, load_settings
from models import HEADS
from models.base import FeatureSpec
from models.keypoint_layers import FineClassifier, FineGridHead, KeypointOptions
from tasks import kinds, load_task
from tasks.context import Context
from tasks.keypoints.task import KeypointsTask
from tasks.phases import load_phase
from tasks.runs import set_up_machine
from tasks.task import Task
from utils.logging import VerbosityLogger
from utils.report.tables import format_table
from utils.runtime.files import read_json

SHOWN = ("PCK@4px", "PCK@8px", "PCK@16px", "mean_error_px", "median_error_px", "OKS_AP")


class PlainHead(FineGridHead):
    """Concatenated blocks, a 1x1 convolution, two transposed convolutions, a map for each keypoint."""

    output_layers = ("classifier",)

    def __init__(self, spec: FeatureSpec, num_keypoints: int, options: KeypointOptions):
        super().__init__(spec, num_keypoints, options.model_copy(update={"use_image": False}))
        self.decoder = Deconvolutions(sum(spec.channels))  # type: ignore[assignment]  # has what the head reads of it
        self.classifier = FineClassifier(32, num_keypoints).init_prior_bias()

    def draw(self, patches: Tensor, fine: Tensor) -> dict[str, Tensor]:
        """Heatmaps and what groups them."""
        return {"heatmaps": self.classifier(fine), **super().draw(patches, fine)}


class Deconvolutions(nn.Module):
    """The plain decoder."""

    widths = (128, 64, 32)
    input_layers = ()

    def __init__(self, channels: int):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, 128, 1)]
        for coarse, fine in ((128, 64), (64, 32)):
            layers += [nn.GroupNorm(8, coarse), nn.ReLU(), nn.ConvTranspose2d(coarse, fine, 4, 2, 1)]
        self.layers = nn.Sequential(*layers, nn.GroupNorm(8, 32), nn.ReLU())

    def forward(self, feature_maps: Sequence[Tensor], image: Tensor | None) -> tuple[Tensor, Tensor]:
        """The first map and the last."""
        joined = torch.cat(list(feature_maps), dim=1)
        return joined, self.layers(joined)


def make_task(settings: Settings, head: str, seed: int, log: VerbosityLogger) -> tuple[Task, Context]:
    """Make the file's first task with another head and seed, and a run's folder of its own."""
    name, config = next(iter(settings.tasks.items()))
    changes = {
        "model": config.model.model_copy(update={"head": head}),
        "resources": config.resources.model_copy(update={"seed": seed}),
    }
    config = config.model_copy(update=changes)
    folder = Path(config.paths.runs_root) / "pose_accuracy" / name / f"{head}_{seed}"
    return load_task(config.kind)(name, config), Context(log, folder)


def measure(settings: Settings, head: str, seed: int, log: VerbosityLogger) -> list[Any]:
    """Train a head and score its best checkpoint; gives a row of the table."""
    task, context = make_task(settings, head, seed, log)
    load_phase("prepare")(task, context)
    started = time.perf_counter()
    load_phase("train")(task, context)
    seconds = time.perf_counter() - started
    load_phase("evaluate")(*make_task(settings, head, seed, log))
    scores = read_json(context.folder / "evaluate_val" / "metrics.json")["metrics"]
    assert isinstance(task, KeypointsTask)
    return [f"{head}, seed {seed}", *(scores[name] for name in SHOWN), task.head_shapes().num_parameters, seconds]


def main() -> None:
    """Measure every head with every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", help="key.path=value")
    parser.add_argument("--heads", nargs="+", default=["plain", "conv", "multitask", "relational"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--log", default="error", choices=["error", "info"])
    options = parser.parse_intermixed_args()
    HEADS["keypoints"]["plain"] = f"{__name__}:PlainHead"
    settings = load_settings(options.config, options.overrides, kinds())
    set_up_machine(settings.shared.resources)
    log = VerbosityLogger(options.log)
    rows = []
    for head in options.heads:
        for seed in options.seeds:
            rows.append(measure(settings, head, seed, log))
            print(rows[-1], flush=True)
        values = np.array([row[1:7] for row in rows if row[0].startswith(f"{head}, ")], float)
        rows.append([f"{head}, mean", *values.mean(axis=0).tolist(), rows[-1][-2], rows[-1][-1]])
    print(format_table(["Head", *SHOWN, "parameters", "seconds"], rows))


if __name__ == "__main__":
    main()
