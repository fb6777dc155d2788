"""main.py as people and schedulers run it: as a process, with signals, locks, ranks and sudden death.

Most are forked from a process that has imported the libraries (`tests/processes.py`). `fresh` ones are a new Python: a
run from the pictures to the map, the exit codes 2 and 3, and all under torchrun.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from torch import Tensor

from models.backbones.random_backbone import write_random_backbone
from tasks.example import SETTINGS, write_pictures
from tests.processes import Forked, ends_of
from utils.runtime.checkpoints import load_checkpoint
from utils.runtime.files import FileLock, read_json
from utils.store.feature_store import FeatureStore

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120


@pytest.fixture(scope="session")
def backbone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("backbone")
    write_random_backbone(folder, family="dinov2", width=8, depth=2, heads=2, patch_size=4, seed=0)
    return folder


@pytest.fixture
def config(tmp_path, backbone) -> Path:
    return write_config(tmp_path, backbone)


def write_config(folder: Path, backbone: Path, **changes: dict) -> Path:
    """The example's settings as a file, with all phases enabled, beside the example's pictures."""
    write_pictures(folder)
    tree = yaml.safe_load(SETTINGS.format(folder=folder, backbone=backbone))
    tree["prepare"] |= {"tile_size": 16}
    # Muon orthogonalises in bfloat16, which turns the rounding of a sum over ranks into differences that show
    tree["train"] |= {"epochs": 2, "batch_size": 4, "optimizer": "adamw"}
    for phase in ("verify", "evaluate", "inference"):
        tree.setdefault(phase, {})["enable"] = True
    for section, values in changes.items():
        tree.setdefault(section, {}).update(values)
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump(tree))
    return path


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("DINOV3SEG_CONFIG", "RANK", "WORLD_SIZE")}
    return kept | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | more


@pytest.fixture
def start(forks) -> Callable[..., Forked]:
    """Start main.py as the leader of a group of processes."""
    return lambda *words, cwd=ROOT, **more: forks.start(ROOT / "main.py", *words, cwd=cwd, env=environment(**more))


@pytest.fixture
def run(start) -> Callable[..., tuple[int, str]]:
    return lambda *arguments, **options: finish(start(*arguments, **options))


def start_fresh(*arguments: object, ranks: int = 0, cwd: Path = ROOT, **more: str) -> subprocess.Popen:
    """Start Python with main.py, under torchrun when ranks are asked for, as the leader of a group of processes."""
    launcher = [sys.executable]
    if ranks:
        launcher += ["-m", "torch.distributed.run", "--nnodes=1", f"--nproc_per_node={ranks}"]
        launcher += ["--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    return subprocess.Popen(
        [*launcher, str(ROOT / "main.py"), *map(str, arguments)],
        cwd=cwd,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def finish(process: subprocess.Popen | Forked) -> tuple[int, str]:
    try:
        said, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        kill(process)
    return process.returncode, said


def kill(process: subprocess.Popen | Forked) -> None:
    """End a process and what it has started, at once."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_fresh(*arguments: object, **options) -> tuple[int, str]:
    return finish(start_fresh(*arguments, **options))


def wait_for(process: subprocess.Popen | Forked, ready: Callable[[], bool]) -> None:
    """Wait until the process has come to a point; it must not end before."""
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        assert process.poll() is None, f"ended too early, with {process.returncode}: {process.stdout.read()}"
        assert time.monotonic() < deadline, "never came so far"
        time.sleep(0.002)


def weights(folder: Path, name: str = "best") -> dict[str, Tensor]:
    return load_checkpoint(folder / "runs" / "segmentation" / "latest" / "checkpoints" / f"{name}.safetensors").tensors


def classes(folder: Path) -> np.ndarray:
    [path] = (folder / "runs" / "segmentation" / "latest" / "predictions").glob("*_classes.tif")
    with rasterio.open(path) as raster:
        return raster.read()


def metrics(folder: Path) -> dict:
    return read_json(folder / "runs" / "segmentation" / "latest" / "evaluate_val" / "metrics.json")["metrics"]


def outcome(folder: Path) -> tuple[int, dict[str, str]]:
    status = read_json(folder / "runs" / "status.json")
    return status["exit_code"], {row["phase"].partition(".")[2]: row["status"] for row in status["phases"]}


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory, backbone) -> tuple[Path, str]:
    """One process, from the pictures to the map, without any trouble; and what it said."""
    folder = tmp_path_factory.mktemp("unbroken")
    code, said = run_fresh(write_config(folder, backbone))
    assert code == 0, said
    return folder, said


