"""What raster inference costs beside the model, and how much memory the whole command takes.

    python -m benchmarks.inference --backbone /models/dinov2-small
    python -m benchmarks.inference --quick            # small everything: does it run?

(a) Time per megapixel of the inference phase (read windows of a compressed GeoTIFF, backbone, head, blend, decode,
write strips, assemble the COG) over backbone and head alone on the same windows, already in memory, in the same
batches; both take turns. The weights are random: they cost what trained ones cost. (b) Peak resident memory of
`main.py` as a process of its own, with a width-8 backbone, on rasters of growing height, beside a raster of one window:
what is over that is what rasters cost. (`VmHWM` of /proc, read until the process ends.)
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch
from torch import nn

from benchmarks.workbench import (
    SIDE,
    TINY,
    VIT_SMALL,
    machine_line,
    make_settings,
    make_task,
    median_ratio,
    quiet_libraries,
    random_backbone,
    take_turns,
    verdict,
    write_config,
    write_scene,
)
from tasks.context import Context
from tasks.model import trained_state
from tasks.phases import inference, prepare
from tasks.phases.prediction import collect
from tasks.phases.samples import Job, LiveSamples
from tasks.sample import Batch
from tasks.segmentation.task import SegmentationTask
from tasks.task import Task
from utils.runtime.checkpoints import save_checkpoint

TIME_GOAL, MEMORY_GOAL_MB = 1.15, 600
ROOT = Path(__file__).resolve().parent.parent


def make_checkpoint(folder: Path, source: str, head: str, side: int = SIDE) -> Path:
    """A checkpoint of a head with its first weights, as train would write it."""
    task, context = make_task(folder, source, f"model.head={head}", "train.features=online", side=side)
    prepare.run(task, context)
    path = folder / f"{head}.safetensors"
    model = task.build_model()
    save_checkpoint(path, {key: value.contiguous() for key, value in trained_state(model).items()}, task.describe())
    return path


class TimeBench:
    """One raster and one model for both sides."""

    def __init__(self, folder: Path, options: argparse.Namespace):
        self.folder, self.options = folder, options
        source = random_backbone(options.backbone, folder, TINY if options.quick else VIT_SMALL)
        write_scene(folder, options.side, options.side)
        checkpoint = make_checkpoint(folder, source, options.head)
        self.settings = (
            f"inference.checkpoint={checkpoint}",
            f"inference.batch_size={options.batch_size}",
            f"inference.output_dir={folder}/maps",
            "train.features=online",
        )
        self.source, self.runs = source, 0
        task, context = self.task_in_new_run()
        self.restored = inference.restore(task, str(checkpoint), context, "inference")
        restored, model, _ = self.restored
        assert isinstance(restored, SegmentationTask)
        assert isinstance(model, nn.Module)
        assert restored.features.backbone is not None  # loaded now, not inside the clock
        self.task, self.model = restored, model.eval()
        samples = LiveSamples(self.task, self.task.prediction_views())
        job = Job(self.task.source.items("inference")[0], self.task.predictor())
        parts = collect(samples, samples.read(job), options.batch_size)
        self.batches = [part.batch for part in parts if part.batch is not None]
        self.windows = sum(len(batch) for batch in self.batches)

    def task_in_new_run(self) -> tuple[Task, Context]:
        """The task and a run's folder in which nothing is predicted yet."""
        self.runs += 1
        task, context = make_task(self.folder, self.source, f"model.head={self.options.head}", *self.settings)
        return task, Context(context.log, self.folder / "runs" / f"bench_{self.runs}")

    @torch.no_grad()
    def run_alone(self) -> None:
        """Backbone and head on every batch."""
        for batch in self.batches:
            self.model(Batch(batch.samples, batch.arrays))

    def run_phase(self) -> None:
        """The whole phase; the model is loaded already, as it is on the other side."""
        task, context = self.task_in_new_run()
        with mock.patch.object(inference, "restore", return_value=self.restored):
            assert inference.run(task, context).status == "done"


