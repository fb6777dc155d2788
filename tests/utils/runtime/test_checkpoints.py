import json
import math
import random

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from utils.errors import DataError
from utils.runtime.checkpoints import (
    METADATA_KEY,
    digest_tensors,
    load_checkpoint,
    load_training_state,
    pack_state,
    save_checkpoint,
    save_training_state,
    unpack_state,
)

DESCRIPTION = {"head": "linear", "classes": ["road", "forêt"], "metrics": {"mIoU": 0.5, "worst": math.inf}}


@pytest.fixture
def checkpoint(tmp_path):
    return save_checkpoint(tmp_path / "unet_best.safetensors", {"weight": torch.arange(6.0).view(2, 3)}, DESCRIPTION)


def test_weights_and_description_there_and_back(checkpoint):
    loaded = load_checkpoint(checkpoint)
    assert loaded.tensors["weight"].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert loaded.description == DESCRIPTION
    assert loaded.path == checkpoint


def test_the_description_inside_counts_and_the_one_beside_is_for_people(checkpoint):
    beside = checkpoint.with_suffix(".json")
    assert json.loads(beside.read_text()) == DESCRIPTION
    beside.unlink()
    assert load_checkpoint(checkpoint).description == DESCRIPTION


def test_any_safetensors_reader_opens_a_checkpoint(checkpoint):
    with safe_open(checkpoint, framework="np") as stream:
        assert stream.get_tensor("weight").shape == (2, 3)


def test_tied_transposed_and_sliced_tensors_are_saved_with_their_values(tmp_path):
    weight = torch.arange(6.0).view(2, 3)
    tensors = {"tied": weight, "again": weight, "turned": weight.t(), "row": weight[1]}
    loaded = load_checkpoint(save_checkpoint(tmp_path / "a", tensors, {})).tensors
    assert {name: tensor.tolist() for name, tensor in loaded.items()} == {
        name: tensor.tolist() for name, tensor in tensors.items()
    }


def test_a_failed_save_leaves_the_old_checkpoint(checkpoint):
    before = checkpoint.read_bytes()
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_checkpoint(checkpoint, {}, {"a": object()})
    assert checkpoint.read_bytes() == before
    assert len(list(checkpoint.parent.iterdir())) == 2


def test_a_checkpoint_that_cannot_be_written_is_an_error_of_the_data(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match=r"taken/best\.safetensors: cannot be written"):
        save_checkpoint(tmp_path / "taken" / "best", {}, {})


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_an_old_suffix_finds_the_safetensors(checkpoint, suffix):
    assert load_checkpoint(checkpoint.with_suffix(suffix)).path == checkpoint


def test_a_missing_checkpoint_names_what_is_near(checkpoint):
    with pytest.raises(DataError, match=r"no such checkpoint, did you mean unet_best\.safetensors\?"):
        load_checkpoint(checkpoint.with_name("unet_bst.safetensors"))
    with pytest.raises(DataError, match="none near it; train first"):
        load_checkpoint(checkpoint.parent / "elsewhere" / "unet_best.pth")


