"""Which samples share a batch: those of one shape, as far as there are enough of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def plan_batches(shapes: Sequence[Hashable], batch_size: int, generator: np.random.Generator) -> list[list[int]]:
    """Cut samples into batches of one shape, and what is left over into mixed ones.

    There are as many batches as without shapes, so that the length of a training does not depend on them. Samples of
    one shape are cut in their order, and nothing is drawn then.

    Parameters
    ----------
    shapes : sequence
        Shape of each sample, in the order in which samples come: values that are equal may share a batch.
    batch_size : int
        Samples of a batch; only one batch may have fewer.
    generator : numpy.random.Generator
        Shuffles the batches where there are several shapes; the same one on every rank.

    Returns
    -------
    list of list of int
        Positions in `shapes`, each once.

    Examples
    --------
    >>> generator = np.random.default_rng(0)
    >>> plan_batches("aaaaa", 2, generator)
    [[0, 1], [2, 3], [4]]
    >>> sorted(plan_batches("abacab", 2, generator))
    [[0, 2], [1, 5], [4, 3]]
    """
    buckets: dict[Hashable, list[int]] = {}
    for index, shape in enumerate(shapes):
        buckets.setdefault(shape, []).append(index)
    batches, left = [], []
    for bucket in buckets.values():
        whole = len(bucket) - len(bucket) % batch_size
        batches += [bucket[start : start + batch_size] for start in range(0, whole, batch_size)]
        left += bucket[whole:]
    batches += [left[start : start + batch_size] for start in range(0, len(left), batch_size)]
    return [batches[index] for index in generator.permutation(len(batches))] if len(buckets) > 1 else batches
