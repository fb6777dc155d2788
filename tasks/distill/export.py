"""Export of a student: weights, configuration and model card, as a folder that `model.backbone` accepts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from models.backbone import load_backbone
from models.backbones.info import BackboneInfo
from models.backbones.random_backbone import write_backbone_folder
from models.backbones.student import Student, count_multiply_adds
from models.backbones.weights import find_backbone_folder, read_json_object
from tasks.belief import sentence
from tasks.distill.metric import closed_gap
from tasks.distill.settings import CardConfig, DistillSettings
from utils.errors import DataError, DinolithError
from utils.report.tables import format_table, read_csv
from utils.runtime.checkpoints import Checkpoint
from utils.runtime.files import read_json

CARD_TITLE = "A small backbone"  # begins the card of every export
FILES = ("README.md", "config.json", "model.safetensors", "preprocessor_config.json")
SIDES = (224, 518)  # pixels of the pictures for which the card states the cost
MOST_DIFFERENCE = 0.01  # of maps from rounded weights, relative to their size: float16 keeps three digits


def export_student(
    settings: DistillSettings, teacher: BackboneInfo, student: Student, folder: Path, checkpoint: Checkpoint
) -> list[Path]:
    """Write a student as a folder that `model.backbone` accepts, and check that it loads and gives the same maps.

    Parameters
    ----------
    settings : DistillSettings
        Of the distillation.
    teacher : BackboneInfo
        The backbone that it was trained on.
    student : Student
        With trained weights.
    folder : Path
        Where to write; other files in it are an error.
    checkpoint : Checkpoint
        Of the student; the results of the run are in the folder above it.

    Returns
    -------
    list of Path
        The files. The same run gives the same bytes.

    Raises
    ------
    DataError
        If the folder holds other files.
    DinolithError
        If the maps of the exported weights differ too much from those of the student.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.distill.example import student_example
    >>> task, context = student_example(tempfile.mkdtemp())
    >>> checkpoint = Checkpoint({}, {}, context.folder / "checkpoints/best.safetensors")
    >>> folder, student = context.folder / "export", task.build_model().student
    >>> paths = export_student(task.settings, task.features.info, student, folder, checkpoint)
    >>> load_backbone(str(folder), [0, 1]).info.licence
    'unknown'
    """
    refuse_foreign(folder)
    normalization = (student.backbone.info.mean, student.backbone.info.std)
    card = write_card(settings, teacher, student, checkpoint)
    write_backbone_folder(folder, student.config, student.tensors(), normalization, card, state_digest=True)
    difference = largest_difference(student, folder)
    if not difference < MOST_DIFFERENCE:
        raise DinolithError(
            f"export: {folder} gives maps that differ from the student's by {difference:.3g} of their size; train with "
            "a smaller train.muon_lr, as these weights do not survive float16"
        )
    return [folder / name for name in FILES]


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder with files that an export does not write, or with a backbone that no export made.

    Raises
    ------
    DataError
        If there is such a file.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> refuse_foreign(folder)
    >>> (folder / "thesis.tex").touch()
    >>> refuse_foreign(folder)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../thesis.tex: does not belong to an exported backbone; name another folder in \
export.output_dir
    """
    others = sorted(path for path in folder.iterdir() if path.name not in FILES) if folder.is_dir() else []
    card = folder / "README.md"
    if not others and (folder / "config.json").exists():  # a downloaded backbone has files of the same names
        made_here = card.is_file() and CARD_TITLE in card.read_text(encoding="utf-8", errors="replace")
        others = [] if made_here else [folder / "config.json"]
    if others:
        raise DataError(
            f"{others[0]}: does not belong to an exported backbone; name another folder in export.output_dir"
        )