# ---------------------------------------------------------------------------------------------------------------------
# What comes out, and what a second run does


def test_one_command_runs_all_phases_and_says_how_long_each_took(unbroken):
    folder, said = unbroken
    phases = ("prepare", "verify", "train", "evaluate", "inference")
    assert outcome(folder) == (0, dict.fromkeys(phases, "done"))
    for phase in phases:
        assert f"segmentation.{phase}" in said
    assert all(line.startswith("[") for line in said.splitlines()), "nothing but log lines"
    assert classes(folder).shape == (1, 64, 64)
    status = read_json(folder / "runs" / "status.json")
    assert status["scores"]["segmentation"]["mIoU"] == metrics(folder)["mIoU"]
    results = status["results"]["segmentation"]
    assert results.keys() == {"run", "checkpoint", "metrics", "predictions"}
    assert all(Path(path).exists() for path in results.values())
    assert "error" not in status
    run_folder = folder / "runs" / "segmentation" / "latest"
    assert {"config.json", "results.csv", "train.json"} <= {path.name for path in run_folder.iterdir()}
    assert (run_folder.parent / "verify.json").exists()


def test_a_second_run_does_nothing_and_says_so(unbroken, run):
    folder, _ = unbroken
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix in (".safetensors", ".tif")}
    assert len(before) > 3
    code, said = run(folder / "config.yml", "verify.enable=false")
    assert code == 0
    assert outcome(folder) == (0, dict.fromkeys(("prepare", "train", "evaluate", "inference"), "up to date"))
    assert said.count("nothing to do") == 3
    assert "inference: scene_0 is up to date" in said
    assert before == {path: path.stat().st_mtime_ns for path in before}, "no file was touched"


# ---------------------------------------------------------------------------------------------------------------------
# Settings, and the words after the command


def test_mistakes_in_settings_end_with_2_and_name_every_one(config):
    code, said = run_fresh(config, "train.epochz=3", "model.head=liner", "prepare.tile_size=big")
    assert code == 2
    assert "train.epochz: unknown key, did you mean 'epochs'?" in said
    assert "prepare.tile_size: expected int, got str 'big'" in said
    assert "Traceback" not in said


def test_a_failure_is_told_in_the_status_with_its_phase_and_what_is_there(config, run):
    code, said = run(config, "--only", "segmentation.prepare")
    assert code == 0, said
    for shard in config.parent.glob("store/shards/*"):
        shard.unlink()
    code, said = run(config, "--only", "segmentation.train")
    status = read_json(config.parent / "runs" / "status.json")
    assert (code, status["exit_code"], status["failed_phase"]) == (3, 3, "segmentation.train")
    assert "items are not prepared" in status["error"]
    assert f"[ERROR] {status['error']}" in said
    assert [(row["phase"], row["status"]) for row in status["phases"]] == [("segmentation.train", "failed")]
    assert Path(status["results"]["segmentation"]["run"]).is_dir()


def test_a_broken_input_ends_with_3_when_the_rest_is_predicted(config, run):
    folder = config.parent
    (folder / "broken.tif").write_bytes((folder / "pictures" / "scene_0.tif").read_bytes()[:300])
    code, said = run(config, f"inference.inputs=[{folder}/broken.tif, {folder}/pictures/scene_0.tif]")
    status = read_json(folder / "runs" / "status.json")
    assert (code, status["exit_code"], status["failed_phase"]) == (3, 3, "segmentation.inference")
    assert "broken.tif" in status["error"]
    assert "1 input could not be predicted; the rest is done" in said
    assert outcome(folder)[1]["inference"] == "partly done"
    assert classes(folder).shape == (1, 64, 64)


def test_nothing_that_is_enabled_ends_with_2(config, run):
    off = [f"{phase}.enable=false" for phase in ("prepare", "verify", "train", "evaluate", "inference")]
    code, said = run(config, *off)
    assert code == 2
    assert "no phase is enabled; set enable: true" in said
    assert read_json(config.parent / "runs" / "status.json")["exit_code"] == 2


