"""Flip bits of every file that a later phase trusts; each must be found, or change nothing.

    python -m benchmarks.bitflips                # 2000 bits of each file
    python -m benchmarks.bitflips --flips 100    # fewer

A tiny job is prepared, trained, evaluated and predicted first. Then, for each kind of file, bits are drawn at random,
all bytes alike, and flipped one at a time; headers are drawn from once more, as they are short. The file is read as the
phases read it. A flip is "found" if reading ends with Dinolith's error or finds a record missing (`prepare` makes it
again), "harmless" if all that is read is the same, and "used" if anything that is read differs. An error of another
kind is a "crash". After that whole phases are run on some flipped files: they must stop with Dinolith's error or give
the scores and weights of the unbroken run.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.workbench import machine_line, quiet_libraries
from tasks.context import Context
from tasks.example import example_task
from tasks.phases import evaluate, inference, prepare, train
from tasks.runs import BEST, STATE, checkpoint_path
from utils.errors import DataError, DinolithError
from utils.runtime.checkpoints import load_checkpoint, load_training_state, pack_state
from utils.runtime.files import digest_array, digest_json, read_json
from utils.store.feature_store import FeatureStore
from utils.store.manifests import Manifests

REFUSED = "refused"
Reading = dict[str, str]  # what was read -> its digest, or that it was refused


@dataclass(frozen=True)
class Target:
    """A kind of file, or its first bytes, and how the phases read it."""

    name: str
    path: Path
    read: Callable[[], Reading]
    first: int | None = None  # bytes; None takes all

    def draw(self, flips: int, seed: int) -> list[int]:
        """Positions of bits."""
        return np.random.default_rng(seed).integers(0, 8 * (self.first or self.path.stat().st_size), flips).tolist()


def digest(value: Any) -> str:
    """Digest of a nested value, tensors in it bit by bit."""
    tensors, structure = pack_state(value)
    bits = {name: [str(tensor.dtype), digest_array(as_bytes(tensor))] for name, tensor in tensors.items()}
    return digest_json([bits, structure])


def as_bytes(tensor: torch.Tensor) -> np.ndarray:
    """The bits of a tensor, whatever its type."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()


def read_or_refuse(read: Callable[[], Any]) -> str:
    """Digest of what is read, or that reading stops with an error of ours."""
    try:
        return digest(read())
    except DinolithError:
        return REFUSED


def read_store(folder: Path, keys: list[str]) -> Reading:
    """Read each array of each record alone, as a fresh process does."""
    try:
        store = FeatureStore(folder, create=False)
    except DinolithError:
        return {"store": REFUSED}
    found: Reading = {}
    for key in keys:
        if not store.has(key):
            found[key] = REFUSED
            continue
        found[key] = digest([store.metadata(key), [str(item) for item in store.describe(key).items()]])
        for name in store.describe(key):
            found[f"{key}/{name}"] = read_or_refuse(lambda key=key, name=name: store.read_batch([key], [name])[name])
    return found


def make_job(folder: Path) -> Context:
    """Run all phases of the example once; give the context with the run's folder."""
    task, context = example_task(folder, *OVERRIDES)
    for phase in (prepare, train, evaluate, inference):
        phase.run(task, context)
    return context


OVERRIDES = ("train.epochs=2", "train.ema_decay=0.9")


def list_targets(folder: Path, run: Path) -> list[Target]:
    """Every kind of file that a later phase reads."""
    best, state = checkpoint_path(run, BEST), checkpoint_path(run, STATE)
    store = FeatureStore(folder / "store", create=False)
    keys = store.keys()
    shard = max(store.folder.glob("shards/*.safetensors"), key=lambda path: path.stat().st_size)
    manifest = max(store.folder.glob("manifests/*.json"), key=lambda path: path.stat().st_size)
    manifests = Manifests(store.folder / "manifests")

    def whole(read: Callable[[], Any]) -> Callable[[], Reading]:
        return lambda: {"all": read_or_refuse(read)}

    def checkpoint() -> list:
        loaded = load_checkpoint(best)
        return [loaded.tensors, loaded.description]

    def trusted(name: str) -> Target:
        written = tuple(read_json(run / name, {}, checksum=True))
        return Target(name, run / name, whole(lambda: read_entries(run / name, written)))

    read_state = whole(lambda: load_training_state(state))
    return [
        Target("checkpoint", best, whole(checkpoint)),
        Target("its description, in it", best, whole(checkpoint), header_bytes(best)),
        Target("its description, beside it", best.with_suffix(".json"), whole(checkpoint)),
        Target("training state", state, read_state),
        Target("its header", state, read_state, header_bytes(state)),
        Target("shard", shard, lambda: read_store(store.folder, keys)),
        Target("its header", shard, lambda: read_store(store.folder, keys), header_bytes(shard)),
        Target("manifest", manifest, whole(lambda: manifests.read(manifest.stem))),
        Target("store.json", store.folder / "store.json", lambda: read_store(store.folder, keys[:1])),
        *map(trusted, ("train.json", "run.json", "evaluate_val/metrics.json", "inference.json")),
    ]


