"""Sets of labelled pictures, by split: what the splits share, and what a format cannot hold of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import DataError
from utils.formats.poses import SPLITS, PosePicture, PoseSet, Problem, Skeleton


def as_sets(poses: PoseSet | Mapping[str, PoseSet]) -> dict[str, PoseSet]:
    """Take one set as the split "all".

    Raises
    ------
    ValueError
        If a split has an unknown name, or splits disagree on a skeleton.

    Examples
    --------
    >>> list(as_sets(PoseSet([], {})))
    ['all']
    >>> as_sets({"trian": PoseSet([], {})})
    Traceback (most recent call last):
        ...
    ValueError: unknown split 'trian'; known: train, val, test, all
    """
    sets = {"all": poses} if isinstance(poses, PoseSet) else dict(poses)
    for name in sets:
        if name not in SPLITS:
            raise ValueError(f"unknown split {name!r}; known: {', '.join(SPLITS)}")
    shared_skeletons(sets)
    return sets


def shared_skeletons(sets: Mapping[str, PoseSet]) -> dict[str, Skeleton]:
    """Skeletons of all splits together.

    Raises
    ------
    ValueError
        If two splits mean different keypoints by one category.

    Examples
    --------
    >>> mouse, rat = {"mouse": Skeleton(("nose",))}, {"rat": Skeleton(("tail",))}
    >>> list(shared_skeletons({"train": PoseSet([], mouse), "val": PoseSet([], rat)}))
    ['mouse', 'rat']
    """
    found: dict[str, Skeleton] = {}
    for name, poses in sets.items():
        for category, skeleton in poses.skeletons.items():
            if found.setdefault(category, skeleton) != skeleton:
                raise ValueError(f"split {name!r}: the skeleton of {category!r} differs from the other splits'")
    return found


def check_target(
    folder: Path, sets: Mapping[str, PoseSet], tops: Iterable[Path] = (), planned: Iterable[Path] = ()
) -> None:
    """Refuse to write where the source lies, or where old labels would be read along with the new ones.

    Parameters
    ----------
    folder : Path
        Where the data set is to be written.
    sets : dict of str to PoseSet
        What is to be written.
    tops : iterable of Path
        Folders that are to hold nothing else, also not in folders inside.
    planned : iterable of Path
        The files that will be written.

    Raises
    ------
    DataError
        If a picture of the source lies in the folder, or a file is there that is not planned.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "old.json").write_text("{}")
    >>> check_target(folder, {}, [folder], [folder / "new.json"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../old.json: not of the data set that is to be written here; write to an empty folder
    """
    top = folder.absolute()
    sources = (picture.path for poses in sets.values() for picture in poses.pictures)
    inside = next((path for path in sources if path.absolute().is_relative_to(top)), None)
    if inside is not None:
        raise DataError(f"{folder}: the source lies in it ({inside}), and would be overwritten; write elsewhere")
    expected = set(planned)
    for path in (Path(root, name) for top in tops for root, _, names in os.walk(top) for name in sorted(names)):
        if path not in expected and not path.name.startswith("."):
            raise DataError(f"{path}: not of the data set that is to be written here; write to an empty folder")


def report_shared_pictures(sets: dict[str, PoseSet]) -> dict[str, PoseSet]:
    """Add a problem for every picture that several splits hold; give the sets back.

    Examples
    --------
    >>> both = PosePicture("a", Path("a.png"), (4, 6), ())
    >>> sets = {"train": PoseSet([both], {}), "val": PoseSet([both], {})}
    >>> str(report_shared_pictures(sets)["val"].problems[0])
    'a.png: the picture is in train and in val; keep it in one split, or the scores of val flatter'
    """
    seen: dict[str, str] = {}
    for name, poses in sets.items():
        for picture in poses.pictures:
            first = seen.setdefault(picture.id, name)
            if first != name:
                what = f"the picture is in {first} and in {name}"
                cure = f"keep it in one split, or the scores of {name} flatter"
                poses.problems.append(Problem(str(picture.path), what, cure, picture.id))
    return sets


def count_lost(poses: PoseSet, tests: Mapping[str, Callable[[Any], bool]]) -> list[str]:
    """List what a format cannot hold, with how many instances have it.

    Parameters
    ----------
    poses : PoseSet
        What is to be written.
    tests : dict of str to callable
        Whether an instance has the thing of that name.

    Returns
    -------
    list of str

    Examples
    --------
    >>> count_lost(PoseSet([], {}), {"area": lambda instance: instance.area is not None})
    []
    """
    instances = [instance for picture in poses.pictures for instance in picture.instances]
    counts = {name: sum(map(test, instances)) for name, test in tests.items()}
    return [f"{name}: {count} of {len(instances)} instances" for name, count in counts.items() if count]


def count_lost_facts(poses: PoseSet, kept: Iterable[str] = ()) -> list[str]:
    """List facts about pictures that a format cannot hold.

    Examples
    --------
    >>> picture = PosePicture("a", Path("a.png"), (4, 6), (), {"license": 4, "image_id": 7})
    >>> count_lost_facts(PoseSet([picture], {}))
    ['license of pictures: 1 of 1']
    """
    own = {"image_data", "found_by", "image_id", "incomplete", *kept}
    counts: dict[str, int] = {}
    for picture in poses.pictures:
        for key in picture.extra.keys() - own:
            counts[key] = counts.get(key, 0) + 1
    incomplete = sum(bool(picture.extra.get("incomplete")) for picture in poses.pictures)
    named = {"incomplete pictures (written as if whole; see the problems)": incomplete}
    named |= {f"{key} of pictures": counts[key] for key in sorted(counts)}
    return [f"{name}: {count} of {len(poses.pictures)}" for name, count in named.items() if count]


def mark_incomplete(picture: PosePicture) -> PosePicture:
    """Say of a picture that something in it was skipped.

    Examples
    --------
    >>> mark_incomplete(PosePicture("a", Path("a.png"), (4, 6), ())).extra
    {'incomplete': True}
    """
    return replace(picture, extra={**picture.extra, "incomplete": True})


def to_json(value: Any, indent: int | None = None) -> bytes:
    r"""Write a value as JSON; arrays and numbers of NumPy as lists and numbers.

    Raises
    ------
    TypeError
        If it holds something that JSON cannot.

    Examples
    --------
    >>> to_json({"a": np.float32(0.5), "b": np.arange(2)})
    b'{"a": 0.5, "b": [0, 1]}\n'
    """
    return (json.dumps(value, indent=indent, ensure_ascii=False, default=_to_plain) + "\n").encode()


def _to_plain(value: Any) -> Any:
    """A value of NumPy as one that JSON knows.

    Examples
    --------
    >>> _to_plain(Path("a.png"))
    Traceback (most recent call last):
        ...
    TypeError: PosixPath cannot be written as JSON
    """
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
