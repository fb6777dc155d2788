r"""Boxes from about a hundred photos: every detection head and a plain rival, fold by fold, through the house's phases.

    python -m benchmarks.detection --data /data/photo_coco --backbone /models/dinov2-small --minutes 10 \
        --heads dense centre --folds 0 1 2 3 --threads 2
    python -m benchmarks.detection --data /data/photo_coco --backbone /models/dinov2-small --heads dense \
        --change "no second look: model.head_options={refine: false}" --change "whole photos: detection.windows=0"
    python -m benchmarks.detection --trees /data/det_trees --backbone /models/dinov2-small
    python -m benchmarks.detection --data /data/photo_coco --backbone /models/dinov2-small --memorise 8
    python -m benchmarks.detection --data /data/photo_coco --backbone embedded --quick     # does it run?
    python -m benchmarks.detection --data /data/photo_coco --backbone /models/dinov2-small --online --repeats 1
    python -m benchmarks.detection --forward --backbone /models/dinov2-small    # seconds of heads and backbone

`--data` is a folder with `images` and YOLO rows (`--labels` names their folder, `--names` the yaml with the classes).
A fold's validation is 28 photos by name: fold k has those from 28 k on. Features are computed once for all of them.
The epochs of a training are those that fit into `--minutes`, by the time that one epoch takes; `--epochs` sets them.
Every row is what `evaluate` reports for the best checkpoint of a training without looking at validation: the last one.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import torch
import yaml

from benchmarks.epochs import time_epoch
from benchmarks.workbench import VIT_SMALL, machine_line, quiet_libraries, random_backbone, take_turns, verdict
from config import parse_settings
from models import HEADS, build_head
from models.backbone import load_backbone
from models.base import FeatureSpec
from tasks import kinds, load_task
from tasks.context import Context
from tasks.phases import load_phase
from tasks.phases.train import Training
from tasks.prepared import prepared_items
from tasks.stores import open_store
from tasks.task import Task
from utils.logging import VerbosityLogger
from utils.report.tables import format_table
from utils.runtime.files import read_json

VAL_PHOTOS = 28
EPOCH_GOAL = 4.0
SHOWN = ("AP", "AP50", "AP75", "AP_small", "AR_100")
HEADS["detection"]["centre"] = "benchmarks.centre_head:CentreHead"

SETTINGS = """
resources: {{device: cpu, omp_threads: {threads}, seed: {seed}}}
paths: {{data_root: {data}, label_path: {labels}, processed_dir: {work}/store, runs_root: {work}/runs,
  splits_dir: {work}/splits}}
dataset: {{splits: {{train_list: {work}/splits/{fold}_train.txt, val_list: {work}/splits/{fold}_val.txt}},
  augmentations: {{enable: true, vflip: false, rotate90: false, stored_views: 2}}}}
model: {{backbone: {backbone}, layers: [5, 8, 11], head: {head}}}
detection: {{shortest_edge: 476, longest_edge: 840, windows: 2, suppression: soft, min_score: 0.01}}
prepare: {{enable: true}}
train: {{enable: true, epochs: {epochs}, val_every: {epochs}, batch_size: 8, optimizer: adamw, adamw_lr: 1.0e-3,
  weight_decay: 0.05, ema_decay: 0.995, schedule: cosine, precision: auto}}
