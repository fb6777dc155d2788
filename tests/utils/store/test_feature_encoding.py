"""Stored feature maps: the error of int8 is bounded, and what would be spoilt is refused."""

import pytest
import torch

from utils.errors import DataError
from utils.store.encoding import Int8Features, encode_features, encoded_bytes


@pytest.mark.parametrize("shape", [(3, 4, 5), (7, 2, 1), (2, 6)])
def test_int8_error_is_at_most_half_a_scale(shape):
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 4, shape[0]).view(
        -1, *[1] * (len(shape) - 1)
    )
    encoded = encode_features(features, "int8")
    error = (encoded.decode() - features).abs().flatten(1).amax(1)
    assert (error <= encoded.scales / 2 * (1 + 1e-5)).all()
    assert (error > 0).any()
    assert torch.allclose(encoded.scales * 127, features.abs().flatten(1).amax(1))


def test_int8_keeps_zeros_and_tiny_channels():
    features = torch.stack([torch.zeros(4), torch.full((4,), 1e-42), torch.tensor([1.0, -1.0, 0.5, 0.0])])
    decoded = encode_features(features, "int8").decode()
    assert decoded[0].tolist() == [0, 0, 0, 0]
    assert decoded.isfinite().all()
    assert decoded[2, :2].tolist() == pytest.approx([1, -1])


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "int8"])
def test_encoded_bytes_is_what_is_stored(dtype):
    encoded = encode_features(torch.ones(6, 3, 5), dtype)
    parts = [encoded.values, encoded.scales] if isinstance(encoded, Int8Features) else [encoded]
    assert encoded_bytes((6, 3, 5), dtype) == sum(part.nbytes for part in parts)


def test_encodings_refuse_what_they_would_spoil():
    large = torch.full((1, 1, 1), 70000.0)
    with pytest.raises(DataError, match=r"reaches 70000, fp16 ends at 65504: choose bf16"):
        encode_features(large, "fp16")
    assert encode_features(large, "bf16").item() == pytest.approx(70000, rel=1e-2)
    for dtype in ("fp16", "bf16", "int8"):
        with pytest.raises(DataError, match="NaN or infinity"):
            encode_features(torch.tensor([[[1.0, float("nan")]]]), dtype)
    for refuse in (lambda: encode_features(large, "fp8"), lambda: encoded_bytes((1, 1, 1), "fp8")):
        with pytest.raises(ValueError, match="unknown feature dtype 'fp8'; known: fp16, bf16, int8"):
            refuse()
    with pytest.raises(ValueError, match=r"must have shape \(C, h, w\) with cells, got \(3,\)"):
        encode_features(torch.ones(3), "int8")