@pytest.mark.parametrize("legacy", [True, False])
def test_a_pickle_is_refused_and_never_loaded(tmp_path, legacy):
    path = tmp_path / "best.pth"
    torch.save({"a": torch.ones(1)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(DataError, match=r"a pickle \(torch\.save\).*it is not loaded, train again, or convert"):
        load_checkpoint(path)
    renamed = path.rename(tmp_path / "best.safetensors")
    with pytest.raises(DataError, match="a pickle"):
        load_checkpoint(renamed)


def test_a_pickle_beside_its_safetensors_points_there(checkpoint):
    torch.save({}, checkpoint.with_suffix(".pth"))
    with pytest.raises(DataError, match=r"it is not loaded, use .*unet_best\.safetensors instead"):
        load_checkpoint(checkpoint.with_suffix(".pth"))


@pytest.mark.parametrize("length", [0, 4, 40, -1])
def test_a_truncated_checkpoint_is_told(checkpoint, length):
    checkpoint.write_bytes(checkpoint.read_bytes()[:length])
    with pytest.raises(DataError, match=r"unet_best\.safetensors: truncated or not a safetensors file"):
        load_checkpoint(checkpoint)


def test_a_flipped_byte_is_noticed(checkpoint):
    content = bytearray(checkpoint.read_bytes())
    content[-1] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(DataError, match=r"unet_best\.safetensors: its tensors or its description are not those"):
        load_checkpoint(checkpoint)


def flip(path, bit):
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["checkpoint", "training state"])
def test_no_flipped_bit_of_a_file_is_used(tmp_path, kind):
    """Every byte, one drawn bit each: the file is refused as damaged, or what is read is the same."""
    state = {"weight": torch.arange(6.0).view(2, 3), "lr": 1.0, "scale": 1.0, "epoch": 12, "classes": ["road", "sea"]}
    if kind == "checkpoint":
        path = save_checkpoint(tmp_path / "a", {"weight": state.pop("weight")}, state)
        read = lambda: [load_checkpoint(path).tensors, load_checkpoint(path).description]  # noqa: E731
    else:
        path = save_training_state(tmp_path / "a", state)
        read = lambda: load_training_state(path)  # noqa: E731
    written, draw = read(), random.Random(0)
    found = 0
    for byte in range(path.stat().st_size):
        bit = 8 * byte + draw.randrange(8)
        flip(path, bit)
        try:
            assert same(read(), written), f"bit {bit} changed what is read"
        except DataError:
            found += 1
        flip(path, bit)
    assert found > 0.9 * path.stat().st_size
    assert same(read(), written)


def test_a_file_of_the_earlier_version_is_read_with_a_word_of_warning(tmp_path, caplog):
    tensors, content = {"a": torch.ones(1)}, {"scale": 1.0}
    text = json.dumps({"version": 2, "kind": "checkpoint", "digest": digest_tensors(tensors), "content": content})
    save_file(tensors, tmp_path / "old.safetensors", metadata={METADATA_KEY: text})
    assert load_checkpoint(tmp_path / "old.safetensors").description == content
    assert "whose digest covers the tensors only" in caplog.text
    save_file({"a": torch.zeros(1)}, tmp_path / "old.safetensors", metadata={METADATA_KEY: text})
    with pytest.raises(DataError, match="not those that were written"):
        load_checkpoint(tmp_path / "old.safetensors")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "without Dinolith's description"),
        ({METADATA_KEY: '{"version": 9, "kind": "checkpoint", "content": {}}'}, "version 9, .* versions 2 and 3"),
        ({METADATA_KEY: '{"version": 2, "ki'}, "its description is damaged"),
        ({METADATA_KEY: "[]"}, "its description is damaged"),
        ({METADATA_KEY: '{"version": 3, "kind": "checkpoint"}'}, "its description is damaged"),
        ({METADATA_KEY: '{"version": 2, "kind": "training state", "content": {}}'}, "got a training state"),
    ],
)
def test_files_of_another_origin_are_told_apart(tmp_path, metadata, message):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(1)}, path, metadata=metadata)
    with pytest.raises(DataError, match=message):
        load_checkpoint(path)


def same(left, right) -> bool:
    """Equality of nested values to the bit and the type."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    return left == right


def test_nested_values_keep_types_keys_and_order(tmp_path):
    tree = {
        "z": [1, 0.1, True, None, "forêt", (2, []), {}],
        3: {"3": torch.tensor(1.5), 3: torch.ones(2, dtype=torch.bfloat16), -1: torch.zeros(0, 4)},
        "inf": -math.inf,
        "big": 2**127 + 1,
        "random": random.Random(0).getstate(),
        "torch": torch.Generator().manual_seed(5).get_state(),
        "numpy": np.random.default_rng(3).bit_generator.state,
        "legacy": np.random.RandomState(4).get_state(),
        "tensor": {"dict": torch.tensor([True, False])},
    }
    assert same(load_training_state(save_training_state(tmp_path / "last", tree)), tree)


def test_nan_is_kept():
    assert math.isnan(unpack_state(*pack_state([math.nan]))[0])


@pytest.mark.parametrize(
    ("tree", "place"), [({"a": {1, 2}}, "cannot save a: a value of type set"), ({1.5: 0}, "key 1.5")]
)
def test_values_without_a_form_are_refused_with_their_place(tree, place):
    with pytest.raises(TypeError, match=place):
        pack_state(tree)


def train(model, optimizer, steps: int, generator: torch.Generator) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 3, generator=generator)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("make_optimizer", [torch.optim.AdamW, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)])
def test_a_training_in_two_pieces_equals_one_in_a_go_bit_by_bit(tmp_path, make_optimizer):
    def start():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
        return model, make_optimizer(model.parameters()), torch.Generator().manual_seed(1)

    model, optimizer, generator = start()
    train(model, optimizer, 6, generator)

    half, half_optimizer, half_generator = start()
    train(half, half_optimizer, 3, half_generator)
    state = {
        "model": half.state_dict(),
        "optimizer": half_optimizer.state_dict(),
        "generator": half_generator.get_state(),
    }
    saved = load_training_state(save_training_state(tmp_path / "last", state))
    assert same(saved["optimizer"], half_optimizer.state_dict())

    resumed, resumed_optimizer, resumed_generator = start()
    resumed.load_state_dict(saved["model"])
    resumed_optimizer.load_state_dict(saved["optimizer"])
    resumed_generator.set_state(saved["generator"])
    train(resumed, resumed_optimizer, 3, resumed_generator)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))
