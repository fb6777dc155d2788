"""The dense detection head: shapes, gradients, padding, draws, and targets of every size."""

import pytest
import torch

from models.base import FeatureSpec
from models.dense_detection import DenseHead, DenseOptions

SMALL = {"width": 16, "refine_width": 8, "refine_samples": 8, "refine_from": 0.0, "input_dropout": 0.0}


def make_head(patch: int = 14, channels: tuple[int, ...] = (8,), classes: int = 2, **options) -> DenseHead:
    torch.manual_seed(0)
    spec = FeatureSpec(channels, (patch,) * len(channels), patch, 3, (0.5,) * 3, (0.5,) * 3)
    return DenseHead(spec, classes, DenseOptions(**{**SMALL, **options}))


def make_target(*samples: list, crowds: tuple[int, ...] = ()) -> dict:
    """Boxes of each sample, all of class 1; of the first sample some are crowds."""
    boxes = [torch.tensor(sample, dtype=torch.float32).reshape(-1, 4) for sample in samples]
    is_crowd = [torch.zeros(len(each), dtype=torch.bool) for each in boxes]
    for row in crowds:
        is_crowd[0][row] = True
    return {
        "boxes_xyxy": boxes,
        "labels": [torch.ones(len(each), dtype=torch.int64) for each in boxes],
        "is_crowd": is_crowd,
    }


def total(head: DenseHead, outputs: dict, target: dict) -> torch.Tensor:
    counts, weights = head.counts_of(target), head.loss_weights()
    terms = head.losses(outputs, target, 0.0)
    assert set(terms) == set(counts) == set(weights)
    assert {name for name, value in terms.items() if isinstance(value, tuple)} == {
        name for name, value in counts.items() if value is None
    }
    pairs = {name: value if isinstance(value, tuple) else (value, counts[name]) for name, value in terms.items()}
    return sum(weights[name] * value / count.clamp(min=1).to(value.dtype) for name, (value, count) in pairs.items())


@pytest.mark.parametrize("patch", [14, 16])
@pytest.mark.parametrize("levels", [[1.0], [2.0], [2.0, 1.0, 0.5], [0.25]])
@pytest.mark.parametrize("refine", [False, True])
def test_boxes_and_gradients_for_every_patch_and_level(patch, levels, refine):
    head = make_head(patch, (8, 4), levels=levels, refine=refine)
    maps = [torch.randn(2, channels, 5, 7) for channels in (8, 4)]
    target = make_target([[3, 3, 40, 60], [20, 5, 90, 70], [0, 0, 3, 3]], [])
    outputs = head.train()(maps, target=target)
    total(head, outputs, target).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    found = head.eval()(maps)
    number = found["boxes_xyxy"].shape[1]
    assert found["boxes_xyxy"].shape == (2, number, 4)
    assert found["scores"].shape == (2, number, 2)
    assert number <= head.max_objects
    assert found["scores"].min() >= 0
    assert found["scores"].max() <= 1
    low, high = found["boxes_xyxy"][..., :2], found["boxes_xyxy"][..., 2:]
    assert (low >= 0).all()
    assert (high >= low).all()
    assert (high <= torch.tensor([7.0 * patch, 5.0 * patch])).all()


def test_no_sample_gives_zero_gradients_to_all_weights():
    head = make_head(levels=[2.0, 1.0])
    outputs = head.train()([torch.zeros(0, 8, 4, 5)], target=make_target())
    (0 * torch.stack([value.sum() for value in outputs.values() if value.requires_grad]).sum()).backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in head.parameters())
    assert head.eval()([torch.zeros(0, 8, 4, 5)])["boxes_xyxy"].shape == (0, 0, 4)


@pytest.mark.parametrize("levels", [[1.0], [2.0, 1.0, 0.5, 0.25]])
def test_a_padded_picture_gives_what_it_gives_alone(levels):
    head = make_head(levels=levels, candidates=40).eval()
    small, large = torch.randn(1, 8, 3, 5), torch.randn(1, 8, 6, 6)
    padded = torch.randn(1, 8, 6, 6)  # maps mirror what lies in padding; here it is anything
    padded[..., :3, :5] = small
    valid = torch.ones(2, 84, 84, dtype=torch.bool)
    valid[0, 42:], valid[0, :, 70:] = False, False
    together = head([torch.cat([padded, large])], valid=valid)
    for row, maps in enumerate((small, large)):
        alone = head([maps])
        number = alone["boxes_xyxy"].shape[1]
        torch.testing.assert_close(together["boxes_xyxy"][row, :number], alone["boxes_xyxy"][0], atol=1e-3, rtol=0)
        torch.testing.assert_close(together["scores"][row, :number], alone["scores"][0], atol=1e-5, rtol=0)
        assert not together["scores"][row, number:].any()


def test_targets_are_not_looked_at_when_it_predicts():
    head, maps = make_head().eval(), [torch.randn(1, 8, 4, 5)]
    plain, given = head(maps), head(maps, target=make_target([[0, 0, 30, 30]]))
    assert set(plain) == set(given) == {"boxes_xyxy", "scores"}
    assert all(torch.equal(plain[name], given[name]) for name in plain)


