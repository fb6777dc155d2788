r"""How much faster a set of photos is scored in batches that cross its photos than one photo at a time.

    python -m benchmarks.photo_batches --backbone /models/dinov2-small
    python -m benchmarks.photo_batches docs/configs/photo_underwater.yml paths.data_root=/data/photo_underwater \
        model.backbone=/models/dinov2-small     # the photos and windows of a real set, all of them scored
    python -m benchmarks.photo_batches --quick      # a small backbone and ten photos: does it run?

Both sides are the scoring of evaluate on the same photos with the same untrained model: stored features and a head
(`cached`), then backbone and head (`online`). Without a settings file the photos are drawn, each of one window of 518
pixels. Batch sizes take turns. A ratio above 1 says by how much the larger batch is faster; the share of threads,
queues and readers that each photo costs is in both.
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
from config import load_settings
from tasks import kinds
from tasks.context import Context
from tasks.phases import prepare
from tasks.phases.prediction import score
from tasks.prepared import prepared_items
from tasks.runs import choose_device
from tasks.segmentation.settings import SegmentationSettings
from tasks.segmentation.task import SegmentationTask
from tasks.stores import open_store
from utils.logging import VerbosityLogger

GOAL = 1.0  # never slower; on an accelerator, or with a small head, much faster


def draw_photos(folder: Path, options: argparse.Namespace) -> tuple[SegmentationTask, Context]:
    """A task on drawn photos."""
    count, side = (10, 56) if options.quick else (options.photos, SIDE)
    backbone = random_backbone(options.backbone, folder, TINY if options.quick else VIT_SMALL)
    for index in range(count):
        write_scene(folder, side, side, seed=index, name=f"photo_{index:03d}")
    return make_task(folder, backbone, f"model.head={options.head}", "resources.device=auto", side=side)


def real_photos(folder: Path, options: argparse.Namespace) -> tuple[SegmentationTask, Context]:
    """A task on the photos of a settings file."""
    places = [f"paths.{name}={folder}/{name}" for name in ("processed_dir", "runs_root", "splits_dir")]
    changes = [f"model.head={options.head}", "dataset.augmentations.enable=false", "logging.file=null"]
    loaded = load_settings(options.config, [*places, *changes, *options.overrides], kinds())
    settings = next(iter(loaded.tasks.values()))
    if not isinstance(settings, SegmentationSettings):
        raise SystemExit(f"{options.config}: the first task is of kind {settings.kind}; name settings of segmentation")
    return SegmentationTask("photos", settings), Context(VerbosityLogger("error"), folder / "runs_root" / "bench")


class Photos:
    """A prepared set of photos and an untrained model, scored at any batch size."""

    def __init__(self, task: SegmentationTask, context: Context):
        self.task, self.context = task, context
        prepare.run(self.task, self.context)
        self.store = open_store(self.task.settings, "train")
        self.prepared = [
            item for split in prepare.SPLITS for item in prepared_items(self.task, self.store, split, "benchmark")
        ]
        self.windows = sum(len(item.entries) for item in self.prepared)
        self.device = choose_device(self.task.settings.device("evaluate"))
        self.model = self.task.build_model().to(self.device).eval()
        assert self.task.features.backbone is not None  # loaded now, not inside the clock

    def score(self, features: str, batch_size: int) -> float:
        """Score all photos."""
        store = self.store if features == "cached" else None
        scores = score(self.task, self.model, self.prepared, store, self.device, batch_size, self.context)
        return float(scores["mIoU"])


def compare(photos: Photos, options: argparse.Namespace) -> None:
    """Measure both ways and print ratios."""
    count, large = len(photos.prepared), options.batch_size
    print(f"{count} photos, {photos.windows} windows, head {options.head}, on {photos.device}")
    for features in ("cached", "online"):
        found = {size: photos.score(features, size) for size in (1, large)}  # also a warm-up
        assert abs(found[1] - found[large]) < 1e-3, found
        sides = {str(size): partial(photos.score, features, size) for size in found}
        seconds = take_turns(sides, options.repeats)
        ratio = median_ratio(seconds["1"], seconds[str(large)])
        best = min(wall for wall, _ in seconds[str(large)])
        print(f"{features}: {count / best:.1f} photos per s at batch {large}, ", end="")
        print(verdict(f"batch {large} over 1", ratio, GOAL, at_least=True), flush=True)


def main() -> None:
    """Read the arguments and measure in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", help="settings of a real set; drawn photos when not given")
    parser.add_argument("overrides", nargs="*", help="key.path=value, with a settings file")
    parser.add_argument("--backbone", help="of drawn photos: folder or id; without it, random weights shaped as ViT-S")
    parser.add_argument("--photos", type=int, default=100, help="how many are drawn")
    parser.add_argument("--head", default="linear")
    parser.add_argument("--batch-size", type=int, default=8, help="compared with 1")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a tiny backbone and few drawn photos")
    options = parser.parse_intermixed_args()
    quiet_libraries()
    torch.set_num_threads(options.threads)
    print(machine_line())
    with tempfile.TemporaryDirectory() as name:
        make = real_photos if options.config else draw_photos
        compare(Photos(*make(Path(name), options)), options)


if __name__ == "__main__":
    main()
