"""The projection of blocks keeps the directions of most variance of standardised channels, by any arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models import HEADS, build_head, find_head
from models.backbones.projection import TokenMoments
from models.base import FeatureSpec

ONE_MAP = FeatureSpec((6,), (14,), 14, 3, (0.5,) * 3, (0.5,) * 3)
HEAD_NAMES = [(kind, name) for kind in HEADS if kind != "distill" for name in sorted(HEADS[kind])]


def correlated_tokens(number: int = 500, channels: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(channels, channels, generator=generator) * torch.linspace(0.1, 3, channels)
    return torch.randn(number, channels, generator=generator) @ mix + torch.arange(channels)


def moments_of(tokens: torch.Tensor, part: int = 100) -> TokenMoments:
    moments = TokenMoments(tokens.shape[1])
    for first in range(0, len(tokens), part):
        moments.add(tokens[first : first + part])
    return moments


def as_maps(tokens: torch.Tensor, *widths: int) -> list[torch.Tensor]:
    """Tokens as the maps of one picture, a cell each, of blocks of so many channels."""
    return [part.T[None, :, None] for part in tokens.split(widths, dim=1)]


def test_the_projection_is_the_principal_components_of_standardised_channels():
    tokens = correlated_tokens()
    projection, explained = moments_of(tokens).projection(5)
    found = projection(as_maps(tokens, 4, 8))[0, :, 0].T.double().numpy()
    values = tokens.double().numpy()
    standard = (values - values.mean(0)) / values.std(0)
    left, singular, _ = np.linalg.svd(standard, full_matrices=False)
    expected = left[:, :5] * singular[:5]
    expected *= np.sign((expected * found).sum(0)) / np.sqrt((expected**2).mean())
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert explained == pytest.approx((singular[:5] ** 2).sum() / (singular**2).sum())
    assert found.var(0).mean() == pytest.approx(1, abs=1e-5)


def test_no_block_outweighs_another_by_the_size_of_its_values():
    tokens = correlated_tokens()
    larger = torch.cat([tokens[:, :4], 1000 * tokens[:, 4:] + 50], dim=1)
    one, other = (moments_of(values).projection(5)[0](as_maps(values, 4, 8)) for values in (tokens, larger))
    torch.testing.assert_close(one, other, atol=2e-3, rtol=0)


def test_a_constant_channel_counts_for_nothing():
    tokens = correlated_tokens(channels=4)
    projection, _ = moments_of(torch.cat([tokens, torch.full((500, 1), 0.1)], dim=1)).projection(3)
    assert projection.weight[:, 4].tolist() == [0, 0, 0]


def test_equal_tokens_give_equal_bits_on_any_number_of_threads():
    tokens, digests, before = correlated_tokens(2000, 96), set(), torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            digests.add(moments_of(tokens, 1000).projection(40)[0].digest)
    finally:
        torch.set_num_threads(before)
    assert len(digests) == 1


def test_a_picture_is_projected_to_the_same_bits_in_any_batch():
    projection, _ = moments_of(correlated_tokens()).projection(5)
    maps = [torch.randn(3, width, 7, 5, generator=torch.Generator().manual_seed(width)) for width in (4, 8)]
    together = projection(maps)
    for index in range(3):
        assert torch.equal(projection([feature_map[index : index + 1] for feature_map in maps])[0], together[index])


@pytest.mark.parametrize(("kind", "name"), HEAD_NAMES)
def test_every_head_works_on_one_map(kind, name):
    options = {key: 32 for key in ("width",) if key in find_head(kind, name).Options.model_fields}
    head = build_head(kind, name, ONE_MAP, 2, options).eval()
    with torch.no_grad():
        outputs = head([torch.randn(1, 6, 4, 6)], torch.zeros(1, 3, 56, 84), **dict.fromkeys(head.takes))
    assert outputs
    assert all(torch.isfinite(value).all() for value in outputs.values() if value.is_floating_point())
