"""Matching: the cheapest assignment, the matchers of transformers, what a union of layers says, and ignore regions."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers.loss.loss_for_object_detection import HungarianMatcher
from transformers.loss.loss_rt_detr import RTDetrHungarianMatcher

from utils.boxes.matching import Matches, assign, focal_class_costs, match_sets, softmax_class_costs, unite


def random_boxes(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(*shape, 2, generator=generator)
    return torch.cat([centres, 0.05 + 0.3 * torch.rand(*shape, 2, generator=generator)], dim=-1)


def random_objects(numbers: list[int], num_classes: int, seed: int = 1) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    labels = [torch.randint(num_classes, (number,), generator=generator) for number in numbers]
    return labels, [random_boxes(number, seed=seed + index) for index, number in enumerate(numbers)]


@pytest.mark.parametrize("seed", range(5))
def test_the_assignment_is_the_cheapest_of_all(seed: int) -> None:
    costs = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(seed))
    for of_set, chosen in zip(costs, assign(costs), strict=True):
        found = float(of_set[chosen, torch.arange(3)].sum())
        least = min(float(of_set[list(rows), torch.arange(3)].sum()) for rows in permutations(range(5), 3))
        assert found == pytest.approx(least)
        assert len(set(chosen.tolist())) == 3


def test_costs_that_are_no_numbers_are_taken_last_and_never_fail() -> None:
    assert sorted(assign(torch.full((1, 4, 4), float("nan")))[0].tolist()) == [0, 1, 2, 3]
    costs = torch.zeros(1, 3, 2)
    costs[0, 0] = float("inf")
    assert 0 not in assign(costs)[0].tolist()


def test_more_objects_than_queries_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot match 4 objects with 3 queries"):
        assign(torch.zeros(1, 3, 4))


FOCAL = SimpleNamespace(
    matcher_class_cost=2.0,
    matcher_bbox_cost=5.0,
    matcher_giou_cost=2.0,
    use_focal_loss=True,
    matcher_alpha=0.25,
    matcher_gamma=2.0,
)


@pytest.mark.parametrize("kind", ["softmax", "focal"])
def test_matches_are_those_of_transformers(kind: str) -> None:
    numbers = [4, 0, 7]
    labels, objects = random_objects(numbers, num_classes=5)
    logits = torch.randn(3, 3, 20, 5 + (kind == "softmax"), generator=torch.Generator().manual_seed(2))
    boxes = random_boxes(3, 3, 20, seed=3)
    costs, weights = (
        (softmax_class_costs, (1.0, 5.0, 2.0)) if kind == "softmax" else (focal_class_costs, (2.0, 5.0, 2.0))
    )
    matches = match_sets(logits, boxes, labels, objects, costs, weights)
    matcher = HungarianMatcher(1, 5, 2) if kind == "softmax" else RTDetrHungarianMatcher(FOCAL)
    target = [{"class_labels": classes, "boxes": truth} for classes, truth in zip(labels, objects, strict=True)]
    expected = set()
    for number in range(3):
        pairs = matcher({"logits": logits[number], "pred_boxes": boxes[number]}, target)
        for image, (queries, rows) in enumerate(pairs):
            before = sum(numbers[:image])
            expected |= {(number, image, int(q), before + int(row)) for q, row in zip(queries, rows, strict=True)}
    assert set(zip(*(part.tolist() for part in matches), strict=True)) == expected
    assert len(matches.sets) == 3 * sum(numbers)


def test_filler_is_never_matched() -> None:
    labels, objects = random_objects([3, 3], num_classes=2)
    boxes = random_boxes(1, 2, 8)
    boxes[0, 0, 5:8] = objects[0]  # would fit exactly
    matches = match_sets(
        torch.zeros(1, 2, 8, 2), boxes, labels, objects, focal_class_costs, (2.0, 5.0, 2.0), num_queries=[5, 8]
    )
    assert int(matches.queries[matches.images == 0].max()) < 5


@pytest.mark.parametrize("seed", range(4))
def test_a_union_gives_every_matched_query_its_most_frequent_object(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    most = torch.tensor([[5], [2], [6], [4]])
    matches = Matches(*(torch.rand(4, 60, generator=generator) * most).long())
    votes: dict[tuple[int, int], Counter[int]] = {}
    for image, query, chosen in zip(*(part.tolist() for part in matches[1:]), strict=True):
        votes.setdefault((image, query), Counter())[chosen] += 1
    expected = {
        place: min(object_ for object_, number in counted.items() if number == max(counted.values()))
        for place, counted in votes.items()
    }
    united = unite(matches, num_sets=3)
    for number in range(3):
        rows = united.sets == number
        images, queries, objects = (part[rows].tolist() for part in united[1:])
        assert dict(zip(zip(images, queries, strict=True), objects, strict=True)) == expected
        assert len(images) == len(expected)


def test_a_union_of_nothing_is_nothing() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    assert [len(part) for part in unite(Matches(nothing, nothing, nothing, nothing), 3)] == [0, 0, 0, 0]