def largest_difference(student: Student, folder: Path) -> float:
    """Compare the maps of an exported folder with the student's on a picture of noise, relative to their size.

    Both compute in float32, so that only the rounding of the weights shows.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.distill.example import student_task
    >>> student = student_task().build_model().student
    >>> info = student.backbone.info
    >>> folder = write_backbone_folder(tempfile.mkdtemp(), student.config, student.tensors(), (info.mean, info.std))
    >>> 0 <= largest_difference(student, folder) < 0.01
    True
    """
    info = student.backbone.info
    side = 4 * info.patch_size
    noise = np.random.default_rng(0).integers(0, 256, (1, 3, side, 2 * side), dtype=np.uint8)
    images = torch.from_numpy(noise)
    loaded = load_backbone(str(folder), info.layers, device=student.backbone.device, precision="fp32")
    student.compute_in("fp32")
    with torch.no_grad():
        pairs = list(zip(loaded(images), student.backbone(images), strict=True))
    student.compute_in(info.precision_in_use)
    return max(float((ours - theirs).norm() / theirs.norm().clamp(min=1e-12)) for ours, theirs in pairs)


# --- the card --------------------------------------------------------------------------------------------------------


def write_card(settings: DistillSettings, teacher: BackboneInfo, student: Student, checkpoint: Checkpoint) -> str:
    """Write the model card: architecture, teacher, licences, pictures, training and scores.

    Examples
    --------
    >>> from tasks.distill.example import student_task
    >>> task = student_task("distill.card.licence=apache-2.0")
    >>> checkpoint = Checkpoint({}, {"epoch": 1}, Path("/no/run/checkpoints/best.safetensors"))
    >>> card = write_card(task.settings, task.features.info, task.build_model().student, checkpoint)
    >>> card.splitlines()[1], [line[3:] for line in card.splitlines() if line.startswith("## ")]
    ('license: apache-2.0', ['What it is', 'Licence', 'Pictures', 'Training', 'Scores'])
    """
    run = checkpoint.path.parent.parent
    licence = settings.distill.card.licence or teacher.licence
    parts = [
        f"---\nlicense: {licence}\nlibrary_name: transformers\npipeline_tag: image-feature-extraction\n---",
        f"# {CARD_TITLE}, distilled",
        f"It reproduces the dense features of {public_name(teacher.id)} at a fraction of the cost. Made by Dinolith, "
        "task of kind distill. Name this folder in `model.backbone`.",
        "## What it is",
        describe_student(teacher, student),
        "## Licence",
        describe_licence(licence, settings.distill.card, teacher),
        "## Pictures",
        describe_pictures(settings.distill.card, settings.paths.raw_images_dir),
        "## Training",
        describe_training(settings, checkpoint, run),
        "## Scores",
        describe_scores(checkpoint, run),
    ]
    return "\n\n".join(parts) + "\n"


def describe_licence(licence: str, card: CardConfig, teacher: BackboneInfo) -> str:
    """Licences of the weights, the teacher and the training pictures.

    Examples
    --------
    >>> from tasks.distill.example import student_task
    >>> teacher = student_task().features.info
    >>> text = describe_licence("apache-2.0", CardConfig(origin="drawn at random"), teacher)
    >>> text.startswith("The weights: apache-2.0. The teacher, "), f"(digest {teacher.digest}): drawn at" in text
    (True, True)
    """
    return (
        f"The weights: {licence}. The teacher, {public_name(teacher.id)} (digest "
        f"{teacher.digest}): {card.origin or teacher.licence}. The training pictures have other licences, see below."
    )


def public_name(source: str) -> str:
    """Name a backbone or file without its folder on this machine.

    Examples
    --------
    >>> public_name("/data/models/dinov2-small"), public_name("facebook/dinov2-small")
    ('dinov2-small', 'facebook/dinov2-small')
    """
    path = Path(source)
    return path.name if path.is_absolute() or source.startswith((".", "~", "$")) else source


