"""Kill -9 at moments drawn uniformly over prepare, train and inference; the next run must end as an unbroken one.

    python -m benchmarks.kill                # 20 moments, some minutes
    python -m benchmarks.kill --quick        # 3 moments of a tiny job

An unbroken run of `main.py` is timed first: a phase lasts from the line in which it says that it started to the line in
which it says that it finished, so that imports do not count. Then, for each moment (seeded, uniform over the sum of the
lengths): the folder is put back to how it was before that phase, `main.py` is started for that phase, killed with its
group so long after the phase's first line, and run again as usual with all phases. Afterwards every tensor of the best
and the last checkpoint, every array of every record of the store and every byte of the raster must be those of the
unbroken run, and `verify` must find nothing. A moment that found the phase finished already is counted as a miss.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.workbench import (
    machine_line,
    make_settings,
    quiet_libraries,
    random_backbone,
    verdict,
    write_config,
    write_scene,
)
from utils.runtime.checkpoints import load_checkpoint
from utils.runtime.files import digest_array
from utils.store.feature_store import FeatureStore

PHASES = ("prepare", "train", "inference")
ROOT = Path(__file__).resolve().parent.parent
SHAPE = {"width": 96, "depth": 6, "heads": 3, "patch_size": 14}
SIDE = 224
PATIENCE_S = 600
HITS_GOAL = 0.75  # of the moments


@dataclass(frozen=True)
class Moment:
    """When to kill."""

    phase: str
    after_s: float

    def __str__(self) -> str:
        return f"{self.phase} + {self.after_s:.2f} s"


class Command:
    """A run of `main.py` whose lines are read as they come, each with the time at which it came."""

    def __init__(self, config: Path, *arguments: str):
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "main.py"), str(config), *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[tuple[float, str]] = []
        self.news: queue.Queue[str | None] = queue.Queue()
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def _listen(self) -> None:
        """Read lines until the process closes its end."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line.rstrip()))
            self.news.put(line)
        self.news.put(None)

    def time_of(self, text: str) -> float | None:
        """When a line with this text came; None when none did."""
        return next((moment for moment, line in list(self.lines) if text in line), None)

    def wait_for(self, text: str) -> float:
        """Wait for a line and give the time at which it came."""
        while (found := self.time_of(text)) is None:
            if self.news.get(timeout=PATIENCE_S) is None:
                raise SystemExit(f"main.py ended without {text!r}:\n" + self.output())
        return found

    def finish(self) -> int:
        """Wait for the end."""
        code = self.process.wait(PATIENCE_S)
        self.thread.join()
        return code

    def kill(self) -> None:
        """End the process and all that it started, at once."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.finish()

    def output(self) -> str:
        """All lines."""
        return "\n".join(line for _, line in self.lines)


class Job:
    """A folder in which `main.py` works, always under the same name, and how it was before each phase."""

    def __init__(self, folder: Path, options: argparse.Namespace):
        self.folder, self.work, self.config = folder, folder / "work", folder / "config.yml"
        source = random_backbone(None, folder, SHAPE)
        write_scene(folder, options.side, options.side)
        write_scene(folder / "new", options.map_side, options.map_side, seed=9)
        settings = make_settings(
            folder,
            source,
            f"paths.processed_dir={self.work}/store",
            f"paths.runs_root={self.work}/runs",
            f"paths.splits_dir={self.work}/splits",
            "model.head=linear",
            "model.precision=fp32",
            "dataset.augmentations={enable: true, stored_views: 4}",
            f"train.epochs={options.epochs}",
            "train.patience=1000",
            "train.save_minutes=0.005",
            "train.ema_decay=0.9",
            f"inference={{enable: true, confidence: true, inputs: {folder}/new/pictures/scene_0.tif}}",
            "resources.omp_threads=1",
            side=SIDE,
        )
        write_config(self.config, settings)

    def measure(self) -> dict[str, float]:
        """Run unbroken, a phase at a time, keep the folder before each, and give the seconds of each phase."""
        self.work.mkdir()
        seconds = {}
        for phase in PHASES:
            self.keep(f"before_{phase}")
            command = Command(self.config, "--only", f"segmentation.{phase}")
            started = command.wait_for(f"segmentation.{phase}: started")
            seconds[phase] = command.wait_for(f"segmentation.{phase}: finished") - started
            if command.finish():
                raise SystemExit(command.output())
        return seconds

    def keep(self, name: str) -> None:
        """Copy the work folder aside."""
        shutil.copytree(self.work, self.folder / name, symlinks=True)

    def put_back(self, name: str) -> None:
        """Make the work folder what it was; times of files included."""
        shutil.rmtree(self.work)
        shutil.copytree(self.folder / name, self.work, symlinks=True)

    def results(self) -> dict[str, str]:
        """Digests of every tensor, record and raster."""
        run = self.work / "runs" / "segmentation" / "latest"
        found: dict[str, str] = {}
        for name in ("best", "last"):
            tensors = load_checkpoint(run / "checkpoints" / f"{name}.safetensors").tensors
            found |= {f"{name} weights: {key}": digest_array(as_bytes(value)) for key, value in tensors.items()}
        store = FeatureStore(self.work / "store")
        for key in sorted(store.keys()):
            for name, array in store.read(key).items():
                found[f"store: {key}/{name}"] = digest_array(as_bytes(array))
        for path in sorted(run.glob("predictions/*.tif")):
            found[f"raster: {path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def problems(self) -> list[str]:
        """What `verify` finds in the store, and what of unfinished files is left among the results."""
        store = FeatureStore(self.work / "store")
        return [str(problem) for problem in store.verify()]


def as_bytes(value: torch.Tensor | np.ndarray) -> np.ndarray:
    """The bits of an array, whatever its type."""
    tensor = torch.as_tensor(value).detach().cpu().contiguous()
    return tensor.reshape(-1).view(torch.uint8).numpy()


def draw_moments(seconds: dict[str, float], number: int, seed: int) -> list[Moment]:
    """Moments uniform over the lengths of all phases, put one after the other."""
    ends = np.cumsum([seconds[phase] for phase in PHASES])
    drawn = np.random.default_rng(seed).uniform(0, ends[-1], number)
    moments = []
    for value in drawn.tolist():
        index = int(np.searchsorted(ends, value, side="right"))
        moments.append(Moment(PHASES[index], value - (ends[index - 1] if index else 0.0)))
    return moments


def break_once(job: Job, moment: Moment) -> bool:
    """Kill a phase at a moment; whether it was under way."""
    job.put_back(f"before_{moment.phase}")
    command = Command(job.config, "--only", f"segmentation.{moment.phase}")
    started = command.wait_for(f"segmentation.{moment.phase}: started")
    time.sleep(max(0.0, started + moment.after_s - time.monotonic()))
    command.kill()
    finished = command.time_of(f"segmentation.{moment.phase}: finished")
    return command.process.returncode == -signal.SIGKILL and finished is None


def run_again(job: Job, expected: dict[str, str]) -> list[str]:
    """Run as usual, with all phases, and say what differs from the unbroken run."""
    command = Command(job.config)
    if code := command.finish():
        return [f"the next run ended with {code}: {command.output()[-500:]}"]
    found = job.results()
    names = sorted(set(expected) | set(found))
    differing = [name for name in names if expected.get(name) != found.get(name)]
    return [*(f"differs: {name}" for name in differing[:3]), *job.problems()]


def compare(folder: Path, options: argparse.Namespace) -> bool:
    """Break the job at all moments; whether every rerun gave the unbroken result."""
    job = Job(folder, options)
    seconds = job.measure()
    expected = job.results()
    print("unbroken: " + ", ".join(f"{phase} {seconds[phase]:.1f} s" for phase in PHASES) + f"; {tell(expected)}")
    hits = failures = 0
    for number, moment in enumerate(draw_moments(seconds, options.moments, options.seed), 1):
        under_way = break_once(job, moment)
        problems = run_again(job, expected)
        hits, failures = hits + under_way, failures + bool(problems)
        state = "under way" if under_way else "finished before"
        print(f"{number:>3}  {moment!s:<22}{state:<16}{'; '.join(problems) or 'equal'}", flush=True)
    share = hits / options.moments
    print(f"{hits} of {options.moments} hits were under way, {failures} reruns differ from the unbroken run (goal: 0)")
    print(verdict("share of hits under way", share, HITS_GOAL, at_least=True))
    return failures == 0


def tell(results: dict[str, str]) -> str:
    """How many results of each kind are compared."""
    kinds: dict[str, int] = {}
    for name in results:
        kind = name.partition(":")[0]
        kinds[kind] = kinds.get(kind, 0) + 1
    return "compared: " + ", ".join(f"{number} {kind} arrays" for kind, number in kinds.items())


def main() -> None:
    """Read the arguments and break the job in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument(
        "--side", type=int, default=1792, help="pixels per side of the labelled scene: prepare's length"
    )
    parser.add_argument("--epochs", type=int, default=10, help="train's length")
    parser.add_argument("--map-side", type=int, default=3072, help="pixels per side of the raster: inference's length")
    parser.add_argument("--folder", type=Path, default=None, help="disk to work on; the system's temporary folder")
    parser.add_argument("--quick", action="store_true", help="a tiny job and three moments")
    options = parser.parse_args()
    quiet_libraries()
    if options.quick:
        options.moments, options.side, options.epochs, options.map_side = 3, 672, 4, 896
    print(machine_line())
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        equal = compare(Path(name), options)
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