@pytest.mark.parametrize(
    "samples",
    [([], []), ([[5, 5, 6, 6]], []), ([[x, y, x + 3, y + 3] for x in range(0, 80, 4) for y in range(0, 80, 4)], [])],
    ids=["nothing", "one pixel", "400 objects"],
)
@pytest.mark.parametrize("levels", [[1.0], [2.0, 0.5]])
def test_every_number_and_size_of_objects(samples, levels):
    head = make_head(levels=levels)
    target = make_target(*samples)
    outputs = head.train()([torch.randn(2, 8, 6, 6)], target=target)
    loss = total(head, outputs, target)
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def test_losses_and_counts_need_no_weights():
    head, target = make_head(), make_target([[3, 3, 40, 60]])
    outputs = head.train()([torch.randn(1, 8, 5, 5)], target=target)
    with torch.device("meta"):
        shape_only = make_head()
    assert torch.equal(total(shape_only, outputs, target), total(head, outputs, target))


def test_a_crowd_is_neither_learnt_nor_a_false_alarm():
    head = make_head(refine=False)
    outputs = head.train()([torch.randn(1, 8, 5, 5)])
    alarm = dict(outputs)
    alarm["cell_logits"] = outputs["cell_logits"].clone()
    points = outputs["cell_points"]
    inside = (points < 42).all(dim=1)
    alarm["cell_logits"][0, inside] += 5
    crowd, nothing = make_target([[0, 0, 42, 42]], crowds=(0,)), make_target([])
    assert total(head, alarm, crowd) == total(head, outputs, crowd)
    assert total(head, alarm, nothing) > total(head, outputs, nothing)


def test_draws_change_with_the_step_and_not_with_the_rest_of_the_batch():
    head, maps = make_head(dropout=0.0).train(), torch.randn(2, 8, 5, 5)
    target = make_target([[3, 3, 40, 60]], [[20, 10, 60, 50]])
    state = {name: value.clone() for name, value in head.state_dict().items()}
    together = head([maps], target=target)["roi_inputs"]
    later = head([maps], target=target)["roi_inputs"]
    head.load_state_dict(state)
    second = {name: values[1:] for name, values in target.items()}
    alone = head([maps[1:]], target=second)["roi_inputs"]
    assert not torch.equal(together, later)
    torch.testing.assert_close(alone[0, 0], together[0, 1])


def test_objects_of_other_classes_teach_edges_and_no_class():
    maps, own = torch.randn(1, 8, 5, 5), [20.0, 10, 60, 50]
    target = make_target([])
    without = target | {"others_xyxy": [torch.zeros(0, 4)]}
    target["others_xyxy"] = [torch.tensor([own])]
    head = make_head(dropout=0.0, refine_samples=4, other_classes=True).train()
    assert head.counts_of(target)["boxes"] == make_head().counts_of(make_target([own]))["boxes"] > 0
    assert head.counts_of(without)["boxes"] == make_head().counts_of(target)["boxes"] == 0
    assert head.counts_of(target)["classes"] == 0
    outputs = head([maps], target=target)
    losses = head.losses(outputs, target, 0.0)
    assert losses["boxes"] > 0
    assert losses["refine_edges"][1] == losses["refine_boxes"][1] > 0
    background = head.losses(outputs, without, 0.0)
    torch.testing.assert_close(losses["classes"], background["classes"])  # the class sees background
    told = torch.nn.functional.binary_cross_entropy_with_logits(
        outputs["roi_classes"], torch.zeros_like(outputs["roi_classes"]), reduction="none"
    )
    torch.testing.assert_close(losses["refine_classes"][0], (told * outputs["roi_present"][None, ..., None]).sum())
    taught = head.losses(outputs, make_target([own]), 0.0)
    assert taught["refine_classes"][0] != losses["refine_classes"][0]


def test_whole_channels_are_left_out_in_training_only():
    head, maps = make_head(dropout=0.0, input_dropout=0.5, refine=False), torch.rand(2, 8, 3, 4) + 1
    seen = []
    head.projections.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    head.train()([maps], target=make_target([], []))
    head.eval()([maps])
    share = (seen[0] == 0).float().mean(dim=(2, 3))
    assert set(share.flatten().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(seen[0][share == 0], 2 * maps[share == 0])
    assert torch.equal(seen[1], maps)


def test_it_learns_where_boxes_are():
    """Objects stand out from noise; the second look must not spoil what the first found."""
    head = make_head(channels=(8,), classes=2, dropout=0.0)
    generator = torch.Generator().manual_seed(0)
    maps, samples = torch.zeros(8, 8, 8, 8), []
    for row in range(8):
        x, y, width, height = torch.randint(0, 3, (4,), generator=generator).tolist()
        low, high = torch.tensor([x, y]), torch.tensor([x + 2 + width, y + 2 + height])
        maps[row, 0, low[1] : high[1], low[0] : high[0]] = 4.0
        maps[row, 1:] = 0.3 * torch.randn(7, 8, 8, generator=generator)
        samples.append([[*(14 * low).tolist(), *(14 * high).tolist()]])
    target = make_target(*samples)
    optimizer = torch.optim.AdamW(head.parameters(), lr=5e-3)
    for _ in range(120):
        optimizer.zero_grad()
        total(head.train(), head([maps], target=target), target).backward()
        optimizer.step()
    found = head.eval()([maps])
    best = found["scores"][..., 1].argmax(dim=1)
    boxes = found["boxes_xyxy"][torch.arange(8), best]
    assert (boxes - torch.tensor(samples)[:, 0]).abs().mean() < 3
    assert (found["scores"][torch.arange(8), best, 1] > 0.6).all()
