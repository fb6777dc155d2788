"""Peak memory of training steps of each head, by windows per step, for the table in docs/operations.md.

    python -m benchmarks.memory                       # ViT-S maps of windows of 518 pixels, on the CPU
    python -m benchmarks.memory --heads dpt --batch-sizes 1 2 4 8

Each cell is the highest resident memory of a process of its own (`VmHWM` of /proc) that has made two steps: forward,
cross entropy at image size, backward. It holds Python, torch and the libraries (the first line says how much), the maps
of one batch and everything that the step keeps; the backbone is not in it, since stored features need none.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.heads import SPEC, make_crops, train_step
from models import HEADS, build_head


def peak_mb() -> float:
    """Highest resident memory of this process so far, in MB.

    Examples
    --------
    >>> 50 < peak_mb() < 100_000
    True
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


def make_steps(head: str, batch_size: int, side: int) -> float:
    """Make two training steps, none for the head `none`; gives the peak of this process in MB.

    Examples
    --------
    >>> 0 < make_steps("none", 1, 28) <= make_steps("linear", 1, 28)
    True
    """
    if head != "none":
        model = build_head("segmentation", head, SPEC, 2, {})
        crops = make_crops(batch_size, side)
        for _ in range(2):
            train_step(model, *crops, autocast=False)
    return peak_mb()


def measure(head: str, batch_size: int, side: int) -> int:
    """Peak in MB of a process of its own.

    Examples
    --------
    >>> 100 < measure("none", 1, 28) < 5000
    True
    """
    command = [sys.executable, "-m", "benchmarks.memory", "--worker", head, str(batch_size), str(side)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    """Print the table.

    Examples
    --------
    >>> main.__name__  # runs for a minute, so it is not run here
    'main'
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", nargs="+", default=sorted(HEADS["segmentation"]))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--side", type=int, default=518, help="pixels per side of a window")
    parser.add_argument("--worker", nargs=3, metavar=("HEAD", "BATCH", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(2)
    if options.worker:
        head, batch_size, side = options.worker
        print(f"{make_steps(head, int(batch_size), int(side)):.0f}")
        return
    print(f"imports alone: {measure('none', 1, options.side)} MB")
    print(f"{'head':<12}" + "".join(f"{f'batch {size}':>12}" for size in options.batch_sizes))
    for head in options.heads:
        cells = [measure(head, size, options.side) for size in options.batch_sizes]
        print(f"{head:<12}" + "".join(f"{cell:>9} MB" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
