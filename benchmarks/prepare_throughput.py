"""How fast the bare backbone is, by batch size, precision and attention, and what bfloat16 costs in exactness.

    python -m benchmarks.prepare_throughput --backbone FOLDER --layers 2 5 8 11 --size 518 518 --batch-sizes 1 4

Each line is one setting: pictures per second (median of the repeats), how many times as fast as float32 with sdpa
attention at the same batch size, and the lowest and mean cosine similarity of a token to float32's. Both sides of a
ratio take turns, so that other work on the machine slows both. Pictures are seeded noise, smoothed so that neighbouring
patches are alike, as in photographs.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from models.backbone import Backbone, load_backbone
from models.backbones.info import ATTENTIONS


@dataclass(frozen=True)
class Setting:
    """One way to compute.

    Examples
    --------
    >>> str(Setting("bf16", "eager", compiled=True))
    'bf16 eager compiled'
    """

    precision: str
    attention: str
    compiled: bool = False

    def __str__(self) -> str:
        return " ".join([self.precision, self.attention, *(["compiled"] if self.compiled else [])])


def draw_images(batch: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Smooth noise.

    Parameters
    ----------
    batch : int
        Pictures wanted.
    size : (int, int)
        Height and width.
    seed : int
        Of the noise.

    Returns
    -------
    Tensor, shape (B, 3, H, W)
        uint8.

    Examples
    --------
    >>> draw_images(2, (9, 16)).shape
    torch.Size([2, 3, 9, 16])
    """
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(batch, 3, *size)
    for cells in (4, 16, 64):  # amplitude falls with frequency, as in photographs
        noise = torch.randn(batch, 3, cells, cells, generator=generator)
        total += interpolate(noise, size, mode="bicubic", align_corners=False) * 160 / cells**0.5
    return (128 + total).clamp(0, 255).to(torch.uint8)


def synchronize(device: torch.device) -> None:
    """Wait for a device to finish what it was given; a clock would stop too early otherwise.

    Examples
    --------
    >>> synchronize(torch.device("cpu"))
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_forward(backbone: Backbone, images: Tensor) -> float:
    """Seconds of one forward pass, the way to the device included.

    Parameters
    ----------
    backbone : Backbone
        What is measured.
    images : Tensor, shape (B, 3, H, W)
        uint8, on the CPU as they come from a reader.

    Returns
    -------
    float
        Seconds.

    Examples
    --------
    >>> time_forward(load_backbone("embedded", [0]), draw_images(1, (32, 32))) > 0
    True
    """
    synchronize(backbone.device)
    start = time.perf_counter()
    backbone(images)
    synchronize(backbone.device)
    return time.perf_counter() - start


def measure_in_turns(backbones: list[Backbone], images: Tensor, repeats: int) -> list[float]:
    """Median seconds of a forward pass of each backbone, measured in turns after one pass that warms up (and compiles).

    Parameters
    ----------
    backbones : list of Backbone
        What is compared.
    images : Tensor, shape (B, 3, H, W)
        uint8.
    repeats : int
        Timed passes of each.

    Returns
    -------
    list of float
        Seconds per pass, one per backbone.

    Examples
    --------
    >>> backbone = load_backbone("embedded", [0])
    >>> len(measure_in_turns([backbone, backbone], draw_images(1, (32, 32)), 1))
    2
    """
    for backbone in backbones:
        backbone(images)
    times = [[time_forward(backbone, images) for backbone in backbones] for _ in range(repeats)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def compare_tokens(maps: list[Tensor], reference: list[Tensor]) -> tuple[float, float]:
    """Lowest and mean cosine similarity of tokens of the same place, over all maps.

    Parameters
    ----------
    maps, reference : list of Tensor, shape (B, C, h, w)
        Of the same blocks.

    Returns
    -------
    (float, float)
        1 for equal directions.

    Examples
    --------
    >>> compare_tokens([torch.ones(1, 2, 1, 1)], [torch.tensor([1.0, 0.0]).view(1, 2, 1, 1) * 5])[0] < 0.75
    True
    """
    similarities = torch.cat(
        [cosine_similarity(a.double(), b.double(), dim=1).flatten() for a, b in zip(maps, reference, strict=True)]
    )
    return similarities.min().item(), similarities.mean().item()


def list_settings(with_compiled: bool) -> list[Setting]:
    """All settings, float32 with sdpa first: the others are compared with it.

    Examples
    --------
    >>> [str(setting) for setting in list_settings(False)]
    ['fp32 sdpa', 'fp32 eager', 'bf16 sdpa', 'bf16 eager']
    """
    compiled = (False, True) if with_compiled else (False,)
    return [Setting(*parts) for parts in itertools.product(("fp32", "bf16"), ATTENTIONS, compiled)]


def load_setting(options: argparse.Namespace, setting: Setting) -> Backbone:
    """The backbone of the command line, computed in one way.

    Examples
    --------
    >>> load_setting(parse_arguments(["--layers", "0"]), Setting("fp32", "eager")).info.attention
    'eager'
    """
    return load_backbone(
        options.backbone,
        options.layers,
        device=options.device,
        precision=setting.precision,
        attention=setting.attention,
        compile=setting.compiled,
    )


def run(options: argparse.Namespace) -> list[str]:
    """Measure every setting at every batch size.

    Parameters
    ----------
    options : argparse.Namespace
        From `parse_arguments`.

    Returns
    -------
    list of str
        One line per measurement; each is printed as soon as it is known.

    Examples
    --------
    >>> arguments = ["--layers", "0", "--size", "32", "48", "--batch-sizes", "1", "--repeats", "1"]
    >>> len(run(parse_arguments(arguments)))
    embedded ...
    4
    """
    size = tuple(options.size)
    print(f"{options.backbone} blocks {options.layers}, {size[0]} x {size[1]} pixels on {options.device}")
    first, *others = list_settings(options.compile)
    reference = load_setting(options, first)
    lines = []
    for setting in (first, *others):
        backbone = reference if setting == first else load_setting(options, setting)
        for batch in options.batch_sizes:
            images = draw_images(batch, size)
            base, seconds = measure_in_turns([reference, backbone], images, options.repeats)
            lowest, mean = compare_tokens(backbone(images), reference(images))
            lines.append(
                f"batch {batch:3d}  {setting!s:20s} {batch / seconds:8.2f} images/s  x{base / seconds:5.2f}  "
                f"token cosine min {lowest:.5f} mean {mean:.5f}"
            )
            print(lines[-1], flush=True)
    return lines


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Examples
    --------
    >>> parse_arguments(["--layers", "-1"]).layers
    [-1]
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare_throughput", description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", default="embedded", help="embedded, a folder or a Hugging Face id")
    parser.add_argument("--layers", type=int, nargs="+", default=[-1], help="blocks")
    parser.add_argument("--size", type=int, nargs=2, default=[512, 512], help="height and width in pixels")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--repeats", type=int, default=5, help="timed passes; their median counts")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None, help="of torch; default: its own choice")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure what the command line asks for.

    Examples
    --------
    >>> main(["--layers", "0", "--size", "32", "48", "--batch-sizes", "1", "--repeats", "1"])
    embedded blocks [0], 32 x 48 pixels on cpu
    batch   1  fp32 sdpa ...
    """
    options = parse_arguments(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    run(options)


if __name__ == "__main__":
    main()
