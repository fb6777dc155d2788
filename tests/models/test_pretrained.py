"""`model.init`: what is taken from a detector of transformers, what is not, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DetrForObjectDetection

from models.base import FeatureSpec
from models.deim import DeimHead, DeimOptions
from models.detr import DetrHead, DetrOptions, detr_config
from models.pretrained import find_pretrained, start_from
from utils.errors import DataError

SPEC = FeatureSpec((8,) * 2, (14,) * 2, 14, 3, (0.5,) * 3, (0.5,) * 3)
SMALL = {"width": 32, "encoder_layers": 2, "decoder_layers": 2, "attention_heads": 4, "feedforward": 48}


def detr(num_queries: int = 30, **options: int) -> DetrHead:
    torch.manual_seed(1)
    return DetrHead(SPEC, 3, DetrOptions(**SMALL | options, num_queries=num_queries))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small DETR of 91 classes and 10 queries on a small ResNet, as transformers saves it."""
    config = detr_config(DetrOptions(**SMALL, num_queries=10))
    config.num_labels = 91
    config.backbone_config.hidden_sizes = [8, 8, 8, 16]
    config.backbone_config.depths, config.backbone_config.embedding_size = [1, 1, 1, 1], 8
    config.backbone_config.layer_type = "basic"
    path = tmp_path_factory.mktemp("detr")
    torch.manual_seed(0)
    DetrForObjectDetection(config).save_pretrained(path)
    return path


def test_encoder_and_decoder_are_taken_and_what_has_another_shape_is_named(folder: Path) -> None:
    head, before = detr(), detr()
    lines = start_from(head, folder)
    fresh = {"input_projection.weight", "query_position_embeddings.weight", "class_labels_classifier.weight"}
    fresh |= {"class_labels_classifier.bias"}
    names = dict(head.named_parameters())
    assert lines[0].startswith(f"{len(names) - 4} of {len(names)} tensors of the head are taken from there")
    assert "query_position_embeddings.weight (10 x 32 there, 30 x 32 here)" in lines[1]
    assert "class_labels_classifier.bias (92 there, 4 here)" in lines[1]
    changed = {
        name
        for (name, part), other in zip(names.items(), before.parameters(), strict=True)
        if not torch.equal(part, other)
    }
    constant = {name for name, part in before.named_parameters() if part.std() == 0 or part.numel() == 1}
    assert changed | constant >= set(names) - fresh
    assert not changed & (fresh - {"class_labels_classifier.bias"})


def test_a_head_that_took_over_everything_computes_what_transformers_computes(folder: Path) -> None:
    library = DetrForObjectDetection.from_pretrained(folder).eval()
    head = DetrHead(SPEC, 91, DetrOptions(**SMALL, num_queries=10)).eval()
    start_from(head, folder)
    memory, places = torch.randn(1, 6, 32), torch.randn(1, 6, 32)
    mask = torch.ones(1, 6, dtype=torch.bool)
    encoded = [part(memory, mask, places).last_hidden_state for part in (head.encoder, library.model.encoder)]
    assert torch.equal(*encoded)
    assert torch.equal(head.bbox_predictor(memory), library.bbox_predictor(memory))
    assert torch.equal(head.query_position_embeddings.weight, library.model.query_position_embeddings.weight)


def test_published_files_with_older_names_fit(folder: Path, tmp_path: Path) -> None:
    old = {
        name.replace("o_proj", "out_proj").replace(".mlp.fc", ".fc"): part
        for name, part in load_file(folder / "model.safetensors").items()
    }
    assert any("out_proj" in name for name in old)
    save_file(old, tmp_path / "model.safetensors")
    one, other = detr(), detr()
    assert start_from(one, folder) == start_from(other, tmp_path)
    assert all(torch.equal(*parts) for parts in zip(one.parameters(), other.parameters(), strict=True))


def test_fewer_layers_take_what_they_have(folder: Path) -> None:
    head = detr(encoder_layers=0)
    start_from(head, folder)
    whole = load_file(folder / "model.safetensors")
    assert torch.equal(head.bbox_predictor.layers[0].weight, whole["bbox_predictor.layers.0.weight"])


def test_another_kind_of_detector_is_refused(folder: Path) -> None:
    head = DeimHead(SPEC, 3, DeimOptions(width=32, attention_heads=4, feedforward=48))
    with pytest.raises(DataError, match=r"is of the kind 'detr', but the head starts from 'deimv2'"):
        start_from(head, folder)


def test_weights_of_which_nothing_fits_are_refused(folder: Path, tmp_path: Path) -> None:
    save_file({"embeddings.cls_token": torch.zeros(1, 1, 8)}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"none of its 1 tensors fits the head DetrHead: it has embeddings\.cls_token"):
        start_from(detr(), tmp_path)


def test_pickles_are_refused(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"only pickled weights \(pytorch_model\.bin\), which could run code"):
        start_from(detr(), tmp_path)


def test_weights_that_are_no_numbers_are_refused(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("decoder.layernorm.weight"))
    save_file(tensors | {name: torch.full((32,), float("nan"))}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"decoder\.layernorm\.weight holds NaN or infinity"):
        start_from(detr(), tmp_path)


def test_an_id_that_the_cache_does_not_hold_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        DataError, match=r"model\.init: 'facebook/detr-resnet-50': neither a folder nor in the Hugging.*unset"
    ):
        find_pretrained("facebook/detr-resnet-50")


def test_deim_takes_the_decoder(tmp_path: Path) -> None:
    options = {"width": 32, "attention_heads": 4, "feedforward": 48, "decoder_layers": 2, "detail_width": 0}
    torch.manual_seed(0)
    source, head = (DeimHead(SPEC, classes, DeimOptions(**options)) for classes in (80, 3))
    tensors = {f"model.{name}": part.detach().clone() for name, part in source.state_dict().items()}
    unique = {name: part for name, part in tensors.items() if not name.startswith("model.decoder.class_embed.1")}
    save_file(unique, tmp_path / "model.safetensors")
    before = {name: part.clone() for name, part in head.state_dict().items()}
    lines = start_from(head, tmp_path)
    assert torch.equal(head.decoder.layers[1].mlp.up_proj.weight, source.decoder.layers[1].mlp.up_proj.weight)
    assert torch.equal(head.enc_bbox_head.layers[0].weight, source.enc_bbox_head.layers[0].weight)
    assert all(torch.equal(part, before[name]) for name, part in head.encoder.state_dict(prefix="encoder.").items())
    assert "enc_score_head.weight (80 x 32 there, 3 x 32 here)" in " ".join(lines)
