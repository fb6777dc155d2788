"""Two real gloo processes run this file as a script, once; the tests look at what both have written."""

import json
import math
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.processes import ends_of
from utils.errors import DataError, DinolithError, Interrupted, LockedError, SettingsError
from utils.runtime import distributed

ROOT = Path(__file__).resolve().parents[3]
ERRORS = {
    "settings": SettingsError("train.lr: too large"),
    "data": DataError("scene.tif: truncated"),
    "lock": LockedError("runs/coral: in use"),
    "signal": Interrupted(signal.SIGTERM),
    "other": ZeroDivisionError("division by zero"),
    "keyboard": KeyboardInterrupt("key"),
}


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


class SquaredError(nn.Module):
    """Sum of squared errors; a rank without items leaves the parameters out, as a frozen part without samples does."""

    def __init__(self, model: nn.Module, unused: int):
        super().__init__()
        self.model = model
        self.unused = nn.ParameterList(nn.Parameter(torch.zeros(2, dtype=torch.float64)) for _ in range(unused))

    def forward(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if not len(images):
            return 0 * self.model[-1].bias.sum()
        return (self.model(images) - targets).square().sum()


def gradients_of(images: torch.Tensor, targets: torch.Tensor, micro_batches: int = 1) -> list[list | None]:
    """Gradients of the mean loss over the items of all ranks, by the project's rule."""
    count = distributed.sum_over_ranks(torch.tensor(float(len(images)), dtype=torch.float64))
    module = SquaredError(make_model(), unused=1)
    wrapped = distributed.wrap_in_ddp(module)
    for index in range(micro_batches):
        with distributed.share_gradients(wrapped, now=index == micro_batches - 1):
            loss = wrapped(images[index::micro_batches], targets[index::micro_batches]) / count
            (loss * distributed.world_size()).backward()
    return [None if weight.grad is None else weight.grad.tolist() for weight in module.parameters()]


def make_items(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return images, torch.randn(count, 2, generator=generator, dtype=torch.float64)


def fail(error: BaseException) -> None:
    raise error


def describe_error(function, *arguments) -> list:
    try:
        return ["no error", function(*arguments)]
    except BaseException as error:
        return [type(error).__name__, str(error)]


def try_reductions(rank: int) -> dict:
    values = torch.tensor([rank + 1, 10 * rank])
    half = torch.tensor([1.5 * (rank + 1)], dtype=torch.bfloat16)
    return {
        "sum": distributed.sum_over_ranks(values).tolist(),
        "sum_of_bfloat16": distributed.sum_over_ranks(half).tolist(),
        "untouched": values.tolist(),
        "share": [list(distributed.share(range(5))), list(distributed.share([7]))],
    }


def gather_mixed(rank: int) -> list:
    """What two ranks give each other as type, shape and sum: arrays of other sizes, none on rank 0."""
    scenes = {f"scene {index}": np.full((index + 1, 2), 0.1 * rank) for index in range(2 * rank)}
    state = {"scenes": scenes, "matrix": torch.full((2 + rank, 3), 7 - rank, dtype=torch.int64), "histogram": None}
    gathered = distributed.gather_objects(state)
    return [
        [
            (type(part).__name__, str(part.dtype), list(part.shape), float(part.sum()))
            for part in [*found["scenes"].values(), found["matrix"]]
        ]
        for found in gathered
    ]


def try_objects(rank: int) -> dict:
    return {
        "broadcast": distributed.broadcast_object({"names": ["forêt", rank], "best": float("-inf")}),
        "gather": distributed.gather_objects("x" * (5 * rank)),
        "gather_arrays": [[list(part) for part in value] for value in gather_mixed(rank)],
        "bytes_of_a_million_floats": len(distributed._encode({"state": np.full(10**6, 1 / 3, np.float32)})),
        "gather_key": describe_error(distributed.gather_objects, {rank: 1} if rank else {"a": 1}),
        "broadcast_key": describe_error(distributed.broadcast_object, {rank: 1}),
        "main_result": distributed.run_on_main(lambda value: {"made by": value}, rank),
        "main_has_no_json": describe_error(distributed.run_on_main, set),
        "errors": {name: describe_error(distributed.run_on_main, fail, error) for name, error in ERRORS.items()},
    }


def try_gradients(rank: int) -> dict:
    results = {}
    for count in (5, 1):  # with one item, rank 1 has an empty share
        images, targets = make_items(count)
        for parts in (1, 2):  # the second of two micro-batches is empty on more ranks than the first
            results[f"gradients_{count}_{parts}"] = gradients_of(images[rank::2], targets[rank::2], parts)
    return results


def batch_norm_gradient(items: torch.Tensor, scale: torch.Tensor) -> list:
    """Gradient of a loss behind the mean and variance of all ranks' items (the items are split by `share`)."""
    own = distributed.share(items).clone().requires_grad_()
    moments = torch.stack([own.sum(), own.square().sum(), torch.tensor(float(len(own)))])
    total, squares, count = distributed.differentiable_sum_over_ranks(moments)
    normalized = (own - total / count) / (squares / count - (total / count) ** 2).sqrt()
    (normalized**3 * distributed.share(scale)).sum().backward()
    return own.grad.tolist()


ITEMS = torch.tensor([0.5, -1.0, 2.0, 4.0, 3.0])
SCALE = torch.tensor([1.0, 2.0, -1.0, 0.5, 3.0])


def work_of_a_rank(folder: str) -> None:
    torch.set_num_threads(1)
    device = distributed.start_ranks("auto", timeout_s=60)
    rank = distributed.rank()
    results = {"ranks": [rank, distributed.world_size(), distributed.is_main(), str(device)]}
    for attempt in (try_reductions, try_objects, try_gradients):
        results.update(attempt(rank))
    results["batch_norm"] = batch_norm_gradient(ITEMS, SCALE)
    distributed.barrier()
    distributed.stop_ranks()
    results["after"] = [distributed.rank(), distributed.world_size()]
    Path(folder, f"{rank}.json").write_text(json.dumps(results))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, forks) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    codes, outputs = ends_of(forks.start_ranks(2, Path(__file__), folder, env=os.environ))
    assert codes == [0, 0], outputs
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_each_process_knows_its_place_and_forgets_it_after_stopping(ranks):
    assert [results["ranks"] for results in ranks] == [[0, 2, True, "cpu"], [1, 2, False, "cpu"]]
    assert [results["after"] for results in ranks] == [[0, 1], [0, 1]]


def test_reductions_give_the_same_on_all_ranks_and_leave_their_input_alone(ranks):
    for rank, results in enumerate(ranks):
        assert results["sum"] == [3, 10]
        assert results["sum_of_bfloat16"] == [4.5]
        assert results["untouched"] == [rank + 1, 10 * rank]


def test_shares_are_disjoint_and_complete_and_may_be_empty(ranks):
    assert [results["share"] for results in ranks] == [[[0, 2, 4], [7]], [[1, 3], []]]


def test_objects_travel_as_rank_0_has_them_and_are_gathered_in_order(ranks):
    for results in ranks:
        assert results["broadcast"] == {"names": ["forêt", 0], "best": -math.inf}
        assert results["gather"] == ["", "xxxxx"]
        assert results["main_result"] == {"made by": 0}


def test_a_value_without_a_json_form_is_an_error_on_all_ranks(ranks):
    for results in ranks:
        words = "values that travel between ranks need text keys, got key"
        assert results["gather_key"] == ["TypeError", f"{words} 1 (int)"]
        assert results["broadcast_key"] == ["TypeError", f"{words} 0 (int)"]
        assert results["main_has_no_json"] == ["TypeError", "a value of type set cannot travel between ranks"]


@pytest.mark.parametrize("name", ["settings", "data", "lock", "signal"])
def test_an_error_of_rank_0_keeps_its_family_and_message_on_all_ranks(name, ranks):
    expected = [type(ERRORS[name]).__name__, str(ERRORS[name])]
    assert [results["errors"][name] for results in ranks] == [expected, expected]


def test_any_other_error_of_rank_0_is_told_to_the_others(ranks):
    assert ranks[0]["errors"]["other"] == ["ZeroDivisionError", "division by zero"]
    message = "another rank failed: ZeroDivisionError: division by zero"
    assert ranks[1]["errors"]["other"] == ["DinolithError", message]
    assert ranks[0]["errors"]["keyboard"][0] == "KeyboardInterrupt"
    assert ranks[1]["errors"]["keyboard"] == ["DinolithError", "another rank failed: KeyboardInterrupt: key"]


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("count", [5, 1])
def test_two_ranks_have_the_gradients_of_one_process(count, parts, ranks):
    """What no rank uses has no gradient, as in one process: an optimizer leaves it alone."""
    expected = gradients_of(*make_items(count))
    assert expected.count(None) == 1
    for results in ranks:
        for one, other in zip(results[f"gradients_{count}_{parts}"], expected, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert torch.allclose(torch.tensor(one), torch.tensor(other), rtol=1e-12, atol=1e-15)
    assert ranks[0][f"gradients_{count}_{parts}"] == ranks[1][f"gradients_{count}_{parts}"]


def test_arrays_of_any_size_travel_as_they_are(ranks):
    from_rank_0 = [["Tensor", "torch.int64", [2, 3], 42.0]]
    from_rank_1 = [
        ["ndarray", "float64", [1, 2], 0.2],
        ["ndarray", "float64", [2, 2], 0.4],
        ["Tensor", "torch.int64", [3, 3], 54.0],
    ]
    assert [results["gather_arrays"] for results in ranks] == [[from_rank_0, from_rank_1]] * 2


def test_a_million_floats_travel_as_four_million_bytes(ranks):
    assert ranks[0]["bytes_of_a_million_floats"] == pytest.approx(4e6, rel=1e-3)


def test_gradients_flow_through_the_sum_to_the_items_of_all_ranks(ranks):
    expected = batch_norm_gradient(ITEMS, SCALE)  # this process alone
    assert ranks[0]["batch_norm"] == pytest.approx(expected[0::2], rel=1e-5)
    assert ranks[1]["batch_norm"] == pytest.approx(expected[1::2], rel=1e-5)


def test_in_a_single_process_objects_take_the_same_way_through_json():
    assert distributed.broadcast_object((1, math.inf)) == [1, math.inf]
    assert distributed.gather_objects((1, 2)) == [[1, 2]]
    with pytest.raises(DataError, match=r"scene\.tif: truncated"):
        distributed.run_on_main(fail, ERRORS["data"])
    with pytest.raises(TypeError, match="text keys"):
        distributed.gather_objects({1: 2})


@pytest.fixture
def launched(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_false_under_torchrun_is_refused(launched):
    with pytest.raises(SettingsError, match=r"resources\.distributed: false, but torchrun has started"):
        distributed.start_ranks(False)


def test_nccl_without_cuda_is_refused_with_advice(launched):
    with pytest.raises(SettingsError, match=r"nccl carries tensors of CUDA devices only.*set it to gloo"):
        distributed.start_ranks("auto", backend="nccl", device="cpu")


def test_half_an_environment_or_a_bad_number_is_refused(launched):
    launched.setenv("RANK", "zero")
    with pytest.raises(SettingsError, match="RANK in the environment is 'zero', expected a whole number"):
        distributed.start_ranks("auto")
    launched.delenv("MASTER_PORT")
    with pytest.raises(SettingsError, match="no MASTER_PORT; start it with: torchrun"):
        distributed.start_ranks("auto")


def test_unknown_choices_are_refused(launched):
    with pytest.raises(SettingsError, match="expected auto, true or false, got 'yes'"):
        distributed.start_ranks("yes")
    with pytest.raises(SettingsError, match="unknown backend 'mpi'; known: gloo, nccl"):
        distributed.start_ranks("auto", backend="mpi")


def test_true_without_torchrun_says_how_to_start(monkeypatch):
    for name in distributed.LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingsError, match=r"torchrun --nproc_per_node=NUMBER_OF_RANKS main\.py CONFIG"):
        distributed.start_ranks(True)
    assert distributed.start_ranks(False, backend="nccl") == torch.device("cpu")  # nccl matters only with ranks
    assert issubclass(SettingsError, DinolithError)


if __name__ == "__main__":
    work_of_a_rank(sys.argv[1])
