import pytest
import torch
from torch import nn

from utils.errors import DataError
from utils.runtime.starts import init_from


class Head(nn.Module):
    """A head whose hidden layer has, by chance, as many rows as there are classes."""

    output_layers = ("classifier",)

    def __init__(self, num_classes: int, width: int = 2):
        super().__init__()
        self.hidden = nn.Linear(3, width)
        self.classifier = nn.Linear(width, num_classes)


def test_init_from_copies_class_rows_by_name_and_hidden_rows_in_order():
    source, head = Head(2), Head(3)
    fresh = head.classifier.weight[1].clone()
    named = init_from(head, source.state_dict(), ["road", "water"], ["water", "house", "road"])
    assert named == ["classifier.weight (house)", "classifier.bias (house)"]
    assert torch.equal(head.hidden.weight, source.hidden.weight)
    assert torch.equal(head.classifier.weight[[2, 0]], source.classifier.weight)
    assert torch.equal(head.classifier.weight[1], fresh)


def test_init_from_does_not_mix_up_classes_of_equal_number():
    source, head = Head(2), Head(2)
    assert init_from(head, source.state_dict(), ["road", "water"], ["water", "road"]) == []
    assert torch.equal(head.classifier.bias, source.classifier.bias.flip(0))
    assert torch.equal(head.hidden.bias, source.hidden.bias)


def test_init_from_finds_declared_layers_of_a_part_and_keeps_the_row_of_no_object():
    source, model = nn.ModuleDict({"head": Head(3)}), nn.ModuleDict({"head": Head(2)})
    assert init_from(model, source.state_dict(), ["road", "water"], ["water"]) == []
    assert torch.equal(model["head"].classifier.bias, source["head"].classifier.bias[1:])


def test_init_from_without_names_reinitialises_what_has_another_shape():
    source, head = Head(2), Head(3)
    fresh = head.classifier.bias.clone()
    assert init_from(head, source.state_dict()) == ["classifier.weight", "classifier.bias"]
    assert torch.equal(head.classifier.bias, fresh)


def test_init_from_names_whole_tensors_where_no_class_is_common():
    names = init_from(Head(2), Head(2).state_dict(), ["a", "b"], ["c", "d"])
    assert names == ["classifier.weight", "classifier.bias"]


def test_init_from_refuses_a_source_with_nothing_in_common():
    with pytest.raises(DataError, match=r"no tensor of this Head matches; it has hidden\.weight, .*the other has none"):
        init_from(Head(2), {})
