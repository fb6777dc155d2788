"""What a training sees: a contact sheet of samples as they are varied, with their labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.prepared import PreparedItem, PreparedReader
from tasks.task import Task
from utils.data import SampleRef
from utils.report.plots import fit_picture
from utils.report.sheets import SIDE, contact_sheet
from utils.store.feature_store import FeatureStore


def draw_samples(task: Task, store: FeatureStore, prepared: Sequence[PreparedItem], number: int) -> np.ndarray | None:
    """Draw some training samples, each in one of its views, with labels and names.

    Parameters
    ----------
    task : Task
        Draws a sample.
    store : FeatureStore
        Holds the records.
    prepared : sequence of PreparedItem
        Of the training split; those with missing records are passed over.
    number : int
        Samples, at most.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3), or None
        None where there is no sample to draw.

    Examples
    --------
    >>> import tempfile
    >>> from tasks.example import prepared_example
    >>> draw_samples(*prepared_example(tempfile.mkdtemp()), 4).shape
    (722, 656, 3)
    """
    reader = PreparedReader(task, store, prepared)
    whole = [position for position, entry in enumerate(reader.entries) if not store.missing(entry.record_keys())]
    generator = np.random.default_rng(task.settings.resources.seed)
    chosen = sorted(generator.choice(whole, min(number, len(whole)), replace=False).tolist()) if whole else []
    online = [view.name for view in task.source.views("train")] if task.settings.train.features == "online" else None
    pictures, titles = [], []
    for position in chosen:
        views = online or sorted(reader.entries[position].records)
        view = views[int(generator.integers(len(views)))]
        [sample] = reader.read([SampleRef(position, view)]).samples
        if online:
            sample = task.source.augment(sample, generator)
        pictures.append(fit_picture(task.output.draw_sample(sample), SIDE))
        titles.append(sample.id if view == "identity" else f"{sample.id} {view}")
    return contact_sheet(pictures, titles, task.output.sample_legend()) if pictures else None