def test_a_variable_that_is_not_set_makes_no_folder(config, run):
    for override in ("paths.runs_root=$NO_SUCH/runs", "train.weights_dir=${NO_SUCH}/w", "paths.splits_dir=~nobody1/s"):
        code, said = run(config, override, cwd=config.parent)
        assert code == 2
        assert f"{override.partition('=')[0]}: " in said
        assert "the variable NO_SUCH is not set" in said or "there is no user 'nobody1'" in said
    assert not [path for path in config.parent.iterdir() if path.name.startswith(("$", "~"))]


def test_a_folder_for_weights_that_cannot_be_is_refused_before_any_work(config, run):
    (config.parent / "taken").write_text("")
    code, said = run(config, f"train.weights_dir={config.parent}/taken/weights")
    assert code == 2
    assert f"train.weights_dir: {config.parent}/taken: a file, expected a folder; name another one" in said
    assert not list((config.parent / "store").glob("shards/*"))


def test_check_prints_the_plan_and_runs_nothing(config, run):
    code, said = run("--check", config.name, DINOV3SEG_CONFIG="/no/such/file.yml", cwd=config.parent)
    assert code == 0
    assert "segmentation: prepare, verify, train, evaluate, inference" in said
    assert "2 classes: dark, light" in said
    assert not (config.parent / "runs" / "status.json").exists()
    assert not list((config.parent / "store").glob("shards/*"))


def test_missing_data_end_with_3_in_the_outcome_too(config):
    shutil.rmtree(config.parent / "labels")
    code, said = run_fresh(config)
    assert (code, outcome(config.parent)) == (3, (3, {"prepare": "failed"}))
    assert "labels" in said
    assert "Traceback" not in said


def test_the_variable_names_the_settings_and_only_chooses_a_phase(config, run):
    code, said = run("--only", "segmentation.verify,segmentation.prepare", DINOV3SEG_CONFIG=str(config))
    assert code == 0
    assert outcome(config.parent)[1] == {"prepare": "done", "verify": "done"}
    assert said.index("segmentation.prepare") < said.index("segmentation.verify")


def test_schema_is_json(run):
    code, said = run("--schema")
    assert code == 0
    assert "train" in json.loads(said)["properties"]


# ---------------------------------------------------------------------------------------------------------------------
# Locks, signals and sudden death


def test_beside_a_running_one_a_run_ends_with_75_and_leaves_its_outcome_alone(config, run):
    with FileLock(config.parent / "runs" / "segmentation" / ".lock"):
        code, said = run(config)
    assert code == 75
    assert f"held by process {os.getpid()}; another run writes this output" in said
    assert not (config.parent / "runs" / "status.json").exists()


LONG = ("train.epochs=12", "train.patience=99")  # epochs take some 0.3 s each


@pytest.fixture(scope="session")
def long_unbroken(tmp_path_factory, backbone, forks) -> Path:
    folder = tmp_path_factory.mktemp("long")
    words = (write_config(folder, backbone), *LONG, "verify.enable=false")
    code, said = finish(forks.start(ROOT / "main.py", *words, env=environment()))
    assert code == 0, said
    return folder


def test_signals_save_the_state_and_the_last_run_ends_as_an_unbroken_one(config, long_unbroken, run, start):
    folder = config.parent
    for signum, rows in ((signal.SIGINT, 3), (signal.SIGTERM, 6)):
        process = start(config, *LONG, "verify.enable=false")
        wait_for(process, lambda rows=rows: rows_written(folder) >= rows)
        os.kill(process.pid, signum)
        code, said = finish(process)
        assert code == 128 + signum
        assert f"interrupted by {signal.Signals(signum).name}; the next run continues from here" in said
        prepared = "done" if signum == signal.SIGINT else "up to date"
        assert outcome(folder) == (code, {"prepare": prepared, "train": "interrupted"})
        assert re.search(r"^\[INFO\] segmentation\.train +interrupted +\d", said, re.MULTILINE), "in the closing table"
        assert read_json(folder / "runs" / "status.json")["phases"][-1]["seconds"] > 0
    code, said = run(config, *LONG, "verify.enable=false")
    assert code == 0
    assert "train: resuming at epoch" in said
    assert_same_results(folder, long_unbroken)


def rows_written(folder: Path) -> int:
    path = folder / "runs" / "segmentation" / "latest" / "results.csv"
    return path.read_text().count("\n") if path.exists() else 0


