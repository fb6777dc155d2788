"""What each head costs beside the default one: parameters, stride, time of a training step per crop.

Run from the root: `python benchmarks/heads.py`, or with `--autocast`, `--threads 4`, `--heads dpt unet`.
The maps have the shape that a ViT-S gives for a crop of 518 x 518 pixels: four of 384 x 37 x 37.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models import HEADS, build_head
from models.base import FeatureSpec, Head, fit_to_image

REFERENCE = "dpt"
SPEC = FeatureSpec((384,) * 4, (14,) * 4, 14, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def make_crops(batch_size: int, side: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """Random maps, pictures and labels.

    Examples
    --------
    >>> maps, image, labels = make_crops(1, 28)
    >>> maps[0].shape, image.shape, labels.shape
    (torch.Size([1, 384, 2, 2]), torch.Size([1, 3, 28, 28]), torch.Size([1, 28, 28]))
    """
    torch.manual_seed(0)
    grid = SPEC.patch_grid((side, side))
    maps = [torch.randn(batch_size, channels, *grid) for channels in SPEC.channels]
    image = torch.randint(0, 256, (batch_size, 3, side, side), dtype=torch.uint8)
    return maps, image, torch.randint(0, 2, (batch_size, side, side))


def train_step(head: Head, maps: list[Tensor], image: Tensor, labels: Tensor, autocast: bool) -> tuple[float, float]:
    """Seconds of one forward and backward pass, without and with a cross entropy at image size.

    Examples
    --------
    >>> maps, image, labels = make_crops(1, 28)
    >>> head = build_head("segmentation", "linear", SPEC, 2, {})
    >>> bare, with_loss = train_step(head, maps, image, labels, autocast=False)
    >>> 0 < bare and 0 < with_loss
    True
    """
    begin = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = head(maps, image)
    torch.stack([value.square().mean() for value in output.values()]).sum().backward()
    middle = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = head(maps, image)
    loss = torch.zeros(())
    for key in {"logits", "aux_logits"} & output.keys():
        logits = fit_to_image(output[key], image.shape[-2:], SPEC.patch_size)
        loss = loss + torch.nn.functional.cross_entropy(logits, labels)
    loss.backward()
    return middle - begin, time.perf_counter() - middle


def measure(name: str, crops: tuple[list[Tensor], Tensor, Tensor], repeats: int, autocast: bool) -> dict[str, float]:
    """Parameters, stride and the best of several timings of a head, in seconds per crop.

    Examples
    --------
    >>> measure("linear", make_crops(1, 28), repeats=1, autocast=False)["parameters"]
    6146
    """
    head = build_head("segmentation", name, SPEC, 2, {})
    train_step(head, *crops, autocast)  # the first step chooses kernels
    timings = [train_step(head, *crops, autocast) for _ in range(repeats)]
    batch_size = len(crops[1])
    return {
        "parameters": head.num_parameters,
        "stride": head.stride,
        "step": min(bare for bare, _ in timings) / batch_size,
        "step_and_loss": min(with_loss for _, with_loss in timings) / batch_size,
    }


def format_row(name: str, result: dict[str, float], reference: dict[str, float]) -> str:
    """One line of the table.

    Examples
    --------
    >>> fast = {"parameters": 1000, "stride": 3.5, "step": 0.025, "step_and_loss": 0.05}
    >>> format_row("linear", fast, {**fast, "step": 0.05}).split()
    ['linear', '1,000', '3.50', '0.0250', '0.50', '0.0500', '1.00']
    """
    ratios = [result[key] / reference[key] for key in ("step", "step_and_loss")]
    return (
        f"{name:<12}{result['parameters']:>12,}{result['stride']:>8.2f}{result['step']:>10.4f}{ratios[0]:>7.2f}"
        f"{result['step_and_loss']:>12.4f}{ratios[1]:>7.2f}"
    )


def main() -> None:
    """Measure every head and print the table.

    Examples
    --------
    >>> main.__name__  # runs for half a minute, so it is not run here
    'main'
    """
    parser = argparse.ArgumentParser(description="Cost of each head, as a ratio to dpt's.")
    parser.add_argument("--heads", nargs="+", default=sorted(HEADS["segmentation"]), help="which heads")
    parser.add_argument("--batch-size", type=int, default=2, help="crops in a step")
    parser.add_argument("--side", type=int, default=518, help="pixels per side of a crop")
    parser.add_argument("--repeats", type=int, default=5, help="the best of so many steps counts")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--autocast", action="store_true", help="compute in bfloat16 where torch allows it")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    crops = make_crops(arguments.batch_size, arguments.side)
    names = [REFERENCE, *(name for name in arguments.heads if name != REFERENCE)]
    print(f"{'head':<12}{'parameters':>12}{'stride':>8}{'s / crop':>10}{'ratio':>7}{'with loss':>12}{'ratio':>7}")
    reference = None
    for name in names:
        result = measure(name, crops, arguments.repeats, arguments.autocast)
        reference = reference or result
        print(format_row(name, result, reference), flush=True)


if __name__ == "__main__":
    main()