evaluate: {{enable: true, pictures: 0, split: {split}}}
tasks: {{{fold}: {{kind: detection}}}}
"""


class Fold(NamedTuple):
    """Which pictures are learnt, and which are scored."""

    name: str
    data: Path
    labels: str
    train: list[str]
    val: list[str]
    changes: tuple[str, ...] = ()


class Bench:
    """One folder with the features of all folds, and the settings of each training."""

    def __init__(self, work: Path, options: argparse.Namespace):
        self.work, self.options = work, options
        self.log = VerbosityLogger(options.log)

    def make(self, fold: Fold, head: str, seed: int, epochs: int, changes: list[str]) -> tuple[Task, Context]:
        """A task of a fold, and a run's folder of its own."""
        lists = {"train": fold.train, "val": fold.val}
        for split, names in lists.items():
            path = self.work / "splits" / f"{fold.name}_{split}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(f"{name}\n" for name in names))
        text = SETTINGS.format(
            threads=torch.get_num_threads(),
            seed=seed,
            data=fold.data,
            labels=fold.labels,
            work=self.work,
            fold=fold.name,
            backbone=self.options.backbone,
            head=head,
            epochs=epochs,
            split="train" if self.options.memorise else "val",
        )
        settings = parse_settings(text, [*fold.changes, *self.options.set, *changes], kinds()).tasks[fold.name]
        run = f"{head}_{seed}_{epochs}_{crc32(';'.join([*self.options.set, *changes]).encode()):08x}"
        return load_task(settings.kind)(fold.name, settings), Context(self.log, self.work / "runs" / fold.name / run)

    def make_training(self, fold: Fold, head: str, changes: list[str]) -> Training:
        """A training of a prepared fold, before its first step."""
        task, context = self.make(fold, head, 0, 1000, changes)
        task.setup()
        store = open_store(task.settings, "train")
        train, val = (prepared_items(task, store, split, "benchmark") for split in ("train", "val"))
        task.objective.fit_statistics([entry for item in train for entry in item.entries])
        return Training(task, context, store, train, val, "benchmark")

    def choose_epochs(self, fold: Fold, head: str, changes: list[str]) -> int:
        """As many as fit into the minutes, by the time of the second epoch; the first one warms up."""
        if self.options.epochs:
            return self.options.epochs
        training = self.make_training(fold, head, changes)
        seconds = [time_epoch(training)["total"] * len(training.reader.entries) for _ in range(2)]
        return max(1, int(60 * self.options.minutes / seconds[1]))

    def compare_epochs(self, fold: Fold, head: str) -> None:
        """Seconds of an epoch with stored features and with computed ones, in turns."""
        load_phase("prepare")(*self.make(fold, head, 0, 1, []))
        sides = {name: self.make_training(fold, head, [f"train.features={name}"]) for name in ("cached", "online")}
        time_epoch(sides["cached"])
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(self.options.repeats):
            for name, training in sides.items():
                seconds[name].append(time_epoch(training)["total"])
        cached, online = (statistics.median(seconds[name]) for name in sides)
        print(f"{head}: {1000 * cached:.0f} ms per sample cached, {1000 * online:.0f} computed")
        text = f"{head}: epoch with features computed over cached epoch"
        print(verdict(text, online / cached, EPOCH_GOAL, at_least=True), flush=True)

    def measure(self, fold: Fold, head: str, seed: int, label: str, changes: list[str]) -> list[Any]:
        """Train a head and score it; gives a row of the table."""
        load_phase("prepare")(*self.make(fold, head, seed, 1, changes))
        epochs = self.choose_epochs(fold, head, changes)
        task, context = self.make(fold, head, seed, epochs, changes)
        started = time.perf_counter()
        load_phase("train")(task, context)
        minutes = (time.perf_counter() - started) / 60
        load_phase("evaluate")(*self.make(fold, head, seed, epochs, changes))
        (path,) = context.folder.glob("evaluate_*/metrics.json")
        scores = read_json(path)["metrics"]
        row = [label, fold.name, seed, *(scores.get(name, float("nan")) for name in SHOWN), epochs, minutes]
        print(*(f"{cell:.3f}" if isinstance(cell, float) else cell for cell in row), flush=True)
        return row


