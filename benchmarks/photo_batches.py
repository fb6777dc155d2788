"""How much faster a set of photos is scored in batches that cross its photos than one photo at a time.

    python -m benchmarks.photo_batches --backbone /models/dinov2-small
    python -m benchmarks.photo_batches --quick      # a small backbone and ten photos: does it run?

Both sides are the scoring of evaluate on the same photos, each of one window of 518 pixels, with the same model: stored
features and a head (`cached`), then backbone and head (`online`). Batch sizes take turns. A ratio above 1 says by how
much the larger batch is faster; the share of threads, queues and readers that each photo costs is in both.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch

from benchmarks.workbench import (
    SIDE,
    TINY,
    VIT_SMALL,
    machine_line,
    make_task,
    median_ratio,
    quiet_libraries,
    random_backbone,
    take_turns,
    verdict,
    write_scene,
)
from tasks.phases import prepare
from tasks.phases.prediction import score
from tasks.prepared import prepared_items
from tasks.stores import open_store

GOAL = 1.0  # never slower; on an accelerator, or with a small head, much faster


class Photos:
    """A prepared set of photos and an untrained model, scored at any batch size."""

    def __init__(self, folder: Path, backbone: str, count: int, head: str, side: int):
        for index in range(count):
            write_scene(folder, side, side, seed=index, name=f"photo_{index:03d}")
        lists = {split: folder / f"{split}.txt" for split in ("train", "val")}
        lists["train"].write_text("photo_000\n")
        lists["val"].write_text("".join(f"photo_{index:03d}\n" for index in range(1, count)))
        named = f"dataset.splits={{train_list: {lists['train']}, val_list: {lists['val']}}}"
        self.task, self.context = make_task(folder, backbone, named, f"model.head={head}", side=side)
        prepare.run(self.task, self.context)
        self.store = open_store(self.task.settings, "train")
        self.prepared = prepared_items(self.task, self.store, "val", "benchmark")
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = self.task.build_model().to(self.device).eval()
        assert self.task.features.backbone is not None  # loaded now, not inside the clock

    def score(self, features: str, batch_size: int) -> float:
        """Score all photos."""
        store = self.store if features == "cached" else None
        scores = score(self.task, self.model, self.prepared, store, self.device, batch_size, self.context)
        return float(scores["mIoU"])


def main() -> None:
    """Measure both ways and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", help="folder or id; without it, random weights of the shape of ViT-S")
    parser.add_argument("--photos", type=int, default=101, help="of which the first trains")
    parser.add_argument("--head", default="linear")
    parser.add_argument("--batch-size", type=int, default=8, help="compared with 1")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(options.threads)
    print(machine_line())
    with tempfile.TemporaryDirectory() as name:
        backbone = random_backbone(options.backbone, Path(name), TINY if options.quick else VIT_SMALL)
        count, side = (11, 56) if options.quick else (options.photos, SIDE)
        photos = Photos(Path(name), backbone, count, options.head, side)
        for features in ("cached", "online"):
            sizes = (1, options.batch_size)
            found = {size: photos.score(features, size) for size in sizes}  # also a warm-up
            assert abs(found[1] - found[options.batch_size]) < 1e-3, found
            sides = {str(size): partial(photos.score, features, size) for size in sizes}
            seconds = take_turns(sides, options.repeats)
            ratio = median_ratio(seconds["1"], seconds[str(options.batch_size)])
            best = min(wall for wall, _ in seconds[str(options.batch_size)])
            print(f"{features}: {(count - 1) / best:.1f} photos per s at batch {options.batch_size}, ", end="")
            print(verdict(f"batch {options.batch_size} over 1", ratio, GOAL, at_least=True))


if __name__ == "__main__":
    main()
