"""Local maxima: found like by looking at every cell, and one for each plateau."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from utils.keypoints.local_maxima import centre_on_plateaus, find_maxima, read_neighbourhoods


def maxima_one_by_one(values: np.ndarray, least: float) -> set[frozenset[tuple[int, int]]]:
    """Connected equal cells without a higher neighbour, as sets of (row, column)."""
    found = set()
    for value in np.unique(values[values >= least]):
        labels, count = ndimage.label(values == value, np.ones((3, 3)))
        for number in range(1, count + 1):
            region = labels == number
            around = ndimage.binary_dilation(region, np.ones((3, 3))) & ~region
            if not around.any() or values[around].max() < value:
                found.add(frozenset(map(tuple, np.argwhere(region).tolist())))
    return found


@pytest.mark.parametrize("levels", [3, 6, 1000])
@pytest.mark.parametrize("size", [(9, 14), (2, 7), (1, 1)])
def test_maxima_are_the_regions_without_a_higher_neighbour(levels: int, size: tuple[int, int]) -> None:
    maps = torch.randint(0, levels, (12, *size), generator=torch.Generator().manual_seed(levels)).float()
    index, cells = find_maxima(maps, least=1.0)
    assert (index.diff() >= 0).all()
    for number, values in enumerate(maps.numpy()):
        expected = maxima_one_by_one(values, 1.0)
        places = [(row, column) for column, row in cells[index == number].tolist()]
        assert len(places) == len(expected)
        for region in expected:
            (place,) = region & set(places)
            middle = np.mean(list(region), axis=0)
            distances = [np.linalg.norm(np.subtract(cell, middle)) for cell in region]
            assert np.linalg.norm(np.subtract(place, middle)) == pytest.approx(min(distances))


def test_nan_and_ground_outside_the_picture_are_no_maxima() -> None:
    maps = torch.full((2, 4, 5), -torch.inf)
    maps[1] = float("nan")
    assert [len(part) for part in find_maxima(maps, -torch.inf)] == [0, 0]


def test_a_map_of_one_value_has_one_maximum_in_its_middle() -> None:
    index, cells = find_maxima(torch.zeros(2, 5, 7), least=0.0)
    assert (index.tolist(), cells.tolist()) == ([0, 1], [[3, 2], [3, 2]])


def test_the_strongest_cell_moves_to_the_middle_of_its_own_plateau_only() -> None:
    maps = torch.zeros(3, 6, 9)
    maps[0, 1:4, 2:5] = 1.0
    maps[0, 5, 8] = 1.0  # as strong, but elsewhere
    maps[1, 4, 3] = 1.0
    maps[2, 0, :5] = 1.0
    first = maps.flatten(1).argmax(dim=1)
    cells = torch.stack([first % 9, first // 9], dim=1)
    assert centre_on_plateaus(maps, cells).tolist() == [[3, 2], [3, 4], [2, 0]]


def test_neighbourhoods_are_read_around_the_cell_or_next_to_the_border() -> None:
    maps: Tensor = torch.arange(2 * 4 * 5).view(2, 4, 5)
    values, middle = read_neighbourhoods(maps, torch.tensor([0, 1]), torch.tensor([[0, 3], [2, 2]]))
    assert middle.tolist() == [[1, 2], [2, 2]]
    assert torch.equal(values[0], maps[0, 1:4, 0:3])
    assert torch.equal(values[1], maps[1, 1:4, 1:4])
