"""Heads that predict sets in all phases, and `model.init`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from models.base import FeatureSpec
from models.detr import DetrHead, DetrOptions
from tasks.detection.example import foxes_example
from tasks.phases import evaluate, prepare, train
from tasks.runs import BEST, checkpoint_path
from utils.errors import DataError, SettingsError
from utils.runtime.checkpoints import load_checkpoint

SMALL = {"width": 16, "decoder_layers": 2, "attention_heads": 2, "feedforward": 32, "num_queries": 12}
HEADS = {
    "detr": SMALL | {"encoder_layers": 1, "dropout": 0.0},
    "deim": SMALL | {"detail_width": 2, "denoising": 10},
}


def as_head(name: str, **more: int) -> tuple[str, str]:
    return f"model.head={name}", f"model.head_options={json.dumps(HEADS[name] | more)}"


def write_detr(folder: Path, num_queries: int = 7) -> Path:
    """The weights of a DETR of 91 classes on another backbone."""
    torch.manual_seed(5)
    spec = FeatureSpec((64,), (32,), 32, 3, (0.5,) * 3, (0.5,) * 3)
    head = DetrHead(spec, 91, DetrOptions(**HEADS["detr"] | {"num_queries": num_queries}))
    folder.mkdir(parents=True)
    tensors = {name: part.detach().clone() for name, part in head.state_dict().items()}
    save_file({f"model.{name}": part for name, part in tensors.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", HEADS)
def test_a_head_runs_through_the_phases_and_its_checkpoint_holds_no_backbone(name: str, tmp_path: Path) -> None:
    task, context = foxes_example(tmp_path, *as_head(name), "evaluate.enable=true", "evaluate.split=val")
    prepare.run(task, context)
    result = train.run(task, context)
    assert 0 <= result.metrics["AP"] <= 1
    path = checkpoint_path(context.folder, BEST)
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        size = sum(file.get_tensor(key).numel() for key in names if file.get_tensor(key).is_floating_point())
    assert all(key.startswith("head.") for key in names)
    assert size == sum(part.numel() for part in task.make_head().parameters() if part.requires_grad)
    assert "AP" in evaluate.run(task, context).metrics


def test_a_training_begins_with_the_weights_of_a_detector_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_detr(tmp_path / "detr")
    task, context = foxes_example(
        tmp_path, *as_head("detr"), f"model.init={source}", "train.optimizer=adamw", "train.adamw_lr=1.0e-9"
    )
    task.preflight(["prepare", "train"])
    prepare.run(task, context)
    messages: list[str] = []
    context.log.info = lambda text, *_: messages.append(text)  # type: ignore[method-assign]
    train.run(task, context)
    said = [text for text in messages if "model.init" in text]
    assert f"train: model.init: {source}: 77 of 81 tensors of the head are taken from there" in said[0]
    assert "query_position_embeddings.weight (7 x 16 there, 12 x 16 here)" in said[1]
    checkpoint = load_checkpoint(checkpoint_path(context.folder, BEST))
    assert checkpoint.description["init"]["source"] == str(source)
    with safe_open(source / "model.safetensors", framework="pt") as file:
        begun = file.get_tensor("model.decoder.layers.1.mlp.fc1.weight")
    torch.testing.assert_close(checkpoint.tensors["head.decoder.layers.1.mlp.fc1.weight"], begun, rtol=0, atol=1e-5)
    assert not torch.equal(task.make_seeded_head().decoder.layers[1].mlp.fc1.weight, begun)


def test_another_start_is_another_training(tmp_path: Path) -> None:
    """Files that change under the same name do, too."""
    found = []
    for number, folder in enumerate(("one", "two", "two")):
        source = tmp_path / folder
        if not source.exists():
            write_detr(source, num_queries=7 + number)
        task, _ = foxes_example(tmp_path, *as_head("detr"), f"model.init={source}")
        found.append(task.describe()["init"])
    found.append(foxes_example(tmp_path, *as_head("detr"))[0].describe()["init"])
    assert found[0] != found[1] == found[2]
    assert found[3] is None


def test_a_checkpoint_predicts_when_its_first_weights_are_gone(tmp_path: Path) -> None:
    source = write_detr(tmp_path / "detr")
    task, context = foxes_example(tmp_path, *as_head("detr"), f"model.init={source}")
    prepare.run(task, context)
    train.run(task, context)
    (source / "model.safetensors").unlink()
    source.rmdir()
    checkpoint = load_checkpoint(checkpoint_path(context.folder, BEST))
    other, _ = foxes_example(tmp_path, *as_head("detr"))
    again = type(task).from_checkpoint("foxes", other.settings, checkpoint)
    assert isinstance(again.build_model().get_submodule("head"), DetrHead)


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (("model.init=facebook/x",), SettingsError, r"model\.init: the head 'dense' starts from no other detector"),
        (
            (*as_head("detr"), "model.init=/no/such"),
            DataError,
            r"model\.init: '/no/such': no such folder; give a folder",
        ),
        ((*as_head("detr"), "model.init=x", "train.init_from=y"), SettingsError, r"drop one of them"),
    ],
    ids=["head", "folder", "both"],
)
def test_a_start_that_cannot_act_is_refused_before_work(
    overrides: tuple[str, ...], error: type[Exception], message: str, tmp_path: Path
) -> None:
    task, _ = foxes_example(tmp_path, *overrides)
    for act in (task.check, lambda: task.preflight(["prepare"])):
        with pytest.raises(error, match=message):
            act()


@pytest.mark.parametrize("name", HEADS)
def test_more_objects_than_queries_are_refused_before_training(name: str, tmp_path: Path) -> None:
    task, _ = foxes_example(tmp_path, *as_head(name, num_queries=1))
    for act in (task.check, lambda: task.preflight(["train"])):
        with pytest.raises(DataError, match=r"3 objects, but the head gives at most 1 boxes; raise the number"):
            act()
