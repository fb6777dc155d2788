"""Files of a person that lie where a run writes are refused before work starts, and stay as they are."""

from __future__ import annotations

import pytest

from tasks.example import example_task
from tasks.phases import prepare, train
from tasks.runs import choose_run
from utils.errors import DataError, SettingsError
from utils.logging import VerbosityLogger
from utils.runtime.checkpoints import is_checkpoint_file

NAMES = ("best.json", "best.safetensors", "last.json", "last.safetensors")


@pytest.mark.parametrize("name", [f"dpt_{name}" for name in NAMES])
@pytest.mark.parametrize("content", ["mine", "{}", '{"a": 1}'])
def test_weights_replace_no_file_but_older_weights(name, content, tmp_path):
    weights = tmp_path / "weights"
    task, _ = example_task(tmp_path, f"train.weights_dir={weights}", "train.epochs=1", "model.head=dpt")
    weights.mkdir()
    (weights / name).write_text(content)
    (weights / "unet_best.json").write_text("of another head")
    with pytest.raises(SettingsError, match=rf"train\.weights_dir: .*{name} is no file of a checkpoint"):
        task.preflight(["train"])
    assert (weights / name).read_text() == content
    task.preflight(["prepare", "inference"])


def test_weights_replace_older_weights(tmp_path):
    overrides = (f"train.weights_dir={tmp_path}/weights", "train.epochs=1")
    task, context = example_task(tmp_path, *overrides)
    prepare.run(task, context)
    train.run(task, context)
    files = sorted((tmp_path / "weights").iterdir())
    assert [file.name for file in files] == [f"dpt_{name}" for name in NAMES]
    assert all(map(is_checkpoint_file, files))
    before = files[1].read_bytes()
    task, context = example_task(tmp_path, *overrides, "train.adamw_lr=0.05")
    task.preflight(["train"])
    train.run(task, context)
    assert files[1].read_bytes() != before


@pytest.mark.parametrize(
    "text", ["kind: keypoints\npaths: {}\n", "# a note: [INFO] is a label\n", "0 0.5 0.5 0.1 0.1\n"]
)
def test_log_lines_go_to_a_log_only(text, tmp_path):
    path = tmp_path / "k.yml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"logging\.file: .*k\.yml is a file of something else than log lines"):
        VerbosityLogger(file=path)
    assert path.read_text() == text


@pytest.mark.parametrize("timestamps", [False, True])
def test_a_log_is_continued(timestamps, tmp_path):
    path = tmp_path / "run.log"
    path.touch()
    for word in ("one", "two"):
        with VerbosityLogger("error", timestamps, path) as logger:
            logger.error(word)
    assert [line.split()[-1] for line in path.read_text().splitlines()] == ["one", "two"]


@pytest.mark.parametrize(("kind", "word"), [("file", "a file"), ("folder", "a folder")])
def test_what_is_no_link_is_not_replaced_by_latest(kind, word, tmp_path):
    task, _ = example_task(tmp_path)
    latest = tmp_path / "runs" / "latest"
    latest.parent.mkdir()
    latest.write_text("mine") if kind == "file" else latest.mkdir()
    with pytest.raises(DataError, match=f"latest: expected a link to the latest run, found {word}; move it elsewhere"):
        choose_run(latest.parent / "first", task.settings, "fingerprint")
    assert latest.is_dir() or latest.read_text() == "mine"
