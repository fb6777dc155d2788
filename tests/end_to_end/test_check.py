"""`main.py --check` against what the run then does, in all phases of all kinds; it writes nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from main import main
from tasks import example
from tasks.detection import example as boxes
from tasks.distill import example as students
from tasks.example import tiny_backbone
from tasks.keypoints import example as animals
from tests.settings.stage import SMALL, model_of
from utils.runtime.files import FileLock, read_json

ROOT = Path(__file__).parents[2]
WHOLE = ("prepare", "verify", "train", "evaluate")
KINDS = {
    "segmentation": (example.example_task, example.SETTINGS, (*WHOLE, "inference")),
    "animals": (animals.animals_example, animals.SETTINGS, (*WHOLE, "inference")),
    "student": (students.student_example, students.SETTINGS, (*WHOLE, "export")),
}


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder, with the time of its last change and its size."""
    paths = [folder, *folder.rglob("*")]
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in paths}


def check(capsys, folder: Path, *arguments: str) -> dict[str, str]:
    """What --check says of each phase; nothing may be written meanwhile."""
    before = contents(folder)
    assert main([str(folder / "config.yml"), f"logging.file={folder}/run.log", "--check", *arguments]) == 0
    said = capsys.readouterr().out
    assert contents(folder) == before, "nothing is written"
    found = {}
    for line in said.splitlines():
        parts = line.split(": ", 2)
        if (
            len(parts) == 3 and parts[1] in (*WHOLE, "inference", "export") and "to do" in line
        ) or "up to date" in line:
            found[parts[1]] = parts[2]
    return found


def run(folder: Path, *arguments: str) -> dict[str, str]:
    assert main([str(folder / "config.yml"), "logging.level=error", *arguments]) == 0
    rows = read_json(folder / "runs" / "status.json")["phases"]
    return {row["phase"].partition(".")[2]: row["status"] for row in rows}


@pytest.mark.parametrize("task", KINDS)
def test_check_foretells_what_each_phase_does(task, tmp_path, capsys, monkeypatch):
    make, text, phases = KINDS[task]
    make(tmp_path)
    (tmp_path / "config.yml").write_text(text.format(folder=tmp_path, backbone=tiny_backbone()))
    only = ["--only", ",".join(f"{task}.{phase}" for phase in phases)]
    for number in range(len(phases)):
        said = check(capsys, tmp_path, *only)
        assert list(said) == list(phases)
        for index, phase in enumerate(phases):
            done = index < number and phase not in ("verify", "export")  # these two always do their work
            assert said[phase].startswith("up to date" if done else "to do: "), (phases[:number], phase, said)
            assert done or ", about " in said[phase]
        run(tmp_path, "--only", f"{task}.{phases[number]}")
    said = check(capsys, tmp_path, *only)
    done = run(tmp_path, *only)
    assert {phase: said[phase] == "up to date" for phase in phases} == {p: done[p] == "up to date" for p in phases}
    changed = check(capsys, tmp_path, "train.epochs=2", *only)
    assert changed["prepare"] == "up to date"
    assert changed["train"].startswith("to do: 2 epochs of ")
    assert changed["evaluate"].startswith("to do: "), "the training that would run makes another checkpoint"


def test_check_is_right_beside_a_running_job_and_says_that_there_is_one(tmp_path, capsys):
    example.example_task(tmp_path)
    text = example.SETTINGS.format(folder=tmp_path, backbone=tiny_backbone())
    (tmp_path / "config.yml").write_text(text)
    run(tmp_path, "--only", "segmentation.prepare")
    with FileLock(tmp_path / "runs" / "segmentation" / ".lock"):
        assert main([str(tmp_path / "config.yml"), "--check"]) == 0
    said = capsys.readouterr().out
    assert (
        f"process {os.getpid()} is at work on this task now; a run started now would end at once, with code 75" in said
    )
    assert "segmentation: prepare: up to date" in said


def test_the_time_that_check_names_is_near_that_of_the_run(tmp_path, capsys):
    """Within a factor of eight, on a busy machine: hours are not taken for minutes."""
    example.example_task(tmp_path)
    text = example.SETTINGS.format(folder=tmp_path, backbone=tiny_backbone())
    (tmp_path / "config.yml").write_text(text)
    run(tmp_path, "--only", "segmentation.prepare")
    said = check(capsys, tmp_path, "train.epochs=20", "train.patience=1000", "--only", "segmentation.train")
    began = time.monotonic()
    run(tmp_path, "train.epochs=20", "train.patience=1000", "--only", "segmentation.train")
    took = time.monotonic() - began
    foretold = seconds_in(said["train"])
    assert took / 8 < foretold < took * 8, (said, took)


