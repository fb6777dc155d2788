"""What the store gains a keypoint training, and what video inference costs beside the bare backbone.

    python -m benchmarks.keypoints --backbone /models/dinov2-small
    python -m benchmarks.keypoints --quick            # a small backbone, few frames: does it run?

(a) Seconds per epoch of the training loop with maps from the store (`train.features: cached`) and with the backbone run
at every step (`online`), head by head, epochs in turns. (b) Frames per second of the inference phase on a video (decode
frames, lay them on the canvas, backbone, head, decode points, write the csv) over the backbone alone on the same
canvases in the same batches, in turns. The weights are random: they cost what trained ones cost.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from unittest import mock

import torch

from benchmarks.epochs import time_epoch
from benchmarks.workbench import (
    TINY,
    VIT_SMALL,
    machine_line,
    median_ratio,
    quiet_libraries,
    random_backbone,
    take_turns,
    verdict,
)
from config import parse_settings
from models import HEADS
from tasks import kinds
from tasks.context import Context
from tasks.keypoints.task import KeypointsTask
from tasks.model import trained_state
from tasks.phases import inference, prepare
from tasks.phases.prediction import collect
from tasks.phases.samples import Job, LiveSamples
from tasks.phases.train import Training
from tasks.prepared import prepared_items
from tasks.stores import open_store
from utils.logging import VerbosityLogger
from utils.runtime.checkpoints import save_checkpoint
from utils.samples.files import write_foxes

EPOCH_GOAL, VIDEO_GOAL = 4.0, 0.85

SETTINGS = """
resources: {{device: cpu, omp_threads: {threads}}}
paths: {{data_root: {folder}/foxes, label_path: annotations, processed_dir: {folder}/store, runs_root: {folder}/runs,
  splits_dir: {folder}/splits}}
model: {{backbone: {backbone}}}
prepare: {{enable: true}}
train: {{enable: true, epochs: 1000, batch_size: 4}}
inference: {{inputs: chase.mp4, batch_size: 4}}
keypoints: {{short_side: 364, formats: [csv], min_score: 0.0}}
tasks: {{foxes: {{kind: keypoints}}}}
"""


def make_task(folder: Path, backbone: str, run: str, *overrides: str) -> tuple[KeypointsTask, Context]:
    """A task on drawn foxes, and a context that only speaks of errors."""
    text = SETTINGS.format(folder=folder, backbone=backbone, threads=torch.get_num_threads())
    settings = parse_settings(text, overrides, kinds()).tasks["foxes"]
    return KeypointsTask("foxes", settings), Context(VerbosityLogger("error"), folder / "runs" / run)


def make_training(folder: Path, backbone: str, head: str, features: str) -> Training:
    """A training whose pictures are prepared, before its first step."""
    task, context = make_task(folder, backbone, "train", f"model.head={head}", f"train.features={features}")
    prepare.run(task, context)
    store = open_store(task.settings, "train")
    train, val = (prepared_items(task, store, split, "benchmark") for split in ("train", "val"))
    task.objective.fit_statistics([entry for item in train for entry in item.entries])
    if features == "online":
        assert task.features.backbone is not None  # loaded now, not in the first epoch
    return Training(task, context, store, train, val, "benchmark")


def print_epochs(folder: Path, backbone: str, options: argparse.Namespace) -> None:
    """Part (a)."""
    print(f"(a) {'head':<12}{'ms per picture, cached':>24}{'computed':>12}")
    for head in options.heads:
        sides = {name: make_training(folder, backbone, head, name) for name in ("cached", "online")}
        time_epoch(sides["cached"])  # the first epoch chooses kernels
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(options.repeats):
            for name, training in sides.items():
                seconds[name].append(time_epoch(training)["total"])
        cached, online = (statistics.median(seconds[name]) for name in sides)
        print(f"    {head:<12}{1000 * cached:>24.1f}{1000 * online:>12.1f}")
        text = f"    {head}: epoch with features computed over cached epoch"
        print(verdict(text, online / cached, EPOCH_GOAL, at_least=True), flush=True)


class VideoBench:
    """One video and one model for both sides."""

    def __init__(self, folder: Path, backbone: str, options: argparse.Namespace):
        self.folder, self.runs = folder, 0
        task, _ = make_task(folder, backbone, "first", "train.features=online")
        path = folder / "checkpoint.safetensors"
        tensors = {key: value.contiguous() for key, value in trained_state(task.build_model()).items()}
        save_checkpoint(path, tensors, task.describe())
        self.backbone = backbone
        self.overrides = (f"inference.checkpoint={path}", f"inference.output_dir={folder}/predictions")
        task, context = self.task_in_new_run()
        self.restored = inference.restore(task, str(path), context, "inference")
        restored, _, _ = self.restored
        assert isinstance(restored, KeypointsTask)
        assert restored.features.backbone is not None  # loaded now, not inside the clock
        self.task = restored
        source = LiveSamples(self.task, self.task.prediction_views())
        job = Job(self.task.source.items("inference")[0], self.task.predictor())
        parts = collect(source, source.read(job), task.settings.inference.batch_size)
        self.images = [part.batch.arrays["image"] for part in parts if part.batch is not None]
        self.frames = sum(len(images) for images in self.images)

    def task_in_new_run(self) -> tuple[KeypointsTask, Context]:
        """The task and a run's folder in which nothing is predicted yet."""
        self.runs += 1
        return make_task(self.folder, self.backbone, f"video_{self.runs}", *self.overrides)

    def run_backbone(self) -> None:
        """The backbone on every batch."""
        for images in self.images:
            self.task.features.maps(images)

    def run_phase(self) -> None:
        """The whole phase; the model is loaded already, as it is on the other side."""
        with mock.patch.object(inference, "restore", return_value=self.restored):
            assert inference.run(*self.task_in_new_run()).status == "done"


def print_video(folder: Path, backbone: str, options: argparse.Namespace) -> None:
    """Part (b)."""
    bench = VideoBench(folder, backbone, options)
    height, width = bench.images[0].shape[-2:]
    print(f"(b) {bench.frames} frames on a canvas of {height} x {width}, batches of 4, head conv")
    bench.run_backbone()
    seconds = take_turns({"backbone": bench.run_backbone, "phase": bench.run_phase}, options.repeats)
    for name, pairs in seconds.items():
        print(f"    {name:<12}{bench.frames / statistics.median(wall for wall, _ in pairs):>8.2f} frames per second")
    ratio = median_ratio(seconds["backbone"], seconds["phase"])
    print(verdict("    inference over bare backbone, frames per second", ratio, VIDEO_GOAL, at_least=True))


def main() -> None:
    """Read the arguments and measure in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", help="folder of a ViT-S; a random one of its shape when not given")
    parser.add_argument("--heads", nargs="+", default=sorted(HEADS["keypoints"]))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="as PyTorch chooses when not given")
    parser.add_argument("--only", choices=["epochs", "video"], help="one of the parts")
    parser.add_argument("--quick", action="store_true", help="a tiny backbone and few frames; the ratios mean nothing")
    options = parser.parse_args()
    quiet_libraries()
    if options.quick:
        options.repeats = 1
    if options.threads:
        torch.set_num_threads(options.threads)
    print(machine_line())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train, val, frames = (4, 2, 8) if options.quick else (16, 4, 48)
        write_foxes(folder / "foxes", seed=0, train=train, val=val, frames=frames)
        backbone = random_backbone(options.backbone, folder, TINY if options.quick else VIT_SMALL)
        if options.only != "video":
            print_epochs(folder, backbone, options)
        if options.only != "epochs":
            print_video(folder, backbone, options)


if __name__ == "__main__":
    main()