def describe_student(teacher: BackboneInfo, student: Student) -> str:
    """Table of architecture, size and cost.

    Examples
    --------
    >>> from tasks.distill.example import student_task
    >>> task = student_task()
    >>> table = describe_student(task.features.info, task.build_model().student)
    >>> table.splitlines()[6:8]
    ['| student block: teacher block | 0: 0, 1: 1 |', '| initialised from | random weights |']
    """
    info, config = student.backbone.info, student.config
    size = sum(parameter.numel() for parameter in student.backbone.model.parameters())
    shape = {key: value for key, value in config.items() if key in SHAPE}
    rows = [
        ["architecture", f"{info.family}: " + ", ".join(f"{SHAPE[key]} {value}" for key, value in shape.items())],
        ["parameters", f"{size / 1e6:.2f} M, {2 * size / 1e6:.1f} MB in float16"],
    ]
    teacher_config = read_json_object(find_backbone_folder(teacher.id) / "config.json")
    for side in SIDES:
        cost = count_multiply_adds(info.family, config, (side, side))
        full = count_multiply_adds(teacher.family, teacher_config, (side, side))
        text = f"{cost / 1e9:.2f} G multiply-adds, {full / cost:.1f} times fewer than the teacher's {full / 1e9:.2f} G"
        rows.append([f"cost at {side} x {side} pixels", text])
    blocks = zip(student.learners, teacher.layers, strict=True)
    rows.append(["student block: teacher block", ", ".join(f"{block}: {layer}" for block, layer in blocks)])
    inherited = getattr(student.options, "inherit", None)
    initial = f"blocks {', '.join(map(str, inherited))} of the teacher" if inherited else "random weights"
    rows.append(["initialised from", initial])
    rows.append(["normalisation", f"mean {list(info.mean)}, deviation {list(info.std)}"])
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


SHAPE = {
    "patch_size": "patch",
    "hidden_size": "width",
    "num_hidden_layers": "blocks",
    "num_attention_heads": "heads",
    "intermediate_size": "hidden layer",
    "num_register_tokens": "registers",
    "hidden_sizes": "widths",
    "depths": "layers",
}


def describe_pictures(card: CardConfig, sources: str | list[str] | None) -> str:
    """Table of the sets of pictures; without `distill.card.sources` the names of their folders.

    Examples
    --------
    >>> print(describe_pictures(CardConfig(), ["/home/me/reef", "dives/*.jpg"]))
    From: reef, dives/*.jpg. No licence is stated.
    >>> card = CardConfig(sources=[{"name": "reef", "licence": "CC BY 4.0", "pictures": 30}])
    >>> describe_pictures(card, None).splitlines()[-1]
    '| reef | CC BY 4.0 | 30 |'
    """
    if card.sources:
        rows = [f"| {source.name} | {source.licence} | {source.pictures or ''} |" for source in card.sources]
        return "\n".join(["| set | licence | pictures |", "|---|---|---|", *rows])
    listed = [sources] if isinstance(sources, str) else sources or []
    return f"From: {', '.join(map(public_name, listed)) or 'pictures without a name'}. No licence is stated."


def describe_training(settings: DistillSettings, checkpoint: Checkpoint, run: Path) -> str:
    """Settings, time and loss of every epoch.

    Examples
    --------
    >>> from tasks.distill.example import student_task
    >>> checkpoint = Checkpoint({}, {"epoch": 1}, Path("best.safetensors"))
    >>> describe_training(student_task().settings, checkpoint, Path("/no/run")).splitlines()[0]
    'Seed 1337, 1 epochs, checkpoint of epoch 1, batches of 4, crops of 32 pixels at zooms 1, 0.5, resized by 0.8, ...'
    """
    distill, train = settings.distill, settings.train
    zooms, scales = (", ".join(f"{value:g}" for value in values) for values in (distill.zooms, distill.student_scales))
    rates = f"{train.adamw_lr:g}" if train.optimizer == "adamw" else f"{train.muon_lr:g} and {train.adamw_lr:g}"
    terms = ", ".join(f"{name} {weight:g}" for name, weight in distill.loss if weight)
    text = (
        f"Seed {settings.resources.seed}, {train.epochs} epochs, checkpoint of epoch "
        f"{checkpoint.description.get('epoch')}, batches of {train.batch_size}, crops of {distill.crop} pixels at "
        f"zooms {zooms}, resized by {scales}; {train.optimizer} (rate {rates}), moving average {train.ema_decay:g}, "
        f"loss {terms}.\n{describe_time(run)}"
    )
    path = run / "results.csv"
    if not path.is_file():
        return text
    rows = [[row.get(name, "") for name in CURVE] for row in read_csv(path)]
    rounded = [[row[0], *(f"{float(cell):.4f}" if cell else "" for cell in row[1:])] for row in rows]
    return f"{text}\n\n{format_table([name.replace('_', ' ') for name in CURVE], rounded)}"


