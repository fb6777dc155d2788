"""Learn the projection of the blocks (prepare.project) from a bounded sample of the training pictures, and keep it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from models.backbones.projection import TokenMoments
from tasks.context import Context
from tasks.features import FeatureService
from tasks.sample import Sample
from tasks.source import FeatureSource
from utils.errors import DataError
from utils.logging import progress
from utils.runtime.streams import Stream, read_ahead

MOST_SAMPLES = 512  # each passes the backbone once more
MOST_TOKENS = 2**18  # the covariance of 4,096 channels then takes some minutes of two cores
READ_AHEAD = 4  # samples


def choose_evenly(counts: Sequence[int], most: int) -> list[list[int]]:
    """Choose positions, spread evenly over all items one after the other.

    Parameters
    ----------
    counts : sequence of int
        Samples of each item.
    most : int
        Positions to choose at most.

    Returns
    -------
    list of list of int
        Of each item, ascending.

    Examples
    --------
    >>> choose_evenly([2, 0, 6], 4), choose_evenly([2, 1], 9)
    ([[0], [], [0, 2, 4]], [[0, 1], [0]])
    """
    total = sum(counts)
    number = min(most, total)
    chosen = np.array([index * total // number for index in range(number)], np.int64)
    ends = np.cumsum([0, *counts])
    return [(chosen[(chosen >= first) & (chosen < end)] - first).tolist() for first, end in pairwise(ends)]


def count_chosen(source: FeatureSource) -> int:
    """At most how many training samples the projection is learnt from.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> task = scene_task()
    >>> task.source.prepare_data()
    >>> count_chosen(task.source)
    6
    """
    return min(MOST_SAMPLES, sum(source.count_samples(item) for item in source.items("train")))


def chosen_samples(source: FeatureSource, most: int = MOST_SAMPLES) -> Stream[Sample]:
    """Read a sample of the training samples, spread evenly over all.

    Windows without labels or data are no samples: an item may have fewer than are counted. One that ends before the
    first of its chosen positions gives its last sample.

    Parameters
    ----------
    source : FeatureSource
        Of the task.
    most : int
        Samples at most.

    Yields
    ------
    Sample
        As it is stored, in the order of the training split.

    Examples
    --------
    >>> from tasks.example import scene_task
    >>> task = scene_task()
    >>> task.source.prepare_data()
    >>> [sample.id for sample in chosen_samples(task.source, 3)]
    ['scene_1@y0:64,x0:64/y0_x0', 'scene_1@y0:64,x0:64/y32_x0', 'scene_1@y0:64,x64:96/y0_x0']
    """
    items = source.items("train")
    for item, wanted in zip(items, choose_evenly([source.count_samples(item) for item in items], most), strict=True):
        given = last = None
        for position, sample in enumerate(source.samples(item) if wanted else ()):
            last = sample
            if position in wanted:
                given = sample
                yield sample
            if position == wanted[-1]:
                break
        if given is None and last is not None:
            yield last


def thin_out(tokens: Tensor, most: int, seed: int) -> Tensor:
    """Keep so many tokens (n, C) of a picture at most, drawn evenly and the same at every run.

    Examples
    --------
    >>> tokens = torch.arange(10.0)[:, None]
    >>> thinned = thin_out(tokens, 4, seed=0)
    >>> len(thinned), torch.equal(thinned, thin_out(tokens, 4, seed=0)), len(thin_out(tokens, 20, seed=0))
    (4, True, 10)
    """
    if len(tokens) <= most:
        return tokens
    kept = np.random.default_rng(seed).choice(len(tokens), most, replace=False)
    return tokens[torch.from_numpy(np.sort(kept)).to(tokens.device)]


def learn_once(source: FeatureSource, features: FeatureService, context: Context) -> None:
    """Learn the projection, unless the store holds it; then say from what it was learnt, perhaps by another task.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> from utils.logging import VerbosityLogger
    >>> task, context = example_task(tempfile.mkdtemp(), "prepare.project=3")
    >>> task.source.prepare_data()
    >>> learn_once(task.source, task.features, context)
    >>> learn_once(task.source, task.features, Context(VerbosityLogger(), context.folder))  # doctest: +ELLIPSIS
    [INFO] prepare: projection to 3 channels from the store; it was learnt from 384 tokens of 6 windows and kept ... %
    """
    if features.projection is None:
        learn_projection(source, features, context)
    elif features.store.has(features.projection_key):
        facts = features.store.metadata(features.projection_key)
        context.log.info(
            f"prepare: projection to {features.project} channels from the store; it was learnt from "
            f"{facts['tokens']:,} tokens of {facts['windows']} windows and kept {100 * facts['explained']:.2f} %"
        )


def learn_projection(source: FeatureSource, features: FeatureService, context: Context) -> None:
    """Learn the projection and write it to the store; one process does it, and the result depends on nothing else.

    Parameters
    ----------
    source : FeatureSource
        Gives the training samples.
    features : FeatureService
        Computes their maps, and names the record of the projection.
    context : Context
        Where to speak, and whether to stop; nothing is kept of an interrupted attempt.

    Raises
    ------
    DataError
        If there is no training sample, or the samples vary in fewer directions than are asked for.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import example_task
    >>> task, context = example_task(tempfile.mkdtemp(), "prepare.project=3")
    >>> task.source.prepare_data()
    >>> learn_projection(task.source, task.features, context)
    >>> facts = task.features.store.metadata(task.features.projection_key)
    >>> tuple(task.features.projection.weight.shape), facts["windows"], facts["tokens"]
    ((3, 16), 6, 384)
    """
    number = count_chosen(source)
    if not number:
        raise DataError("prepare.project: the train split holds no picture to learn from; see the split lists")
    context.log.info(
        f"prepare: learning the projection of blocks {', '.join(map(str, features.info.layers))} to {features.project} "
        f"channels from {number} windows of the training split"
    )
    moments, learnt = None, 0
    with closing(read_ahead(chosen_samples(source), READ_AHEAD)) as samples:
        for index, sample in enumerate(progress(samples, number, "projection", logger=context.log)):
            context.check_stop()
            tokens = features.tokens(source.backbone_image(sample), sample.arrays.get("valid"))
            moments = moments or TokenMoments(tokens.shape[1])
            moments.add(thin_out(tokens, MOST_TOKENS // number, index))
            learnt += 1
    if moments is None or not moments.count:
        raise DataError("prepare.project: the train split holds no labelled window to learn from; see the split lists")
    assert features.project is not None
    projection, explained = moments.projection(features.project)
    facts = {"producer": "projection", "windows": learnt, "tokens": moments.count, "explained": explained}
    with features.store.writer() as writer:
        writer.put(features.projection_key, projection.tensors(), facts)
    context.log.info(
        f"prepare: projection of {projection.weight.shape[1]} to {features.project} channels, learnt from "
        f"{moments.count:,} tokens of {learnt} windows, keeps {100 * explained:.2f} % of the variance"
    )
