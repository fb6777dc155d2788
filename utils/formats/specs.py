"""Specification files of data sets: where the splits lie, the categories, and which keypoints each of them has."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import DataError, SettingsError
from utils.formats.moved import NO_FOLDER, find_here, find_moved
from utils.formats.names import read_names
from utils.formats.pictures import is_absolute, plain_path
from utils.formats.text_files import read_text
from utils.formats.types import SPLITS, Problem, Skeleton, build_skeleton
from utils.runtime.files import write_bytes
from utils.runtime.strict_yaml import read_sections

logger = logging.getLogger(__name__)

SUFFIXES = (".yaml", ".yml")
NAME_KEYS = ("keypoint_names", "kpt_names", "kpt_labels")
SPLIT_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SPLIT_KEYS = (*SPLIT_WORDS, "all")

MOST_KEYPOINTS = 1000  # of a skeleton; whole-body ones have 133


@dataclass(frozen=True)
class Spec:
    """A specification file.

    Parameters
    ----------
    path : Path
        The file.
    root : Path
        Data root.
    keys : dict
        What the file says.

    Examples
    --------
    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> (root / "a").mkdir()
    >>> Spec(Path("data.yaml"), root, {"valid": ["a", "../a"], "test": None}).splits() == {"val": [root / "a"] * 2}
    True
    """

    path: Path
    root: Path
    keys: dict[str, Any]

    def splits(self) -> dict[str, list[Path]]:
        """Files and folders of each split; `../` at the beginning is left out where only that leads somewhere.

        Of val and test, what is not there is left out with a warning, and a problem by `find_misspelled`.

        Raises
        ------
        DataError
            If there is no split, one is neither text nor a list of texts, or what train or all names is not there.

        Examples
        --------
        >>> Spec(Path("data.yaml"), Path("/no"), {"train": "a.json"}).splits()
        Traceback (most recent call last):
            ...
        utils.errors.DataError: data.yaml: train: no such file or folder: /no/a.json
        """
        found: dict[str, list[Path]] = {}
        for key, entries in _split_entries(self.path, self.keys).items():
            for entry in entries:
                place = _locate(f"{self.path}: {key}", entry, self.root)
                split = SPLIT_WORDS.get(key, key)
                if place is not None:
                    found.setdefault(split, []).append(place)
                elif split in ("val", "test"):
                    logger.warning("%s", _missing_split(self, key, entry))
                else:
                    raise DataError(f"{self.path}: {key}: {_no_such(self, entry)}")
        if not found:
            raise DataError(f"{self.path}: no split; give at least one of {', '.join(SPLITS)}")
        return found


def _no_such(spec: Spec, entry: str) -> str:
    """What is said of an entry that leads nowhere.

    Examples
    --------
    >>> _no_such(Spec(Path("data.yaml"), Path("/no"), {}), "./a.json")
    'no such file or folder: /no/a.json'
    """
    return f"no such file or folder: {os.path.normpath(spec.root / plain_path(entry))}"


def _missing_split(spec: Spec, key: str, entry: str) -> Problem:
    """The problem of a val or test that is not there, though others are.

    Examples
    --------
    >>> print(_missing_split(Spec(Path("data.yaml"), Path("/no"), {}), "valid", "a"))
    data.yaml: valid: no such file or folder: /no/a; it is left out, and the other splits are read; put it there, or \
remove the key
    """
    what = f"{_no_such(spec, entry)}; it is left out, and the other splits are read"
    cure = "put it there, or remove the key"
    return Problem(f"{spec.path}: {key}", what, cure, blocks=False)  # split lists may take its place


def split_files(spec: Spec, kind: str) -> dict[str, list[Path]]:
    """The files of each split, for a format that has no folders there.

    Raises
    ------
    DataError
        If a split names a folder, as those of other formats do.

    Examples
    --------
    >>> split_files(Spec(Path("data.yaml"), Path("/"), {"train": "dev"}), "a table (csv)")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: data.yaml: train: expected a table (csv), got the folder /dev; name the file, or another \