CURVE = ("epoch", "train_loss", "mean_cosine", "explained_variance")


def describe_time(run: Path) -> str:
    """How long training took, from the times of the files that are written at its start and end.

    Examples
    --------
    >>> import os, tempfile
    >>> run = Path(tempfile.mkdtemp())
    >>> describe_time(run)
    'The training time is not recorded.'
    >>> (run / "run.json").touch()
    >>> describe_time(run)
    'Training is not finished yet.'
    >>> for name, moment in (("run.json", 0), ("train.json", 5400)):
    ...     (run / name).touch()
    ...     os.utime(run / name, (moment, moment))
    >>> describe_time(run)
    'Training took 1.5 hours, interruptions included.'
    """
    start, end = run / "run.json", run / "train.json"
    if not start.is_file():
        return "The training time is not recorded."
    if not end.is_file():
        return "Training is not finished yet."
    hours = max(end.stat().st_mtime - start.stat().st_mtime, 0) / 3600
    return f"Training took {hours:.1f} hours, interruptions included."


def describe_scores(checkpoint: Checkpoint, run: Path) -> str:
    """Scores of each block and of the linear probe, and what speaks against them; without evaluate that of training.

    Examples
    --------
    >>> import tempfile
    >>> checkpoint = Checkpoint({}, {"metrics": {"mean_cosine": 0.5}}, Path("best.safetensors"))
    >>> describe_scores(checkpoint, Path(tempfile.mkdtemp()))
    'Mean cosine with the teacher on the validation crops: 0.5000. Evaluate was not run.'
    """
    paths = sorted(run.glob("evaluate_*/metrics.json"))
    by_split = {path.parent.name.removeprefix("evaluate_"): read_json(path, {}, checksum=True) for path in paths}
    results = by_split.get("val") or next(iter(by_split.values()), None)
    if results is None:
        value = checkpoint.description.get("metrics", {}).get("mean_cosine", float("nan"))
        doubt = sentence("Mean cosine", value, checkpoint.description.get("training", {}).get("belief"))
        text = f"Mean cosine with the teacher on the validation crops: {value:.4f}. Evaluate was not run."
        return f"{text} {doubt}".strip()
    metrics, crops = results["metrics"], {"train": "training", "val": "validation"}.get(results["split"], "test")
    rows = [
        [block, *(scores[name] for name in ("cosine", "raw_cosine", "explained_variance"))]
        for block, scores in metrics["per_block"].items()
    ]
    header = ["teacher's block", "cosine", "cosine, raw channels", "explained variance"]
    text = f"On the {crops} crops, with standardised channels:\n\n{format_table(header, rows)}"
    doubt = sentence("Mean cosine", metrics["mean_cosine"], results.get("belief"))
    text += f"\n\n{doubt}." if doubt else ""
    probe = metrics.get("probe")
    if not probe:
        return text
    return (
        f"{text}\n\nLinear probe on a labelled task, mIoU: teacher {probe['teacher']:.4f}, this student "
        f"{probe['student']:.4f}, a random student of the same shape {probe['random']:.4f}; "
        f"{closed_gap(probe['closed'])} of the gap is closed."
    )