def lay_photos(work: Path, options: argparse.Namespace) -> tuple[Path, list[str]]:
    """A YOLO folder with links to the photos and their rows; gives it and the names of the photos."""
    data = Path(options.data)
    folder = work / "photos"
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)  # of an earlier run in --work
    photos = sorted(path for path in (data / "images").rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if options.quick:
        photos = photos[:12]
    rows = {path.stem: path for path in (data / options.labels).rglob("*.txt")}
    for photo in photos:
        link = folder / "images" / photo.name
        link.unlink(missing_ok=True)
        link.symlink_to(photo.resolve())
        if photo.stem in rows:
            shutil.copy2(rows[photo.stem], folder / "labels" / f"{photo.stem}.txt")
    names = yaml.safe_load((data / options.names).read_text())["names"]
    (folder / "data.yaml").write_text(yaml.safe_dump({"path": ".", "train": "images", "names": names}))
    return folder, [photo.stem for photo in photos]


def photo_folds(work: Path, options: argparse.Namespace) -> list[Fold]:
    """The folds that are asked for, or one that is memorised."""
    folder, names = lay_photos(work, options)
    classes = (f"dataset.classes=[{options.classes}]",) if options.classes else ()
    count = 4 if options.quick else VAL_PHOTOS
    if options.memorise:
        chosen = [name for name in names if (folder / "labels" / f"{name}.txt").exists()][: options.memorise]
        rest = [name for name in names if name not in chosen][:count]
        still = ("dataset.augmentations.enable=false", "detection.windows=0", *classes)
        return [Fold("memorised", folder, "data.yaml", chosen, rest, still)]
    folds = []
    for index in options.folds:
        val = names[index * count : (index + 1) * count]
        train = [name for name in names if name not in val]
        folds.append(Fold(f"fold_{index}", folder, "data.yaml", train, val, classes))
    return folds


def tree_folds(work: Path, options: argparse.Namespace) -> list[Fold]:
    """Each of the pictures of trees that have boxes enough is left out once; all names of classes are one."""
    folder = work / "trees"
    folder.mkdir(exist_ok=True)  # of an earlier run in --work
    names = []
    for path in sorted(Path(options.trees).glob("*.xml")):
        names.append(path.stem)
        shutil.copy(path, folder)
        shutil.copy(path.with_suffix(".png"), folder)
    same = ("dataset.label_mapping={'*': Tree}", "dataset.augmentations.vflip=true", "detection.format=voc")
    return [
        Fold(f"without_{name[:9]}", folder, ".", [other for other in names if other != name], [name], same)
        for name in names
    ]


def print_forward(work: Path, options: argparse.Namespace) -> None:
    """Seconds of each head's forward and backward beside the backbone's forward, on one picture of 476 x 644 pixels."""
    source = random_backbone(options.backbone, work, VIT_SMALL)
    backbone = load_backbone(source, [5, 8, 11], precision="fp32")
    info = backbone.info
    spec = FeatureSpec(info.channels, info.strides, info.patch_size, 3, info.mean, info.std)
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, 3, 476, 644), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        maps = backbone(image)
    low = torch.rand(8, 2, generator=generator) * torch.tensor([400.0, 300.0])
    objects = torch.cat([low, low + 60 + 100 * torch.rand(8, 2, generator=generator)], dim=1)
    target = {
        "boxes_xyxy": [objects],
        "labels": [torch.zeros(8, dtype=torch.int64)],
        "is_crowd": [torch.zeros(8, dtype=torch.bool)],
    }
    rows = []
    for name in options.heads:
        dearest = {"refine_from": 0.0} if name == "dense" else {}  # else random weights would leave nothing to look at
        head = build_head("detection", name, spec, 1, dearest)

        def look(head: Any = head) -> None:
            with torch.no_grad():
                head.eval()(maps, image)

        def learn(head: Any = head) -> None:
            outputs = head.train()(maps, image, None, target)
            terms, counts, weights = head.losses(outputs, target, 0.0), head.counts_of(target), head.loss_weights()
            pairs = {key: value if isinstance(value, tuple) else (value, counts[key]) for key, value in terms.items()}
            loss = sum(weights[key] * value / max(float(count), 1) for key, (value, count) in pairs.items())
            loss.backward()

        def see() -> None:
            with torch.no_grad():
                backbone(image)

        for function in (look, learn, see):
            function()
        seconds = take_turns({"backbone": see, "forward": look, "both": learn}, options.repeats)
        medians = {key: statistics.median(cpu for _, cpu in pairs) for key, pairs in seconds.items()}
        with torch.no_grad():
            boxes = head.eval()(maps, image)["boxes_xyxy"].shape[1]
        parts = (1000 * medians[key] for key in ("forward", "both", "backbone"))
        rows.append([name, head.num_parameters, boxes, *parts])
    print(
        "CPU milliseconds of all threads, fp32; every box that `dense` may look at again is looked at: the dearest case"
    )
    print(format_table(["Head", "parameters", "boxes", "forward", "training step", "backbone"], rows))


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of photos and their YOLO rows")
    parser.add_argument("--labels", default="object_detection/labels", help="folder of the rows, in --data")
    parser.add_argument("--names", default="object_detection/config.yaml", help="yaml with the classes, in --data")
    parser.add_argument("--classes", default="person", help="names, with commas between them; empty takes all")
    parser.add_argument("--trees", help="folder of pictures with VOC xml, each of which is left out once")
    parser.add_argument("--online", action="store_true", help="only an epoch with computed features over a stored one")
    parser.add_argument("--forward", action="store_true", help="only the seconds of heads and backbone")
    parser.add_argument("--backbone", default=None, help="folder of a ViT-S")
    parser.add_argument("--heads", nargs="+", default=["dense", "centre"])
    parser.add_argument("--folds", nargs="+", type=int, default=[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--minutes", type=float, default=10, help="of each training, by the time of an epoch")
    parser.add_argument("--epochs", type=int, default=None, help="of each training, in place of minutes")
    parser.add_argument(
        "--change", action="append", default=[], help="'LABEL: key.path=value;key.path=value', a training more"
    )
    parser.add_argument("--set", nargs="+", default=[], help="key.path=value, for all trainings")
    parser.add_argument("--memorise", type=int, default=0, help="train on so many photos, and score these")
    parser.add_argument("--work", help="folder to keep features and runs in; a temporary one when not given")
    parser.add_argument("--threads", type=int, default=None, help="as PyTorch chooses when not given")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="twelve photos, one epoch; the scores mean nothing")
    parser.add_argument("--log", default="error", choices=["error", "info"])
    options = parser.parse_args()
    quiet_libraries()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.quick:
        options.epochs, options.classes = options.epochs or 1, ""  # few of so few photos show a person
    print(machine_line(), f"threads {torch.get_num_threads()}")
    with tempfile.TemporaryDirectory() as name:
        work = Path(options.work or name)
        work.mkdir(exist_ok=True)
        if options.forward:
            return print_forward(work, options)
        bench = Bench(work, options)
        folds = tree_folds(work, options) if options.trees else photo_folds(work, options)
        if options.online:
            for head in options.heads:
                bench.compare_epochs(folds[0], head)
            return None
        kept = [("", [])] + [
            (label.strip(), rest.strip().split(";"))
            for label, _, rest in (text.partition(":") for text in options.change)
        ]
        rows = [
            bench.measure(fold, head, seed, f"{head} {label}".strip(), changes)
            for head in options.heads
            for label, changes in kept
            for fold in folds
            for seed in options.seeds
        ]
    for label in dict.fromkeys(row[0] for row in rows):
        values = np.array([row[3:] for row in rows if row[0] == label], float)
        rows.append([label, "mean", "", *np.nanmean(values, axis=0).tolist()])
    print(format_table(["Head", "fold", "seed", *SHOWN, "epochs", "minutes"], rows))


if __name__ == "__main__":
    main()