def seconds_in(text: str) -> float:
    words = text.rpartition("about ")[2].replace("a second", "1 s").split()
    return sum(float(n) * {"s": 1, "min": 60, "h": 3600}[u] for n, u in zip(words[::2], words[1::2], strict=True))


def test_check_of_the_example_that_is_not_written_yet(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([str(ROOT / "config.example.yml"), "--check"]) == 0
    said = capsys.readouterr().out
    for task in ("segmentation", "foxes"):
        assert (
            f"{task}: prepare, verify, train, evaluate, inference: to do, once prepare has written the sample" in said
        )
    assert not list(tmp_path.iterdir())


def test_check_passes_where_the_sample_writes_what_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = ["tasks.segmentation.inference.inputs=[data/sample/unseen, data/sample/scenes/*.tif]"]
    named += ["tasks.foxes.evaluate.inputs=images/val_0*.png", "tasks.foxes.evaluate.labels=annotations/val.json"]
    assert main([str(ROOT / "config.example.yml"), "--check", *named]) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("inference.inputs=/dev/zero", "inference.inputs: /dev/zero: a device; expected a file on a disk"),
        ("tasks.foxes.inference.inputs=../pipe.mp4", "foxes: inference.inputs: data/foxes/../pipe.mp4: no such file"),
        ("tasks.segmentation.inference.inputs=pipe.png", "segmentation: inference.inputs: pipe.png: a pipe"),
        ("tasks.foxes.inference.inputs=[chase.mp4, chaos.mp4]", "inference.inputs: data/foxes/chaos.mp4: no such file"),
        ("tasks.segmentation.inference.inputs=data/sample/unseen/west.tif", "unseen/west.tif: no such file or folder"),
        (
            "tasks.segmentation.paths.raw_images_dir=data/sample/scnes",
            "paths.raw_images_dir: data/sample/scnes: no such",
        ),
        (
            "tasks.segmentation.paths.label_path=data/sample/lables.gpkg",
            "paths.label_path: data/sample/lables.gpkg: no",
        ),
        ("dataset.splits.test_list=gone.txt", "dataset.splits.test_list: no gone.txt in the working directory"),
        ("dataset.splits.train_list=pipe.png", "pipe.png: a pipe; expected a file on a disk"),
        ("train.init_from=gone.safetensors", "train.init_from: gone.safetensors: no such checkpoint"),
        (
            "tasks.foxes.evaluate.checkpoint=gone.safetensors",
            "evaluate.checkpoint: gone.safetensors: no such checkpoint",
        ),
        (
            "tasks.foxes.evaluate={enable: true, inputs: gone/*.png, labels: annotations/val.json}",
            "evaluate.inputs: data/foxes/gone/*.png: no file matches",
        ),
        (
            "tasks.foxes.keypoints={instance_mode: per_instance, prompts: gone}",
            "keypoints.prompts: data/foxes/gone: no such file or folder",
        ),
        ("model.backbone=./gone", "gone"),
    ],
)
def test_check_refuses_what_is_absent_also_before_the_sample_is_written(tmp_path, capsys, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.png")
    assert main([str(ROOT / "config.example.yml"), "--check", change]) in (2, 3)
    said = capsys.readouterr()
    assert message in said.out + said.err
    assert [path.name for path in tmp_path.iterdir()] == ["pipe.png"]


SETTINGS = {
    "segmentation": example.SETTINGS,
    "keypoints": animals.SETTINGS,
    "detection": boxes.SETTINGS,
    "distill": students.SETTINGS,
}


@pytest.mark.parametrize("start", sorted(SETTINGS))
@pytest.mark.parametrize("kind", ["segmentation", "keypoints", "detection"])
def test_check_refuses_to_start_from_another_kind_before_the_sample_is_written(kind, start, tmp_path, capsys):
    (tmp_path / "config.yml").write_text(SETTINGS[kind].format(folder=tmp_path, backbone=tiny_backbone()))
    sample = ["dataset.sample.enable=true", f"dataset.sample.folder={tmp_path}/animals", *SMALL.get(kind, ())]
    if kind == "segmentation":
        files = {"raw_images_dir": "scenes", "label_path": "labels.gpkg"}
        sample += [f"paths.{name}={tmp_path}/animals/{file}" for name, file in files.items()]
    sample += ["train.enable=true", "resources.device=cpu", "inference.enable=false"]
    code = main([str(tmp_path / "config.yml"), "--check", f"train.init_from={model_of(start)}", *sample])
    said = capsys.readouterr().err
    if start == kind:
        assert code == 0, said
    else:
        assert code == 3, said
        assert f"train.init_from: {model_of(start)}: a checkpoint of kind {start}, head " in said
        assert f"this task is of kind {kind}, head " in said


def test_check_refuses_to_distil_from_a_head(tmp_path, capsys):
    students.student_example(tmp_path)
    (tmp_path / "config.yml").write_text(students.SETTINGS.format(folder=tmp_path, backbone=tiny_backbone()))
    starts = {start: f"train.init_from={model_of(start)}" for start in ("segmentation", "distill")}
    codes = {start: main([str(tmp_path / "config.yml"), "--check", entry]) for start, entry in starts.items()}
    assert codes == {"segmentation": 3, "distill": 0}
    assert "a checkpoint of kind segmentation" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (f"logging.file={'a' * 300}.log", "a.log: File name too long; choose another file"),
        ("logging.file=config.yml/run.log", "config.yml/run.log: Not a directory; choose another file"),
        ("model.init=deim", "model.init: deim: is of the kind 'deim_v2', but the head starts from 'detr'"),
    ],
)
def test_check_refuses_logs_and_detectors_that_cannot_be_used(change, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("deim").mkdir()
    Path("deim/config.json").write_text('{"model_type": "deim_v2"}')
    save_file({"a": torch.zeros(1)}, "deim/model.safetensors")
    Path("config.yml").write_text(boxes.SETTINGS.format(folder=tmp_path, backbone=tiny_backbone()))
    more = ["dataset.sample.enable=true", f"dataset.sample.folder={tmp_path}/animals"]
    more += ["model.head=detr", "model.head_options={}"]
    assert main(["config.yml", "--check", change, *more]) in (2, 3)
    assert message in capsys.readouterr().err


def test_a_task_that_waits_for_a_backbone_has_its_files_checked_before(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    maps = "{model: {backbone: small}, dataset: {classes: [a, b]}, train: {init_from: gone}}"
    Path("config.yml").write_text(f"tasks: {{small: {{kind: distill}}, maps: {maps}}}")
    assert main(["--check", "--only", "small.export,maps.train"]) == 3
    said = capsys.readouterr()
    assert "maps: train.init_from: gone: no such checkpoint" in said.out + said.err


def test_a_checkpoint_that_another_task_trains_need_not_be_there(tmp_path):
    example.example_task(tmp_path)
    text = example.SETTINGS.format(folder=tmp_path, backbone=tiny_backbone())
    start = f"{tmp_path}/runs/coarse/latest/checkpoints/best.safetensors"
    text += f"tasks: {{fine: {{train: {{init_from: {start}}}}}, coarse: {{}}}}\n"
    (tmp_path / "config.yml").write_text(text)
    only = ["--check", "--only", "coarse.prepare,coarse.train,fine.prepare,fine.train"]
    assert main([str(tmp_path / "config.yml"), *only]) == 0
    assert main([str(tmp_path / "config.yml"), "tasks.coarse.train.enable=false", *only]) == 3


def test_a_task_that_starts_from_another_ones_training_waits_for_it(tmp_path, capsys):
    example.example_task(tmp_path)
    text = example.SETTINGS.format(folder=tmp_path, backbone=tiny_backbone())
    text += "tasks: {fine: {train: {init_from: coarse}}, coarse: {}}\n"
    (tmp_path / "config.yml").write_text(text)
    run(tmp_path, "--only", "coarse.prepare")
    expected = {"coarse": "to do: 1 epochs of ", "fine": "to do: 1 epochs of "}
    for done in ("coarse", "fine", None):
        assert main([str(tmp_path / "config.yml"), "--check", "--only", "coarse.train,fine.prepare,fine.train"]) == 0
        said = capsys.readouterr().out
        for name, words in expected.items():
            assert f"{name}: train: {words}" in said, said
        if done:
            run(tmp_path, "--only", f"{done}.prepare,{done}.train")
            expected[done] = "up to date"


def test_check_of_poses_without_lists_draws_them_in_memory(tmp_path, capsys):
    animals.animals_example(tmp_path)
    only = ["--only", "animals.prepare,animals.train"]
    text = animals.SETTINGS.format(folder=tmp_path, backbone=tiny_backbone())
    (tmp_path / "config.yml").write_text(text.replace("label_path: annotations", "label_path: annotations/train.json"))
    said = check(capsys, tmp_path, *only)
    assert "draws the split lists" in said["prepare"]
    assert said["train"].startswith("to do: 1 epochs of ")
