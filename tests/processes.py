"""Processes for tests that start programs again and again: each is forked from one that has imported the libraries.

A start of Python with PyTorch takes some five seconds of a processor, a fork hardly any. What is forked is a process of
its own, with its own signals, environment, output and end, and runs its program as `__main__`. Run as a script, this
module is the process that forks; it does nothing but import, so that no thread is there that a fork would lose.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = (
    *("pytest", "torch._dynamo", "transformers.models.dinov2.modeling_dinov2"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg"),
    *("main", "tasks.example", "utils.report.plots", "models.backbone", "models.backbones.random_backbone"),
    *(f"tasks.{kind}.task" for kind in ("segmentation", "keypoints", "detection", "distill")),
    *(f"tasks.phases.{phase}" for phase in ("prepare", "verify", "train", "evaluate", "inference", "export")),
)
FIXED = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # in the environment of every program


class Forks:
    """The process that forks, as tests see it."""

    def __init__(self):
        command, pipe = [sys.executable, __file__], subprocess.PIPE
        self.process = subprocess.Popen(command, env=os.environ | FIXED, stdin=pipe, stdout=pipe, text=True)

    def ask(self, *question: Any) -> Any:
        print(json.dumps(question), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def start(self, script: Path, *arguments: object, cwd: Path = ROOT, env: Mapping[str, str]) -> Forked:
        """Run a script in a process of its own, which leads a group of processes."""
        number, output = tempfile.mkstemp()
        os.close(number)
        pid = self.ask("start", str(script), [str(word) for word in arguments], str(cwd), dict(env), output)
        return Forked(self, pid, Path(output))

    def start_ranks(self, number: int, script: Path, *arguments: object, env: Mapping[str, str]) -> list[Forked]:
        """Run a script as several ranks, as launchers other than torchrun do."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        shared = {"WORLD_SIZE": str(number), "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
        places = [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(number)]
        return [self.start(script, *arguments, env={**env, **place}) for place in places]

    def close(self) -> None:
        self.process.communicate()


class Forked:
    """A program that runs, with what tests use of `subprocess.Popen`; errors are in its output."""

    def __init__(self, forks: Forks, pid: int, output: Path):
        self.forks, self.pid, self.returncode = forks, pid, None
        self.stdout = output.open()
        output.unlink()

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self.forks.ask("poll", self.pid)
        return self.returncode

    def wait(self, timeout: float = 60) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.005)
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def communicate(self, timeout: float = 60) -> tuple[str, None]:
        self.wait(timeout)
        with self.stdout:
            return self.stdout.read(), None


def ends_of(processes: Sequence[Forked], timeout: float = 120) -> tuple[list[int], list[str]]:
    """Exit codes and outputs of programs; none of them outlives the call."""
    try:
        outputs = [process.communicate(timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.wait() for process in processes], outputs


def answer(value: Any) -> None:
    print(json.dumps(value), flush=True)


def serve() -> tuple[str, list[str]] | None:
    """Answer questions until nobody can ask any more; in a forked process, give what it is to run."""
    for line in iter(sys.stdin.readline, ""):
        asked, *words = json.loads(line)
        if asked == "poll":
            pid, status = os.waitpid(words[0], os.WNOHANG)
            answer(os.waitstatus_to_exitcode(status) if pid else None)
            continue
        script, arguments, cwd, environment, output = words
        opened = os.open(output, os.O_WRONLY | os.O_APPEND)  # its reader removes it at once
        if pid := os.fork():
            os.close(opened)
            answer(pid)
            continue
        os.setsid()
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(environment | FIXED)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in (1, 2):
            os.dup2(opened, number)
        return script, arguments
    return None


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    for name in IMPORTED:
        import_module(name)
    gc.freeze()  # what a forked process never looks at stays shared
    if task := serve():
        program, words = task
        sys.argv = [program, *words]
        sys.path.insert(0, str(Path(program).parent))
        runpy.run_path(program, run_name="__main__")
