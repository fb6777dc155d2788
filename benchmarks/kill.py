"""Kill -9 at moments drawn uniformly over all phases of all kinds; the next run must end as an unbroken one.

    python -m benchmarks.kill                            # 60 moments, some tens of minutes
    python -m benchmarks.kill --times 20 --kinds distill
    python -m benchmarks.kill --quick                    # 3 moments of a tiny job
    python -m benchmarks.kill --ranks                    # one of two ranks is killed or stopped, in each phase

An unbroken run of `main.py` is timed first: a phase lasts from the line in which it says that it started to the line in
which it says that it finished, so that imports do not count. Then, for each moment (seeded, uniform over the sum of the
lengths): the folder is put back to how it was before that phase, `main.py` is started for that phase, killed with its
group so long after the phase's first line, and run again as usual with all phases. Afterwards every tensor of the best
and the last checkpoint, every array of every record of the store, every score and every byte of every prediction must
be those of the unbroken run, `verify` must find nothing, and no file may be left that the unbroken run does not have.
A moment that found the phase finished already is counted as a miss.

With `--ranks` two ranks work, under torchrun. The rank that is left must end within a minute, with one line that names
the other, and a rerun on two ranks must end as an unbroken one. A rank whose phase was finished before the signal is
counted apart. The exit code is 1 if something was wrong, or if fewer than four of five ranks were under way.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.workbench import machine_line, quiet_libraries, random_backbone, verdict, write_scene
from utils.runtime.checkpoints import load_checkpoint
from utils.runtime.files import digest_array, read_json
from utils.samples.files import write_foxes
from utils.store.feature_store import FeatureStore

ROOT = Path(__file__).resolve().parent.parent
SHAPE = {"width": 96, "depth": 6, "heads": 3, "patch_size": 14}
PATIENCE_S = 600
HITS_GOAL = 0.75  # of the moments
RANKS_GOAL = 0.8  # of the ranks that are lost: their moments are early in a phase
NOTICED_GOAL_S = 60  # until the other rank has ended
WHOLE = ("prepare", "verify", "train", "evaluate")
PHASES = {
    "segmentation": (*WHOLE, "inference"),
    "keypoints": (*WHOLE, "inference"),
    "detection": (*WHOLE, "inference"),
    "distill": (*WHOLE, "export"),
}
SETTINGS = """
resources: {{omp_threads: 1, device: cpu}}
logging: {{file: {work}/run.log}}
paths: {{processed_dir: {work}/store, runs_root: {work}/runs, splits_dir: {work}/splits}}
model: {{backbone: {backbone}, precision: fp32}}
prepare: {{enable: true, batch_size: 2}}
verify: {{enable: true}}
train: {{enable: true, epochs: {epochs}, patience: 1000, save_minutes: 0.005, ema_decay: 0.9, batch_size: 4}}
evaluate: {{enable: true}}
"""
TASKS = {
    "segmentation": """
tasks:
  job:
    kind: segmentation
    paths: {{raw_images_dir: {folder}/pictures, label_path: {folder}/labels}}
    dataset: {{classes: [dark, light], splits: {{block_tiles: 1}}, augmentations: {{enable: true, stored_views: 4}}}}
    model: {{head: linear}}
    prepare: {{tile_size: 224}}
    inference: {{enable: true, confidence: true, inputs: {folder}/new/pictures/scene_0.tif}}
""",
    "keypoints": """
tasks:
  job:
    kind: keypoints
    paths: {{data_root: {folder}/foxes, label_path: annotations}}
    model: {{head: conv}}
    inference: {{enable: true, inputs: ["images/*.png", chase.mp4]}}
    keypoints: {{short_side: 224, formats: [csv, json, labelme, coco, video]}}
""",
    "detection": """
tasks:
  job:
    kind: detection
    paths: {{data_root: {folder}/foxes, label_path: annotations}}
    dataset: {{augmentations: {{enable: true, stored_views: 2}}}}
    model: {{head: dense, head_options: {{width: 32, refine_width: 32, refine_samples: 8}}}}
    inference: {{enable: true, inputs: ["images/*.png", chase.mp4]}}
    detection: {{shortest_edge: 126, longest_edge: 168, windows: 2, formats: [csv, coco, yolo, labelme, voc, video]}}
""",
    "distill": """