def assert_same_results(folder: Path, reference: Path) -> None:
    for name in ("best", "last"):
        ours, theirs = weights(folder, name), weights(reference, name)
        assert largest_difference(ours, theirs) == 0
    assert np.array_equal(classes(folder), classes(reference))
    assert metrics(folder) == metrics(reference)
    stores = [FeatureStore(place / "store") for place in (folder, reference)]
    assert set(stores[0].keys()) >= set(stores[1].keys())
    assert not list(stores[0].verify())


KILLED = {  # things that stay once they are there, so that no poll can miss them
    "in prepare": lambda folder: (folder / "store" / "store.json").exists(),
    "early in training": lambda folder: rows_written(folder) >= 3,
    "late in training": lambda folder: rows_written(folder) >= 8,
    "in inference": lambda folder: bool(list((folder / "runs" / "segmentation").glob("*/predictions/*"))),
}


def test_kill_9_anywhere_and_a_rerun_give_the_results_of_an_unbroken_run(config, long_unbroken, run, start):
    """One run, killed again and again, each time a phase further."""
    folder = config.parent
    for moment, reached in KILLED.items():
        process = start(config, *LONG, "verify.enable=false")
        wait_for(process, lambda reached=reached: reached(folder))
        os.killpg(process.pid, signal.SIGKILL)
        assert finish(process)[0] == -signal.SIGKILL, moment
        assert not any("partial" in path.name for path in folder.rglob("*_classes.tif")), "complete or absent"
    code, said = run(config, *LONG, "verify.enable=false")
    assert code == 0, said
    assert_same_results(folder, long_unbroken)


# ---------------------------------------------------------------------------------------------------------------------
# Ranks


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_give_the_metrics_and_weights_of_one_process(ranks, tmp_path, backbone, unbroken, forks):
    """With four ranks there are three items to validate and one picture to map: some ranks have nothing to do."""
    reference, _ = unbroken
    config = write_config(tmp_path, backbone, resources={"distributed": True})
    if ranks == 2:
        code, said = run_fresh(config, ranks=2)
        assert code == 0, said
    else:
        codes, outputs = ends_of(forks.start_ranks(ranks, ROOT / "main.py", config, env=environment()))
        said = "".join(outputs)
        assert codes == [0] * ranks, said
    assert outcome(tmp_path)[0] == 0
    assert largest_difference(weights(tmp_path), weights(reference)) < 1e-4
    ours, theirs = metrics(tmp_path), metrics(reference)
    for name in ("mIoU", "aAcc", "mAcc", "mDice"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-3)
    assert ours["support"] == theirs["support"]
    assert (classes(tmp_path) == classes(reference)).mean() > 0.999
    assert said.count("train: 0.") == 1, "one rank speaks"


def test_a_phase_alone_on_ranks_waits_for_nobody(unbroken, forks):
    """What the first use of the backbone asks all ranks must not be asked by rank 0 alone."""
    folder, _ = unbroken
    words = (folder / "config.yml", "--only", "segmentation.verify,segmentation.evaluate")
    codes, outputs = ends_of(forks.start_ranks(2, ROOT / "main.py", *words, env=environment()))
    assert codes == [0, 0], outputs
    assert outcome(folder)[1] == {"verify": "done", "evaluate": "up to date"}


def test_an_error_on_ranks_reaches_everybody_and_the_outcome(tmp_path, backbone, forks):
    config = write_config(tmp_path, backbone)
    shutil.rmtree(tmp_path / "labels")
    began = time.monotonic()
    codes, outputs = ends_of(forks.start_ranks(2, ROOT / "main.py", config, env=environment()))
    said = "".join(outputs)
    assert codes == [3, 3], said
    assert outcome(tmp_path) == (3, {"prepare": "failed"})
    assert time.monotonic() - began < PATIENCE_S / 2, "no rank waits for the other"
    assert len([line for line in said.splitlines() if line.startswith("[ERROR]")]) == 1, "one rank says it for all"
    assert said.count("labels") >= 1