def header_bytes(path: Path) -> int:
    """Length of a safetensors file's header, with the number that states it."""
    with open(path, "rb") as stream:
        return 8 + int.from_bytes(stream.read(8), "little")


def read_entries(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """The entries of a JSON file that phases look at; where one is not there, its phase runs again."""
    content = read_json(path, {}, checksum=True)
    if missing := [key for key in keys if key not in content]:
        raise DataError(f"{path}: no {missing[0]}")
    return {key: content[key] for key in keys}


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    """Flip a bit of a file in place, and put it back."""
    with open(path, "r+b") as stream:
        stream.seek(bit // 8)
        before = stream.read(1)
        stream.seek(bit // 8)
        stream.write(bytes([before[0] ^ 1 << bit % 8]))
        stream.flush()
        try:
            yield
        finally:
            stream.seek(bit // 8)
            stream.write(before)


def judge(expected: Reading, read: Callable[[], Reading]) -> tuple[str, str]:
    """What a flip did, and where."""
    try:
        found = read()
    except Exception as error:  # any other error is what this program looks for
        return "crash", f"{type(error).__name__}: {error}"
    changed = [name for name, value in found.items() if value != REFUSED and value != expected.get(name)]
    if changed:
        return "used", changed[0]
    return ("found" if REFUSED in found.values() else "harmless"), ""


def flip_many(target: Target, flips: int, seed: int) -> bool:
    """Flip bits of a file one at a time and print what became of them; whether none was used."""
    expected, size = target.read(), target.first or target.path.stat().st_size
    if REFUSED in expected.values():
        raise SystemExit(f"{target.name}: cannot be read before a bit is flipped")
    outcomes: Counter[str] = Counter()
    for bit in target.draw(flips, seed):
        with flipped(target.path, bit):
            outcome, where = judge(expected, target.read)
        outcomes[outcome] += 1
        if outcome in ("used", "crash"):
            print(f"    bit {bit % 8} of byte {bit // 8} of {target.path}: {outcome}: {where}")
    counts = "".join(f"{outcomes[name]:>10}" for name in ("found", "harmless", "used", "crash"))
    print(f"{target.name:<28}{size:>10}{flips:>8}{counts}", flush=True)
    return not outcomes["used"] and not outcomes["crash"]


# --- whole phases


def result_of(folder: Path, context: Context) -> str:
    """Go on as the next command does: finish the training, score the checkpoint; digest of scores and weights."""
    gc.collect()  # stores that an earlier command has opened
    task, _ = example_task(folder, *OVERRIDES)
    context = replace(context)
    trained = train.run(task, context)
    scored = evaluate.run(task, context)
    weights = load_checkpoint(checkpoint_path(context.folder, BEST)).tensors
    return digest([trained.metrics, scored.metrics, weights])


def run_phases(folder: Path, context: Context, target: Target, flips: int, seed: int) -> bool:
    """Run train and evaluate on a copy of the job whose file has a flipped bit; whether each stops or is equal."""
    expected = result_of(folder, context)
    outcomes: Counter[str] = Counter()
    kept = folder.parent / "kept"
    shutil.copytree(folder, kept, symlinks=True)
    for bit in target.draw(flips, seed):
        for name in ("train.json", "evaluate_val/metrics.json"):  # so that both phases have work
            (context.folder / name).unlink()
        with flipped(target.path, bit):
            try:
                outcome = "equal" if result_of(folder, context) == expected else "used"
            except DinolithError:
                outcome = "stopped"
        outcomes[outcome] += 1
        shutil.rmtree(folder)
        shutil.copytree(kept, folder, symlinks=True)
    shutil.rmtree(kept)
    counts = "".join(f"{outcomes[name]:>10}" for name in ("stopped", "equal", "used"))
    print(f"{target.name:<28}{flips:>18}{counts}", flush=True)
    return not outcomes["used"]


def compare(folder: Path, options: argparse.Namespace) -> bool:
    """Flip bits of every kind of file; whether none was used."""
    job = folder / "job"
    job.mkdir()
    context = make_job(job)
    targets = list_targets(job, context.folder)
    print(f"{'file':<28}{'bytes':>10}{'flips':>8}{'found':>10}{'harmless':>10}{'used':>10}{'crash':>10}")
    fine = [flip_many(target, options.flips, options.seed) for target in targets]
    print(f"\n{'train and evaluate on':<28}{'flips':>18}{'stopped':>10}{'equal':>10}{'used':>10}")
    for target in targets:
        if target.name in ("checkpoint", "its description, in it", "training state", "shard", "manifest"):
            fine.append(run_phases(job, context, target, options.runs, options.seed + 1))
    print("\nnone of the flips was used" if all(fine) else "\nFLIPPED BITS WERE USED")
    return all(fine)


def main() -> None:
    """Read the arguments and flip bits in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=2000, help="bits of each file")
    parser.add_argument("--runs", type=int, default=10, help="bits of each file on which whole phases are run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None, help="disk to work on; the system's temporary folder")
    options = parser.parse_args()
    quiet_libraries()
    print(machine_line())
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        fine = compare(Path(name), options)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
