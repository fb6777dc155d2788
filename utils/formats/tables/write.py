"""Writing tables of boxes, as DeepForest reads them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from utils.formats import specs
from utils.formats.box_rules import box_of_instance
from utils.formats.pictures import new_names
from utils.formats.sets import list_lost, place_pictures, shared_skeletons
from utils.formats.types import AnnotationSet
from utils.runtime.files import write_bytes

HEADER = ("image_path", "xmin", "ymin", "xmax", "ymax", "label")


def write_tables(sets: Mapping[str, AnnotationSet], folder: str | Path) -> list[Path]:
    """Write a data set of tables: data.yaml, `<split>.csv`, and the pictures in `<split>/`.

    A picture without an object has a row of zeros, as DeepForest has it. A column `is_crowd` is there where a split has
    crowds. Pictures are given a second name (a hard link) where the system allows it, else copied.

    Parameters
    ----------
    sets : dict of str to AnnotationSet
        By split.
    folder : str or Path
        Where to write.

    Returns
    -------
    list of Path
        The specification first, then the tables.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from utils.formats.types import AnnotatedPicture, Instance, Skeleton
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in "ab":
    ...     _ = (folder / f"{name}.png").write_bytes(b"pixels")
    >>> cow = Instance("cow, brown", box_xyxy=np.array([0.5, 1, 4, 3]))
    >>> pictures = [AnnotatedPicture(name, folder / f"{name}.png", (4, 6), (cow,) if name == "a" else ())
    ...     for name in "ab"]
    >>> written = write_tables({"train": AnnotationSet(pictures, {"cow, brown": Skeleton(())})}, folder / "new")
    >>> print(written[1].read_text(), end="")
    image_path,xmin,ymin,xmax,ymax,label
    train/a.png,0.5,1,4,3,"cow, brown"
    train/b.png,0,0,0,0,"cow, brown"
    """
    folder, skeletons = Path(folder), shared_skeletons(sets)
    names = {split: new_names(part.pictures) for split, part in sets.items()}
    images = {split: [folder / split / name for name in names[split]] for split in sets}
    place_pictures(folder, sets, images, (), [folder / split for split in sets])
    written = []
    for split, part in sets.items():
        path = folder / f"{split}.csv"
        write_bytes(path, _table(part, [f"{split}/{name}" for name in names[split]], list(skeletons)).encode())
        written.append(path)
    keys = {"format": "csv", "path": ".", **{s: f"{s}.csv" for s in sets}, "names": dict(enumerate(skeletons))}
    return [specs.write_spec(folder / "data.yaml", keys), *written]


def _table(part: AnnotationSet, names: Sequence[str], categories: Sequence[str]) -> str:
    r"""The table of a split.

    Examples
    --------
    >>> _table(AnnotationSet([], {}), [], [])
    'image_path,xmin,ymin,xmax,ymax,label\n'
    """
    has_crowd = any(instance.is_crowd for picture in part.pictures for instance in picture.instances)
    rows: list[list[object]] = []
    for picture, name in zip(part.pictures, names, strict=True):
        before = len(rows)
        for instance in picture.instances:
            try:
                box = box_of_instance(instance)
            except ValueError:  # `unsupported` lists it
                continue
            rows.append([name, *map(plain_number, box.tolist()), instance.category, int(instance.is_crowd)])
        if len(rows) == before:
            rows.append([name, 0, 0, 0, 0, categories[0] if categories else "", 0])
    header = [*HEADER, "is_crowd"] if has_crowd else [*HEADER]
    return table_text([header, *(row if has_crowd else row[:-1] for row in rows)])


def plain_number(value: float) -> str:
    """Write a number without a needless point.

    Examples
    --------
    >>> plain_number(3.0), plain_number(0.1), plain_number(500000.125)
    ('3', '0.1', '500000.125')
    """
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def table_text(rows: Iterable[Sequence[object]]) -> str:
    r"""Rows as csv; cells with commas, quotes or line ends are quoted.

    Examples
    --------
    >>> table_text([["a", 1], ['b,"c', 2]])
    'a,1\n"b,""c",2\n'
    """
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def unsupported(annotations: AnnotationSet) -> list[str]:
    """List what a table of boxes cannot hold of a set.

    Parameters
    ----------
    annotations : AnnotationSet
        What is to be written.

    Returns
    -------
    list of str
        Each with how many instances have it; empty when writing loses nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from utils.formats.types import AnnotatedPicture, Instance
    >>> cow = Instance("cow", box_xyxy=np.array([0.0, 1, 4, 3]), area=9.0)
    >>> unsupported(AnnotationSet([AnnotatedPicture("a", Path("a.png"), (4, 6), (cow,))], {}))
    ['area: 1 of 1 instances']
    """
    tests = {"neither box nor outline (left out)": lambda i: i.box_xyxy is None and not i.polygons and i.mask is None}
    return list_lost(annotations, ("boxes", "is_crowd"), tests)