format of the labels if they are of one
    """
    found = spec.splits()
    for split, places in found.items():
        folder = next((place for place in places if os.path.isdir(place)), None)
        if folder is not None:
            cure = "name the file, or another format of the labels if they are of one"
            raise DataError(f"{spec.path}: {split}: expected {kind}, got the folder {folder}; {cure}")
    return found


def _split_entries(path: Path, keys: Mapping[str, Any]) -> dict[str, list[str]]:
    """What the split keys of a file name, as written.

    Raises
    ------
    DataError
        If a value is neither text nor a list of texts, or a text is empty.

    Examples
    --------
    >>> _split_entries(Path("data.yaml"), {"train": "a", "val": ["b", "c"], "test": None})
    {'train': ['a'], 'val': ['b', 'c']}
    """
    stated = {key: keys[key] for key in SPLIT_KEYS if keys.get(key) is not None}
    entries = {key: [value] if isinstance(value, str) else value for key, value in stated.items()}
    for key, value in entries.items():
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise DataError(f"{path}: {key}: expected a path or a list of paths, got {stated[key]!r}")
        if not all(entry.strip() for entry in value):
            what = f"expected a path or a list of paths, got {stated[key]!r}, which would be the data root"
            raise DataError(f"{path}: {key}: {what}; write . if you mean that, or remove the key")
    return entries


def _locate(where: str, entry: str, root: Path) -> Path | None:
    """The file or folder that an entry means: below the root, where a path of another computer ends there too.

    Raises
    ------
    DataError
        If its path cannot be followed, or may mean several; `where` is the file and the key.

    Examples
    --------
    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> (root / "train" / "images").mkdir(parents=True)
    >>> texts = ("train/images", "../train/images", "/content/set/train/images", "../images")
    >>> [_locate("", text, root) == root / "train" / "images" for text in texts]
    [True, True, True, False]
    """
    plain = plain_path(entry)
    # Exporters write `../train/images` for a folder beside the file.
    places = [Path(os.path.normpath(root / text)) for text in (plain, plain.removeprefix("../"))]
    try:
        return find_here(entry, places, [root], (*NO_FOLDER, "folder"))
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None


def read_spec(path: Path, root: str | Path | None = None) -> Spec:
    """Read a specification file.

    Parameters
    ----------
    path : Path
        YAML. Its `path`, the data root, is relative to the file.
    root : str or Path, optional
        Data root where the file says none, or where its `path` does not lead to the splits.

    Returns
    -------
    Spec
        Its root is the first of these that holds all splits, or else most of what they name: `path`; `root`; where
        `path` is of another computer, a folder of its name beside the file, or the folder of the file.

    Raises
    ------
    DataError
        If it is not YAML, or no such folder holds the splits.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "data.yaml"
    >>> _ = path.write_text("{path: /content/mice, train: images}")
    >>> read_spec(path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: .../data.yaml: path: /content/mice is no folder, and not all splits are beside this \
file; mend path
    >>> (path.parent / "images").mkdir()
    >>> read_spec(path).root == path.parent
    True
    """
    keys = read_yaml(path)
    stated = keys.get("path")
    if stated is not None and not isinstance(stated, str):
        raise DataError(f"{path}: path: expected a folder, got {stated!r}")
    roots, entries = _possible_roots(path, stated, root), _split_entries(path, keys)
    is_lost = stated is not None and not os.path.isdir(path.parent / plain_path(stated))
    found: dict[Path, int] = {}
    for folder in roots:
        places = [_locate(f"{path}: {key}", entry, folder) for key, part in entries.items() for entry in part]
        found[folder] = sum(place is not None for place in places)
        if found[folder] == len(places):
            if is_lost:
                logger.warning("%s: path: %s is no folder on this computer; %s is read", path, stated, folder)
            return Spec(path, folder, keys)
    if is_lost and root is None:
        raise DataError(f"{path}: path: {stated} is no folder, and not all splits are beside this file; mend path")
    return Spec(path, max(roots, key=lambda folder: found[folder]), keys)  # whose splits say what is not there


def _possible_roots(path: Path, stated: str | None, root: str | Path | None) -> list[Path]:
    """Folders that may be the data root of a specification, the likeliest first.

    Parameters
    ----------
    path : Path
        The specification.
    stated : str, optional
        Its `path`.
    root : str or Path, optional
        The data root of the settings.

    Raises
    ------
    DataError
        If a path of another computer may mean several folders.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _possible_roots(folder / "data.yaml", ".", "/data") == [folder, Path("/data")]
    True
    >>> _possible_roots(folder / "data.yaml", "C:/mice", "/data") == [Path("/data"), folder]
    True
    """
    given = [] if root is None else [Path(root)]
    if stated is None:
        return [*given, path.parent]
    plain = plain_path(stated)
    places = [Path(os.path.normpath(path.parent / plain)), *given]  # an absolute path is itself
    if is_absolute(plain) or plain.startswith("../"):  # `../datasets/x` starts in the folder of another program
        try:
            places += [find_moved(stated, [path.parent], ["folder"]) or path.parent, path.parent]
        except ValueError as error:
            raise DataError(f"{path}: path: {error}") from None
    return list(dict.fromkeys(place for place in places if os.path.isdir(place) or place in given))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the sections of a YAML file.

    Raises
    ------
    DataError
        If it is not text or not YAML.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "data.yaml"
    >>> _ = path.write_text("names: {0: salmon}")
    >>> read_yaml(path)
    {'names': {0: 'salmon'}}
    """
    try:
        return read_sections(read_text(path))
    except SettingsError as error:
        raise DataError(f"{path}: {error}") from None


def find_misspelled(spec: Spec, others: Iterable[str] = ()) -> list[Problem]:
    """What would be passed over: keys that look like one that a specification may have, and a val or test not there.

    Parameters
    ----------
    spec : Spec
        The file.
    others : iterable of str
        Keys of its format beyond those of every format.

    Examples
    --------
    >>> spec = Spec(Path("data.yaml"), Path("."), {"kpt_shap": [4, 3], "download": "no"})
    >>> [str(problem) for problem in find_misspelled(spec, ["kpt_shape"])]
    ["data.yaml: unknown key 'kpt_shap'; did you mean 'kpt_shape'?"]
    """
    names = [*others, *SPLIT_KEYS, *NAME_KEYS, "path", "format", "names", "nc", "flip_idx", "kpt_shape", "edges"]
    found = []
    for key in (key for key in map(str, spec.keys) if key not in names):
        close = difflib.get_close_matches(key, names, 1, cutoff=0.8)
        if close:
            found.append(Problem(str(spec.path), f"unknown key {key!r}", f"did you mean {close[0]!r}?"))
    for key, entries in _split_entries(spec.path, spec.keys).items():
        if SPLIT_WORDS.get(key, key) in ("val", "test"):
            lacking = [entry for entry in entries if _locate(f"{spec.path}: {key}", entry, spec.root) is None]
            found += [_missing_split(spec, key, entry) for entry in lacking]
    return found


def keypoint_shape(spec: Spec) -> tuple[int, int] | None:
    """Number of keypoints and of values per keypoint, or None where the file does not say.

    Raises
    ------
    DataError
        If it is not [K, 2] or [K, 3].

    Examples
    --------
    >>> keypoint_shape(Spec(Path("data.yaml"), Path("."), {"kpt_shape": [4]}))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: data.yaml: kpt_shape: expected [number of keypoints up to 1000, 2 or 3], got [4]
    """
    shape = spec.keys.get("kpt_shape")
    if shape is None:
        return None
    good = isinstance(shape, list) and len(shape) == 2 and all(type(value) is int for value in shape)
    if not good or not 1 <= shape[0] <= MOST_KEYPOINTS or shape[1] not in (2, 3):
        number = f"number of keypoints up to {MOST_KEYPOINTS}"
        raise DataError(f"{spec.path}: kpt_shape: expected [{number}, 2 or 3], got {shape!r}")
    return shape[0], shape[1]


def category_names(spec: Spec) -> list[str] | None:
    """Names of the categories in order, or None where the file has none.

    Raises
    ------
    DataError
        If they are neither a list nor a mapping from numbers, a name is a duplicate, or `nc` contradicts them.

    Examples
    --------
    >>> category_names(Spec(Path("data.yaml"), Path("."), {"names": {7: "fish", 1: "crab"}}))
    ['crab', 'fish']
    """
    stated, count = spec.keys.get("names"), spec.keys.get("nc")
    if stated is None:
        return [str(index) for index in range(count)] if isinstance(count, int) else None
    numbers = class_numbers(spec)
    listed = [stated.get(number, stated.get(str(number))) for number in numbers] if isinstance(stated, dict) else stated
    names = _as_list(listed, f"{spec.path}: names")
    if len(set(names)) < len(names):
        raise DataError(f"{spec.path}: names: duplicate name in {names}, without blanks at the ends")
    if isinstance(count, int) and count not in (len(names), max(numbers, default=-1) + 1):
        raise DataError(f"{spec.path}: nc is {count}, but there are {len(names)} names; mend one of them")
    return names


def class_numbers(spec: Spec) -> list[int]:
    """The numbers that labels have for the categories, in the order of `category_names`: of a list, from 0 on.

    A mapping may begin at any number and leave some out: no label may have these.

    Raises
    ------
    DataError
        If a key of a mapping is no whole number, or twice there.

    Examples
    --------
    >>> class_numbers(Spec(Path("data.yaml"), Path("."), {"names": {"7": "fish", 1: "crab"}}))
    [1, 7]
    >>> class_numbers(Spec(Path("data.yaml"), Path("."), {"names": {"fish": 0}}))
    Traceback (most recent call last):
        ...
    utils.errors.DataError: data.yaml: names: expected a list of names or a mapping from numbers to names, got \
{'fish': 0}
    """
    stated = spec.keys.get("names")
    if not isinstance(stated, Mapping):
        return list(range(len(stated))) if isinstance(stated, list) else []
    keys = [int(key) for key in stated if str(key).isdecimal() and str(key).isascii() and len(str(key)) < 10]
    if len(set(keys)) < len(stated):
        what = f"expected a list of names or a mapping from numbers to names, got {str(stated)[:200]}"
        raise DataError(f"{spec.path}: names: {what}")
    return sorted(keys)


def _as_list(value: Any, where: str) -> list[str]:
    """Names out of a list, or a mapping of indices from 0 on.

    Raises
    ------
    DataError
        If it is something else.

    Examples
    --------
    >>> _as_list({"1": "b", 0: "a"}, "names")
    ['a', 'b']
    >>> _as_list({0: "a", 2: "b"}, "data.yaml: names")
    Traceback (most recent call last):
        ...
    utils.errors.DataError: data.yaml: names: expected a list of names or a mapping from 0 to 1, got {0: 'a', 2: 'b'}
    >>> _as_list(["a", ""], "data.yaml: names")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.DataError: data.yaml: names: entry 1: expected a name, got ''; give it one, or take it out and ...
    """
    if isinstance(value, Mapping):
        by_index = {int(key): entry for key, entry in value.items() if str(key).isdecimal()}
        entries = [by_index.get(index) for index in range(len(value))]
    else:
        entries = list(value) if isinstance(value, list) else [None]
    if any(not isinstance(entry, str | int | float) for entry in entries):
        raise DataError(f"{where}: expected a list of names or a mapping from 0 to {len(entries) - 1}, got {value!r}")
    return read_names(entries, where)


def _numbers_of(spec: Spec, categories: Sequence[str]) -> list[int]:
    """The numbers of categories, where they are those of the file; else none.

    Examples
    --------
    >>> spec = Spec(Path("data.yaml"), Path("."), {"names": {1: "crab", 7: "fish"}})
    >>> _numbers_of(spec, ["crab", "fish"]), _numbers_of(spec, ["mouse"])
    ([1, 7], [])
    """
    return class_numbers(spec) if category_names(spec) == list(categories) else []


def keypoint_names(spec: Spec, categories: Sequence[str]) -> dict[str, list[str]] | None:
    """Keypoint names of each category, or None where the file has none.

    `keypoint_names`, `kpt_names` and `kpt_labels` mean the same, each as a list, a mapping from index to name, or a
    mapping from category (index or name) to a list.

    Raises
    ------
    DataError
        If they are written in another way, contradict each other or `kpt_shape`, or leave a category out.

    Examples
    --------
    >>> spec = Spec(Path("data.yaml"), Path("."), {"kpt_names": {0: ["nose", "tail"]}, "kpt_shape": [2, 3]})
    >>> keypoint_names(spec, ["mouse"])
    {'mouse': ['nose', 'tail']}
    """
    stated = {key: spec.keys[key] for key in NAME_KEYS if spec.keys.get(key) is not None}
    numbers = _numbers_of(spec, categories)
    read = {key: _by_category(value, categories, f"{spec.path}: {key}", numbers) for key, value in stated.items()}
    if not read:
        return None
    first, *others = read
    for other in others:
        if read[other] != read[first]:
            raise DataError(f"{spec.path}: {first} and {other} name different keypoints; keep one of them")
    shape = keypoint_shape(spec)
    for category, names in read[first].items():
        if shape is not None and len(names) != shape[0]:
            raise DataError(
                f"{spec.path}: kpt_shape says {shape[0]} keypoints, {first} has {len(names)} for {category!r}"
            )
    return read[first]


def _by_category(
    value: Any, categories: Sequence[str], where: str, numbers: Sequence[int] = ()
) -> dict[str, list[str]]:
    """Lists of names by category, from any of the three ways to write them.

    Raises
    ------
    DataError
        If there are more lists than categories, or one of them is no list of names.

    Examples
    --------
    >>> _by_category(["nose", "tail"], ["mouse", "rat"], "data.yaml")
    {'mouse': ['nose', 'tail'], 'rat': ['nose', 'tail']}
    >>> _by_category({"rat": ["nose"], 0: ["tail"]}, ["mouse", "rat"], "data.yaml")
    {'mouse': ['tail'], 'rat': ['nose']}
    """
    if not isinstance(value, Mapping) or not any(isinstance(entry, list | Mapping) for entry in value.values()):
        return {category: _as_list(value, where) for category in categories}
    if len(value) > len(categories):
        raise DataError(f"{where}: {len(value)} categories, but names has {len(categories)}: {', '.join(categories)}")
    keyed = _pick(value, categories, where, numbers)
    return {category: _as_list(keyed[category], where) for category in categories}


def _pick(value: Mapping, categories: Sequence[str], where: str, numbers: Sequence[int] = ()) -> dict[str, Any]:
    """The entry of each category, by its name or number; numbers count from 0 where none are given.

    Raises
    ------
    DataError
        If a category has none.

    Examples
    --------
    >>> _pick({0: [1], "rat": [2]}, ["mouse", "rat"], "data.yaml")
    {'mouse': [1], 'rat': [2]}
    """
    found = {}
    for index, category in zip(numbers or range(len(categories)), categories, strict=True):
        keys = [key for key in (category, index, str(index)) if key in value]
        if not keys:
            raise DataError(f"{where}: nothing for category {category!r}; add an entry {index}")
        found[category] = value[keys[0]]
    return found


def build_skeletons(spec: Spec, names: Mapping[str, Sequence[str]]) -> dict[str, Skeleton]:
    """Skeletons of the categories, with `flip_idx` and `edges` of the file for all or for each.

    Raises
    ------
    DataError
        If a name is a duplicate, or `flip_idx` or `edges` do not fit the names.

    Examples
    --------
    >>> spec = Spec(Path("data.yaml"), Path("."), {"flip_idx": [0, 2, 1]})
    >>> build_skeletons(spec, {"mouse": ["nose", "eye", "ear"]})["mouse"].flip_idx
    (0, 2, 1)
    """
    flips = _per_category(spec, "flip_idx", list(names))
    edges = _per_category(spec, "edges", list(names))
    return {
        category: build_skeleton(f"{spec.path}: {category}", tuple(labels), flips[category], edges[category] or ())
        for category, labels in names.items()
    }


def _per_category(spec: Spec, key: str, categories: Sequence[str]) -> dict[str, Any]:
    """A list of the file, the same for all categories or one for each; None where it is absent or empty.

    Raises
    ------
    DataError
        If it is no list of whole numbers or of pairs of them.

    Examples
    --------
    >>> spec = Spec(Path("data.yaml"), Path("."), {"flip_idx": {0: [1, 0]}})
    >>> _per_category(spec, "flip_idx", ["mouse"])
    {'mouse': [1, 0]}
    """
    value = spec.keys.get(key)
    found = dict.fromkeys(categories, value)
    if isinstance(value, Mapping):
        found = _pick(value, categories, f"{spec.path}: {key}", _numbers_of(spec, categories))
    for entry in found.values():
        items = entry or [] if isinstance(entry, list | None) else [None]
        if key == "edges":
            items = [end for pair in items for end in (pair if isinstance(pair, list) and len(pair) == 2 else [None])]
        if any(type(item) is not int for item in items):
            what = "pairs of keypoint indices" if key == "edges" else "a list of keypoint indices"
            raise DataError(f"{spec.path}: {key}: expected {what} from 0, got {entry!r}")
    return {category: entry or None for category, entry in found.items()}


def spec_keys(skeletons: Mapping[str, Skeleton]) -> dict[str, Any]:
    """What a specification file says about skeletons, so that reading it gives them back.

    Parameters
    ----------
    skeletons : dict of str to Skeleton
        By category.

    Returns
    -------
    dict
        names, and where a category has keypoints kpt_shape where all have the same number, kpt_names, flip_idx, edges.

    Examples
    --------
    >>> spec_keys({"mouse": Skeleton(("nose", "tail"))})
    {'names': {0: 'mouse'}, 'kpt_shape': [2, 3], 'kpt_names': {0: ['nose', 'tail']}, 'flip_idx': [0, 1]}
    >>> spec_keys({"cow": Skeleton(())})
    {'names': {0: 'cow'}}
    """
    numbered = dict(enumerate(skeletons.values()))
    keys: dict[str, Any] = {"names": dict(enumerate(skeletons))}
    counts = {skeleton.num_keypoints for skeleton in numbered.values()}
    if counts <= {0}:
        return keys
    if len(counts) == 1:
        keys["kpt_shape"] = [counts.pop(), 3]
    keys["kpt_names"] = {index: list(skeleton.names) for index, skeleton in numbered.items()}
    flips = {index: list(skeleton.flip_idx or range(skeleton.num_keypoints)) for index, skeleton in numbered.items()}
    keys["flip_idx"] = flips[0] if len({tuple(flip) for flip in flips.values()}) == 1 else flips
    if any(skeleton.edges for skeleton in numbered.values()):
        keys["edges"] = {index: [list(edge) for edge in skeleton.edges] for index, skeleton in numbered.items()}
    return keys


def write_spec(path: Path, keys: Mapping[str, Any]) -> Path:
    """Write a specification file, keys in the given order, short lists on one line.

    Examples
    --------
    >>> import tempfile
    >>> path = write_spec(Path(tempfile.mkdtemp()) / "data.yaml", {"path": ".", "kpt_shape": [4, 3]})
    >>> path.read_text().splitlines()
    ['path: .', 'kpt_shape: [4, 3]']
    """
    import yaml

    text = yaml.safe_dump(dict(keys), sort_keys=False, allow_unicode=True, default_flow_style=None, width=1000)
    write_bytes(path, text.encode())
    return path


def split_of_name(name: str) -> str | None:
    """Split that a file's name speaks of, or None.

    Examples
    --------
    >>> [split_of_name(name) for name in ("annotations_valid.json", "person_keypoints_train2017.json", "trained.json")]
    ['val', 'train', None]
    """
    words = "".join(char if char.isalpha() else " " for char in Path(name).stem.lower()).split()
    found = [SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS]
    return found[-1] if found else None
