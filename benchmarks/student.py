r"""What a small backbone is worth: how much of the way from a random one of its shape to its teacher it goes.

    python -m benchmarks.student --student models/embedded --teacher /models/dinov2-small --seeds 1 2 3 \
        --maps docs/configs/geo_buildings.yml paths.data_root=/data/geo_buildings \
        --pose docs/configs/kp_openfield.yml paths.data_root=/data/kp_openfield train.epochs=20

Maps: a linear probe of the tokens of four even blocks, fitted to cells of the training windows, scored on val: mIoU and
the IoU of the last class. Pose: the settings' head, trained with each backbone alike. A seed chooses the random
weights, the cells that the probe is fitted to, how the head begins, and the split where the settings name none.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks import accuracy, pose_accuracy
from config import Settings, load_settings
from models.backbones.random_backbone import write_backbone_folder
from models.backbones.weights import (
    FAMILIES,
    build_config,
    find_backbone_folder,
    quiet_transformers,
    read_normalization,
)
from tasks import kinds
from tasks.phases import load_phase
from tasks.phases.prediction import score
from tasks.prepared import PreparedReader, prepared_items
from tasks.probe import fit_probe
from tasks.runs import set_up_machine
from tasks.stores import open_store
from utils.logging import VerbosityLogger
from utils.report.tables import format_table
from utils.runtime.files import read_json

LOG = VerbosityLogger("error")
MOST_CELLS = 50_000  # fewer than there are, so that seeds fit the probe to others
POSE_SCORES = pose_accuracy.SHOWN[:4]
BACKBONES = ("random", "student", "teacher")


def write_random_twin(student: str, folder: Path, seed: int) -> str:
    """Write a backbone of the student's shape with the weights that a training begins with."""
    import transformers

    source = find_backbone_folder(student)
    config = read_json(source / "config.json")
    family = str(config["model_type"])
    torch.manual_seed(seed)
    with quiet_transformers():
        model = getattr(transformers, f"{FAMILIES[family].prefix}Model")(build_config(source, family, config))
    weights = {name: parameter.detach().half().numpy() for name, parameter in model.named_parameters()}
    normalization = read_normalization(student, source, config)
    return str(write_backbone_folder(folder / f"random_{seed}", config, weights, normalization))


def with_backbone(words: Sequence[str], source: str) -> Settings:
    """Read settings, a file and overrides, with another backbone and four even blocks of it."""
    chosen = [f"model.backbone={source}", "model.layers=null", "model.dino_channels=null"]
    return load_settings(words[0], [*words[1:], *chosen], kinds())


def measure_maps(words: Sequence[str], source: str, seed: int) -> list[float]:
    """Fit a linear probe; gives mIoU on val and the IoU of the last class."""
    settings = with_backbone([*words, "dataset.augmentations.enable=false"], source)
    set_up_machine(settings.shared.resources)
    task, context = accuracy.make_task(settings, "linear", seed, LOG)
    load_phase("prepare")(task, context)
    store = open_store(task.settings, "train")
    train, val = (prepared_items(task, store, split, "student") for split in ("train", "val"))
    probe = fit_probe(task, PreparedReader(task, store, train), most=MOST_CELLS, seed=seed)
    with torch.no_grad():
        scores = score(task, probe, val, store, "cpu", 8, context)
    return [scores["mIoU"], scores["per_class"][task.classes[-1]]["IoU"]]  # type: ignore[attr-defined]


def measure_pose(words: Sequence[str], source: str, seed: int, runs: Path) -> list[float]:
    """Train the head of the settings; gives PCK and the mean error on val."""
    settings = with_backbone([*words, f"paths.runs_root={runs}"], source)
    set_up_machine(settings.shared.resources)
    head = next(iter(settings.tasks.values())).model.head
    assert head is not None
    return pose_accuracy.measure(settings, head, seed, LOG)[1 : 1 + len(POSE_SCORES)]


def main() -> None:
    """Measure the teacher, the student and its random twin with every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--maps", nargs="+", default=[], metavar="WORD", help="settings file and overrides")
    parser.add_argument("--pose", nargs="+", default=[], metavar="WORD", help="settings file and overrides")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=BACKBONES, help="to split the work")
    options = parser.parse_args()
    header = ["mIoU", "IoU of the last class"] * bool(options.maps) + list(POSE_SCORES) * bool(options.pose)
    if not header:
        parser.error("name settings after --maps, --pose or both")
    found: dict[str, list[list[float]]] = {name: [] for name in options.backbones}
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            twin = write_random_twin(options.student, Path(folder), seed)
            for name, source in zip(BACKBONES, (twin, options.student, options.teacher), strict=True):
                if name not in found:
                    continue
                values = measure_maps(options.maps, source, seed) if options.maps else []
                values += (
                    measure_pose(options.pose, source, seed, Path(folder) / "runs" / f"{name}_{seed}")
                    if options.pose
                    else []
                )
                found[name].append(values)
                print(f"{name}, seed {seed}:", *(f"{value:.4f}" for value in values), flush=True)
    means = {name: np.mean(values, axis=0) for name, values in found.items()}
    rows = [[f"{name}, mean", *means[name].tolist()] for name in found]
    if len(found) == len(BACKBONES):
        better = np.array([-1 if "error" in name else 1 for name in header])
        gap = better * (means["teacher"] - means["random"])
        won = better * (means["student"] - means["random"])
        closed = np.where(gap > 0, won / np.where(gap > 0, gap, 1), np.nan)  # a random one that is ahead leaves no gap
        rows.append(["share of the gap closed", *closed.tolist()])
    print(format_table(["Backbone", *header], rows))


if __name__ == "__main__":
    main()