tasks:
  job:
    kind: distill
    paths: {{raw_images_dir: {folder}/pictures}}
    model: {{head: vit, head_options: {{width: 32, depth: 2, heads: 2, registers: 1, patch_size: 14}}}}
    distill: {{crop: 224, block: 448}}
    export: {{enable: true}}
""",
}


@dataclass(frozen=True)
class Moment:
    """When to kill."""

    kind: str
    phase: str
    after_s: float

    def __str__(self) -> str:
        return f"{self.kind}.{self.phase} + {self.after_s:.2f} s"


class Command:
    """A run of `main.py` whose lines are read as they come, each with the time at which it came; maybe on two ranks."""

    def __init__(self, config: Path, *arguments: str, ranks: int = 0):
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        launcher = []
        if ranks:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            launcher = ["-m", "torch.distributed.run", "--nnodes=1", f"--nproc_per_node={ranks}"]
            launcher += ["--master_addr=127.0.0.1", f"--master_port={port}"]
        self.process = subprocess.Popen(
            [sys.executable, *launcher, str(ROOT / "main.py"), str(config), *arguments],
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

    def pid_of_rank(self, rank: int) -> int:
        """The process that the launcher has started as a rank."""
        threads = Path(f"/proc/{self.process.pid}/task").iterdir()
        pids = [int(pid) for thread in threads for pid in (thread / "children").read_text().split()]
        return next(pid for pid in pids if f"\0RANK={rank}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes())

    def output(self) -> str:
        """All lines."""
        return "\n".join(line for _, line in self.lines)


class Job:
    """A folder in which `main.py` works, always under the same name, and how it was before each phase."""

    def __init__(self, folder: Path, kind: str, options: argparse.Namespace, ranks: int = 0):
        self.folder, self.work, self.config = folder, folder / "work", folder / "config.yml"
        self.kind, self.phases, self.ranks = kind, PHASES[kind], ranks
        folder.mkdir()
        if kind in ("keypoints", "detection"):
            photos = options.photos // (3 if kind == "detection" else 1)  # each is five samples there
            write_foxes(folder / "foxes", train=photos, val=max(1, photos // 3), frames=photos)
        else:
            write_scene(folder, options.side, options.side)
            write_scene(folder / "new", options.map_side, options.map_side, seed=9)
        places = {"folder": folder, "work": self.work, "backbone": random_backbone(None, folder, SHAPE)}
        text = (SETTINGS + TASKS[kind]).format(**places, epochs=options.epochs)
        self.config.write_text(text)

    def start(self, *phases: str) -> Command:
        """Start `main.py` for some phases, or for all."""
        only = ["--only", ",".join(f"job.{phase}" for phase in phases)] if phases else []
        return Command(self.config, *only, ranks=self.ranks)

    def measure(self) -> dict[str, float]:
        """Run unbroken, a phase at a time, keep the folder before each, and give the seconds of each phase."""
        self.work.mkdir()
        seconds = {}
        for phase in self.phases:
            shutil.copytree(self.work, self.folder / f"before_{phase}", symlinks=True)
            command = self.start(phase)
            started = command.wait_for(f"job.{phase}: started")
            seconds[phase] = command.wait_for(f"job.{phase}: finished") - started
            if command.finish():
                raise SystemExit(command.output())
        return seconds

    def put_back(self, phase: str) -> None:
        """Make the work folder what it was before a phase; times of files included."""
        shutil.rmtree(self.work)
        shutil.copytree(self.folder / f"before_{phase}", self.work, symlinks=True)

    def results(self) -> dict[str, str]:
        """Digests of every tensor, record, score and predicted file, and the names of all files."""
        run = self.work / "runs" / "job" / "latest"
        found: dict[str, str] = {}
        for name in ("best", "last"):
            tensors = load_checkpoint(run / "checkpoints" / f"{name}.safetensors").tensors
            found |= {f"{name} weights: {key}": digest_array(as_bytes(value)) for key, value in tensors.items()}
        store = FeatureStore(self.work / "store")
        for key in sorted(store.keys()):
            for name, array in store.read(key).items():
                found[f"store: {key}/{name}"] = digest_array(as_bytes(array))
        for path in sorted(run.glob("evaluate_*/metrics.json")):
            found[f"scores: {path.parent.name}"] = repr(read_json(path)["metrics"])
        for path in sorted((run / "predictions").rglob("*")):
            if path.is_file():
                found[f"predictions: {path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.glob("export*/**/*.safetensors")):
            found[f"export: {path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found | {f"file: {name}": "" for name in self.files()}

    def files(self) -> list[str]:
        """Every file of the work folder, but for the shards of the store, which are named by what they hold."""
        paths = [path for path in self.work.rglob("*") if not path.is_dir()]
        run = os.readlink(self.work / "runs" / "job" / "latest")
        names = [path.relative_to(self.work).as_posix().replace(run, "RUN") for path in paths]
        return [name for name in names if not name.startswith("store/shards/") or "partial" in name]

    def problems(self) -> list[str]:
        """What `verify` finds in the store."""
        return [str(problem) for problem in FeatureStore(self.work / "store").verify()]


def as_bytes(value: torch.Tensor | np.ndarray) -> np.ndarray:
    """The bits of an array, whatever its type."""
    tensor = torch.as_tensor(value).detach().cpu().contiguous()
    return tensor.reshape(-1).view(torch.uint8).numpy()


def draw_moments(seconds: dict[tuple[str, str], float], number: int, seed: int) -> list[Moment]:
    """Moments uniform over the lengths of all phases of all kinds, put one after the other."""
    phases = list(seconds)
    ends = np.cumsum([seconds[phase] for phase in phases])
    drawn = np.random.default_rng(seed).uniform(0, ends[-1], number)
    moments = []
    for value in drawn.tolist():
        index = int(np.searchsorted(ends, value, side="right"))
        moments.append(Moment(*phases[index], value - (ends[index - 1] if index else 0.0)))
    return moments


def break_once(job: Job, moment: Moment) -> bool:
    """Kill a phase at a moment; whether it was under way."""
    job.put_back(moment.phase)
    command = job.start(moment.phase)
    started = command.wait_for(f"job.{moment.phase}: started")
    time.sleep(max(0.0, started + moment.after_s - time.monotonic()))
    command.kill()
    finished = command.time_of(f"job.{moment.phase}: finished")
    return command.process.returncode == -signal.SIGKILL and finished is None


def run_again(job: Job, expected: dict[str, str]) -> list[str]:
    """Run as usual, with all phases, and say what differs from the unbroken run."""
    command = job.start()
    if code := command.finish():
        return [f"the next run ended with {code}: {command.output()[-500:]}"]
    found = job.results()
    names = sorted(set(expected) | set(found))
    differing = [name for name in names if expected.get(name) != found.get(name)]
    return [*(f"differs: {name}" for name in differing[:3]), *job.problems()]


def compare(folder: Path, options: argparse.Namespace) -> bool:
    """Break the jobs at all moments; whether every rerun gave the unbroken result."""
    jobs = {kind: Job(folder / kind, kind, options) for kind in options.kinds}
    seconds, expected = measure(jobs)
    hits = failures = 0
    for number, moment in enumerate(draw_moments(seconds, options.times, options.seed), 1):
        job = jobs[moment.kind]
        under_way = break_once(job, moment)
        problems = run_again(job, expected[moment.kind])
        hits, failures = hits + under_way, failures + bool(problems)
        state = "under way" if under_way else "finished before"
        print(f"{number:>3}  {moment!s:<34}{state:<16}{'; '.join(problems) or 'equal'}", flush=True)
    share = hits / options.times
    print(f"{hits} of {options.times} hits were under way, {failures} reruns differ from the unbroken run (goal: 0)")
    print(verdict("share of hits under way", share, HITS_GOAL, at_least=True))
    return failures == 0


def measure(jobs: dict[str, Job]) -> tuple[dict[tuple[str, str], float], dict[str, dict[str, str]]]:
    """Run all jobs unbroken, say how long each phase takes; gives that and the results by kind."""
    seconds, expected = {}, {}
    for kind, job in jobs.items():
        lengths = job.measure()
        command = job.start()  # as a rerun does: what it writes anew belongs to the expected files
        if command.finish():
            raise SystemExit(command.output())
        expected[kind] = job.results()
        seconds |= {(kind, phase): value for phase, value in lengths.items()}
        said = ", ".join(f"{phase} {value:.1f} s" for phase, value in lengths.items())
        print(f"{kind}, unbroken: {said}; {tell(expected[kind])}", flush=True)
    return seconds, expected


def tell(results: dict[str, str]) -> str:
    """How many results of each kind are compared."""
    kinds: dict[str, int] = {}
    for name in results:
        kind = name.partition(":")[0]
        kinds[kind] = kinds.get(kind, 0) + 1
    return "compared: " + ", ".join(f"{kind} {number}" for kind, number in kinds.items())


# ---------------------------------------------------------------------------------------------------------------------
# Ranks


def lose_a_rank(job: Job, moment: Moment, rank: int, number: signal.Signals) -> tuple[float, bool, list[str]]:
    """Kill or stop one of two ranks; seconds until the other has ended, if the phase was under way, what is wrong."""
    job.put_back(moment.phase)
    command = job.start(moment.phase)
    started = command.wait_for(f"job.{moment.phase}: started")
    lost, other = command.pid_of_rank(rank), command.pid_of_rank(1 - rank)
    time.sleep(max(0.0, started + moment.after_s - time.monotonic()))
    os.kill(lost, number)
    began = time.monotonic()
    while is_running(other) and time.monotonic() - began < 3 * NOTICED_GOAL_S:
        time.sleep(0.05)
    seconds = time.monotonic() - began
    for pid in (lost, other):  # no part of the launcher's group
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)
    command.finish()
    said = [line for _, line in command.lines]
    ours = said[: next((at for at, line in enumerate(said) if "torch/distributed/elastic" in line), len(said))]
    errors = [line for line in said if line.startswith("[ERROR]")]
    problems = [] if seconds < NOTICED_GOAL_S else [f"noticed after {seconds:.0f} s"]
    under_way = command.time_of(f"job.{moment.phase}: finished") is None
    if under_way and (len(errors) != 1 or f"rank {rank} (process {lost} on " not in errors[0]):
        problems.append(f"expected one line that names rank {rank}, process {lost}; got {errors}")
    if any("Traceback" in line for line in ours):
        problems.append("a traceback")
    return seconds, under_way, problems


def is_running(pid: int) -> bool:
    """Whether a process is there, stopped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def compare_ranks(folder: Path, options: argparse.Namespace) -> bool:
    """Lose a rank in each phase of each kind; whether the other ended well and every rerun gave the unbroken result."""
    jobs = {kind: Job(folder / kind, kind, options, ranks=2) for kind in options.kinds}
    seconds, expected = measure(jobs)
    generator = np.random.default_rng(options.seed)
    hits, failures, cases = 0, 0, [(place, number) for place in seconds for number in (signal.SIGKILL, signal.SIGSTOP)]
    cases = [case for case in cases if case[0][1] != "verify"]
    for index, ((kind, phase), number) in enumerate(cases, 1):
        moment = Moment(kind, phase, float(generator.uniform(0, 0.7)) * seconds[kind, phase])
        took, under_way, problems = lose_a_rank(jobs[kind], moment, int(index % 3 != 0), number)
        problems += run_again(jobs[kind], expected[kind])
        hits, failures = hits + under_way, failures + bool(problems)
        state = "one line, equal" if under_way else "finished before the signal, equal"
        what = f"{number.name} to rank {int(index % 3 != 0)}"
        print(f"{index:>3}  {moment!s:<34}{what:<18}{took:5.1f} s  {'; '.join(problems) or state}", flush=True)
    print(
        f"{len(cases)} ranks were lost, {len(cases) - hits} of them finished before the signal; {failures} times "
        "something was wrong (goal: 0)"
    )
    print(verdict("share of lost ranks under way", hits / len(cases), RANKS_GOAL, at_least=True))
    return failures == 0 and hits >= RANKS_GOAL * len(cases)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the arguments and break the jobs in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=60, help="moments, over all kinds together")
    parser.add_argument("--kinds", nargs="+", choices=sorted(PHASES), default=sorted(PHASES))
    parser.add_argument("--ranks", action="store_true", help="two ranks, of which one is killed or stopped")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument(
        "--side", type=int, default=1120, help="pixels per side of the labelled scene: prepare's length"
    )
    parser.add_argument("--photos", type=int, default=18, help="pictures of animals")
    parser.add_argument("--epochs", type=int, default=8, help="train's length")
    parser.add_argument("--map-side", type=int, default=1792, help="pixels per side of the raster: inference's length")
    parser.add_argument("--folder", type=Path, default=None, help="disk to work on; the system's temporary folder")
    parser.add_argument("--quick", action="store_true", help="tiny jobs and three moments")
    options = parser.parse_args(arguments)
    quiet_libraries()
    if options.quick:
        options.times, options.side, options.epochs, options.map_side, options.photos = 3, 672, 2, 896, 6
    print(machine_line())
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        well = (compare_ranks if options.ranks else compare)(Path(name), options)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