def print_time(folder: Path, options: argparse.Namespace) -> None:
    """Part (a)."""
    bench = TimeBench(folder, options)
    megapixels = options.side**2 / 1e6
    print(
        f"(a) {options.side} x {options.side} pixels, {bench.windows} windows of {SIDE} with 25 % overlap, batches of "
        f"{options.batch_size}, head {options.head}, {bench.task.features.precision}"
    )
    bench.model(bench.batches[0])  # the first forward chooses kernels
    sides = {"model alone": bench.run_alone, "inference phase": bench.run_phase}
    seconds = take_turns(sides, options.repeats)
    print(f"    {'':<18}{'s / megapixel':>14}{'CPU s / megapixel':>19}   median of {options.repeats}")
    for name, pairs in seconds.items():
        wall, cpu = (statistics.median(pair[which] for pair in pairs) / megapixels for which in (0, 1))
        print(f"    {name:<18}{wall:>14.3f}{cpu:>19.3f}")
    added = median_ratio(seconds["inference phase"], seconds["model alone"], which=1) - 1
    print(f"    CPU that the phase adds to the model: {added:.1%}")
    ratio = median_ratio(seconds["inference phase"], seconds["model alone"])
    print(verdict("    inference over model alone", ratio, TIME_GOAL, at_least=False, digits=3))


def peak_memory(config: Path) -> tuple[float, float]:
    """Highest resident memory in MB and seconds of the inference phase of `main.py`."""
    command = [sys.executable, "main.py", str(config), "--only", "segmentation.inference"]
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            found = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
            peak = max([peak, *(int(line.split()[1]) for line in found)])
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"main.py ended with {process.returncode}")
    return peak * 1024 / 1e6, time.perf_counter() - started


def print_memory(folder: Path, options: argparse.Namespace) -> None:
    """Part (b)."""
    source = random_backbone(None, folder, {**TINY, "patch_size": 16})
    write_scene(folder, 512, 1024)
    checkpoint = make_checkpoint(folder, source, "linear", 512)
    print(f"(b) peak memory of main.py inference, width-8 backbone, linear head, {options.columns:,} columns")
    base = None
    for height in (512, *options.rows):
        width = 512 if base is None else options.columns
        place = folder / f"rows_{height}_{width}"
        write_scene(place, height, width)
        settings = make_settings(
            place, source, f"inference.checkpoint={checkpoint}", "inference.enable=true", "model.head=linear", side=512
        )
        peak, seconds = peak_memory(write_config(place / "config.yml", settings))
        base = base or peak
        text = f"    {height:>7,} rows: peak {peak:6.0f} MB, {seconds:5.0f} s, over one window"
        print(verdict(text, peak - base, MEMORY_GOAL_MB, at_least=False, digits=0), flush=True)
        (place / "pictures" / "scene_0.tif").unlink()


def main() -> None:
    """Read the arguments and measure in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", help="folder of a ViT-S; a random one of its shape when not given")
    parser.add_argument("--head", default="dpt")
    parser.add_argument("--side", type=int, default=2048, help="pixels per side of the raster of (a)")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--columns", type=int, default=2048, help="width of the rasters of (b)")
    parser.add_argument("--rows", type=int, nargs="*", default=[4096, 16384], help="heights of the rasters of (b)")
    parser.add_argument("--threads", type=int, default=None, help="as PyTorch chooses when not given")
    parser.add_argument("--only", choices=["time", "memory"], help="one of the parts")
    parser.add_argument("--quick", action="store_true", help="a tiny backbone and small rasters; ratios mean nothing")
    options = parser.parse_args()
    quiet_libraries()
    if options.quick:
        options.side, options.repeats, options.columns, options.rows = 1024, 1, 1024, [2048]
    if options.threads:
        torch.set_num_threads(options.threads)
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    print(machine_line())
    with tempfile.TemporaryDirectory() as name:
        if options.only != "memory":
            print_time(Path(name) / "time", options)
        if options.only != "time":
            print_memory(Path(name) / "memory", options)


if __name__ == "__main__":
    main()
