"""The linear probe: a logistic regression on frozen features of a segmentation task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.prepared import PreparedReader, batched
from tasks.sample import Batch
from utils.data import SampleRef

MOST_CELLS = 200_000  # cells of a fit
READ_AT_ONCE = 8  # windows


class Probe(nn.Module):
    """A linear classifier on standardised tokens of all blocks, or on colours; logits on the patch grid.

    Parameters
    ----------
    mean, std : Tensor, shape (C,)
        Of the vectors of the fit.
    num_classes : int
        Channels of the logits.
    on_colours : bool
        Whether it classifies the colours of pixels in place of maps.

    Examples
    --------
    >>> probe = Probe(torch.zeros(8), torch.ones(8), 2, on_colours=False)
    >>> probe(Batch([], {}, [torch.zeros(1, 4, 2, 3), torch.zeros(1, 4, 2, 3)]))["logits"].shape
    torch.Size([1, 2, 2, 3])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, num_classes: int, on_colours: bool = False):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.on_colours = on_colours
        self.linear = nn.Linear(len(mean), num_classes)
        nn.init.zeros_(self.linear.weight)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Classify every cell.

        Examples
        --------
        >>> probe = Probe(torch.zeros(3), torch.ones(3), 2, on_colours=True)
        >>> probe(Batch([], {"image": torch.zeros(1, 3, 4, 6)}))["logits"].shape
        torch.Size([1, 2, 4, 6])
        """
        vectors = (cell_vectors(batch, self.on_colours) - self.mean[:, None, None]) / self.std[:, None, None]
        return {"logits": functional.conv2d(vectors, self.linear.weight[:, :, None, None], self.linear.bias)}


def cell_vectors(batch: Batch, on_colours: bool) -> Tensor:
    """Vectors of a batch, (B, C, h, w): colours, or the maps of all blocks on the finest of their grids.

    Examples
    --------
    >>> cell_vectors(Batch([], {}, [torch.zeros(1, 4, 2, 2), torch.zeros(1, 8, 1, 1)]), False).shape
    torch.Size([1, 12, 2, 2])
    """
    if on_colours:
        return batch.arrays["image"][:, :3].float()
    assert batch.feature_maps is not None
    rows, columns = (max(feature_map.shape[axis] for feature_map in batch.feature_maps) for axis in (2, 3))
    return torch.cat(
        [
            feature_map.float()
            if feature_map.shape[2:] == (rows, columns)
            else functional.interpolate(feature_map.float(), (rows, columns), mode="bilinear", align_corners=False)
            for feature_map in batch.feature_maps
        ],
        dim=1,
    )


def collect_cells(
    reader: PreparedReader, on_colours: bool = False, most: int = MOST_CELLS, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Gather vectors (N, C) and classes (N,) of prepared windows; a cell has the class at its centre.

    Parameters
    ----------
    reader : PreparedReader
        Of training windows with labels.
    on_colours : bool
        Whether to take colours in place of maps.
    most : int
        Cells to keep, chosen at random, the same for every backbone with the same grid.
    seed : int
        Of the choice.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import prepared_example
    >>> reader = PreparedReader(*prepared_example(tempfile.mkdtemp()))
    >>> [tuple(array.shape) for array in collect_cells(reader, most=60)]
    [(60, 16), (60,)]
    """
    vectors, classes = [], []
    generator = torch.Generator().manual_seed(seed)
    for refs in batched([SampleRef(position) for position in range(len(reader.entries))], READ_AT_ONCE):
        batch = reader.read(refs)
        grid = cell_vectors(batch, on_colours)
        label = functional.interpolate(
            batch.arrays["label"][:, None].float(), size=grid.shape[-2:], mode="nearest-exact"
        )
        labelled = label[:, 0] != 255
        flat = grid.permute(0, 2, 3, 1)[labelled]
        chosen = torch.randperm(len(flat), generator=generator)[: most * len(refs) // len(reader.entries)]
        vectors.append(flat[chosen])
        classes.append(label[:, 0][labelled][chosen].long())
    return torch.cat(vectors), torch.cat(classes)


def fit_probe(
    task: Any, reader: PreparedReader, on_colours: bool = False, most: int = MOST_CELLS, seed: int = 0
) -> Probe:
    """Fit a logistic regression with L-BFGS and a little weight decay.

    Parameters
    ----------
    task : Task
        With the classes.
    reader : PreparedReader
        Of its training windows.
    on_colours : bool
        Whether colours are classified in place of maps.
    most : int
        Cells to fit to.
    seed : int
        Of their choice.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import prepared_example
    >>> task, store, prepared = prepared_example(tempfile.mkdtemp())
    >>> reader = PreparedReader(task, store, prepared)
    >>> probe, batch = fit_probe(task, reader, on_colours=True, most=2000), reader.read([SampleRef(0)])
    >>> float((probe(batch)["logits"].argmax(dim=1) == batch.arrays["label"]).float().mean())
    1.0
    """
    vectors, classes = collect_cells(reader, on_colours, most, seed)
    probe = Probe(vectors.mean(dim=0), vectors.std(dim=0) + 1e-6, len(task.classes), on_colours)
    standard = (vectors - probe.mean) / probe.std
    optimizer = torch.optim.LBFGS(probe.linear.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(probe.linear(standard), classes) + 1e-4 * probe.linear.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return probe.eval()
