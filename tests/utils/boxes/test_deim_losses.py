"""The losses of DEIM piece by piece against transformers' own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import Deimv2Config
from transformers.loss.loss_deimv2 import Deimv2Loss

from tests.utils.boxes.test_matching import random_boxes, random_objects
from utils.boxes.deim_losses import distillation_sum, fine_grained_sum, matching_aware_sum, overlaps
from utils.boxes.matching import Matches, focal_class_costs, match_sets

CLASSES, QUERIES, BINS = 3, 12, 32


@pytest.fixture(scope="module")
def library() -> Deimv2Loss:
    return Deimv2Loss(Deimv2Config(num_labels=CLASSES, focal_loss_gamma=1.5))


class Case:
    """Random predictions of two layers, and objects near some of them."""

    def __init__(self, numbers: list[int]):
        generator = torch.Generator().manual_seed(5)
        self.numbers = numbers
        self.labels, self.objects = random_objects(numbers, CLASSES)
        self.logits = torch.randn(2, len(numbers), QUERIES, CLASSES, generator=generator)
        self.boxes = random_boxes(2, len(numbers), QUERIES, seed=6)
        self.references = random_boxes(len(numbers), QUERIES, seed=6)
        self.references[..., :2] += 0.02
        self.corners = torch.randn(2, len(numbers), QUERIES, 4 * (BINS + 1), generator=generator)
        self.matches = match_sets(
            self.logits[:1], self.boxes[:1], self.labels, self.objects, focal_class_costs, (2.0, 5.0, 2.0)
        )
        self.target = [
            {"class_labels": classes, "boxes": truth} for classes, truth in zip(self.labels, self.objects, strict=True)
        ]
        starts = [sum(numbers[:image]) for image in range(len(numbers))]
        self.indices = [
            (
                self.matches.queries[self.matches.images == image],
                self.matches.objects[self.matches.images == image] - first,
            )
            for image, first in enumerate(starts)
        ]
        self.quality = overlaps(self.boxes[:1], torch.cat(self.objects), self.matches)

    def outputs(self, layer: int = 0) -> dict[str, Tensor]:
        return {
            "logits": self.logits[layer],
            "pred_boxes": self.boxes[layer],
            "pred_corners": self.corners[layer],
            "ref_points": self.references,
            "teacher_corners": self.corners[1],
            "teacher_logits": self.logits[1].clone(),
        }


@pytest.mark.parametrize("numbers", [[4, 0, 7], [1, 1]])
def test_scores_learn_as_in_transformers(library: Deimv2Loss, numbers: list[int]) -> None:
    case = Case(numbers)
    silent = torch.zeros(1, len(numbers), QUERIES, dtype=torch.bool)
    found = matching_aware_sum(case.logits[:1], torch.cat(case.labels), case.quality, case.matches, silent, 1.5)
    expected = library.loss_labels_mal(case.outputs(), case.target, case.indices, 1)["loss_mal"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("numbers", [[4, 0, 7], [1, 1]])
def test_edges_learn_as_in_transformers(library: Deimv2Loss, numbers: list[int]) -> None:
    case = Case(numbers)
    found = fine_grained_sum(
        case.corners[:1], case.references, torch.cat(case.objects), case.quality, case.matches, 4.0, 0.5
    )
    expected = library.loss_local(case.outputs(), case.target, case.indices, 1)["loss_fgl"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert found.item() > 0


@pytest.mark.parametrize("number", [0, 1, 5])
def test_earlier_layers_learn_from_the_last_as_in_transformers(library: Deimv2Loss, number: int) -> None:
    case = Case([number])  # for one picture the numbers of the picture are those of the batch
    found = distillation_sum(case.corners, case.logits[1], case.quality, case.matches, torch.tensor([QUERIES]))
    expected = library.loss_local(case.outputs(), case.target, case.indices, 1)["loss_ddf"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_distillation_adds_up_over_pictures_and_does_not_see_filler() -> None:
    case = Case([4, 0, 7])
    queries = torch.tensor([QUERIES] * 3)
    whole = distillation_sum(case.corners, case.logits[1], case.quality, case.matches, queries)
    parts = []
    for image in range(3):
        rows = case.matches.images == image
        sets, images, *rest = (part[rows] for part in case.matches)
        matches = Matches(sets, torch.zeros_like(images), *rest)
        part = slice(image, image + 1)
        wide = torch.cat([case.corners[:, part], torch.randn(2, 1, 5, 4 * (BINS + 1))], dim=2)
        logits = torch.cat([case.logits[1, part], torch.randn(1, 5, CLASSES)], dim=1)
        parts.append(distillation_sum(wide, logits, case.quality[rows], matches, torch.tensor([QUERIES])))
    torch.testing.assert_close(sum(parts), whole)


def test_gradients_flow_to_what_is_taught_only() -> None:
    case = Case([4])
    corners = case.corners.requires_grad_()
    distillation_sum(corners, case.logits[1], case.quality, case.matches, torch.tensor([QUERIES])).backward()
    assert corners.grad is not None
    assert corners.grad[0].abs().sum() > 0
    assert corners.grad[1].abs().sum() == 0