def pid_of_rank(launcher: subprocess.Popen, rank: int) -> int:
    threads = Path(f"/proc/{launcher.pid}/task").iterdir()
    children = [int(pid) for thread in threads for pid in (thread / "children").read_text().split()]
    return next(pid for pid in children if f"\0RANK={rank}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes())


@pytest.mark.parametrize("way", ["killed under torchrun", "stopped"])
def test_a_lost_rank_ends_the_other_within_a_minute_with_one_line(way, tmp_path, backbone, forks):
    config = write_config(tmp_path, backbone, train={"epochs": 100000, "patience": 100000})
    ranks = forks.start_ranks(2, ROOT / "main.py", config, env=environment()) if way == "stopped" else []
    launcher = ranks[0] if ranks else start_fresh(config, ranks=2)
    wait_for(launcher, lambda: list(tmp_path.glob("runs/segmentation/*/results.csv")))
    other, lost = [rank.pid for rank in ranks] or [pid_of_rank(launcher, rank) for rank in (0, 1)]
    os.kill(lost, signal.SIGSTOP if ranks else signal.SIGKILL)
    try:
        began = time.monotonic()
        wait_for(launcher, lambda: not running(other))
        assert time.monotonic() - began < 60
        status = read_json(tmp_path / "runs" / "status.json")
        assert status["exit_code"] == 4
        assert status["phases"][-1]["phase"] == "segmentation.train", "the phase that the loss has ended"
        assert status["phases"][-1]["status"] in ("failed", "interrupted")
    finally:
        with suppress(ProcessLookupError):  # the launcher's ranks are no part of its group, and hold its output open
            os.kill(lost, signal.SIGKILL)
        code, said = finish(launcher)
        for rank in ranks[1:]:
            finish(rank)
    assert not ranks or code == 4
    [line] = [line for line in said.splitlines() if line.startswith("[ERROR]")]
    assert f"rank 1 (process {lost} on " in line
    assert "run the same command again" in line
    assert "Traceback" not in said[: said.index(line)], "what the launcher says of its ranks comes after that"


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("package", ["pydantic", "transformers"])
def test_a_package_that_is_missing_gives_one_line_whatever_the_number_of_ranks(package, config, tmp_path):
    (tmp_path / "absent").mkdir()
    text = f'raise ModuleNotFoundError("No module named {package!r}", name={package!r})'
    (tmp_path / "absent" / f"{package}.py").write_text(text)
    code, said = run_fresh(config, ranks=2, PYTHONPATH=str(tmp_path / "absent"))
    assert code != 0
    [line] = [line for line in said.splitlines() if package in line]
    assert line.startswith(f"[ERROR] the Python package {package!r} is missing; install it: ")
    assert f"No module named '{package}'" not in said


def test_a_reader_that_goes_away_does_not_end_the_run(config, tmp_path):
    command = f"{sys.executable} {ROOT / 'main.py'} {config} | head -2"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment(), cwd=ROOT, check=False)
    assert len(done.stdout.splitlines()) == 2
    assert "Traceback" not in done.stderr
    assert read_json(tmp_path / "runs" / "status.json")["exit_code"] == 0


def test_classes_come_from_the_checkpoint_where_nothing_else_is_asked(config, tmp_path, run):
    assert run(config)[0] == 0
    tree = yaml.safe_load(config.read_text())
    checkpoint = tmp_path / "runs" / "segmentation" / "latest" / "checkpoints" / "best.safetensors"
    picture = str(tmp_path / "pictures" / "scene_0.tif")
    alone = {"paths": tree["paths"] | {"runs_root": str(tmp_path / "other")}, "resources": tree["resources"]}
    alone["inference"] = {"enable": True, "inputs": picture, "checkpoint": str(checkpoint)}
    (tmp_path / "alone.yml").write_text(yaml.safe_dump(alone))
    code, printed = run(tmp_path / "alone.yml")
    assert code == 0, printed
    maps = [
        rasterio.open(tmp_path / root / "segmentation" / "latest" / "predictions" / "scene_0_classes.tif").read()
        for root in ("runs", "other")
    ]
    assert np.array_equal(*maps)


def test_flipped_bytes_that_verify_sets_aside_are_made_again_in_the_same_call(config, tmp_path, run):
    assert run(config, "--only", "segmentation.prepare")[0] == 0
    shard = max((tmp_path / "store" / "shards").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(shard.read_bytes())
    data[-100] ^= 1
    shard.write_bytes(data)
    code, printed = run(config)
    assert code == 0, printed
    assert "does not match" in printed


def test_a_log_file_never_goes_into_a_picture(config, tmp_path, run):
    picture = tmp_path / "pictures" / "scene_0.tif"
    before = picture.read_bytes()
    code, printed = run(config, f"logging.file={picture}")
    assert code == 2, printed
    assert "is no text file" in printed
    assert picture.read_bytes() == before
