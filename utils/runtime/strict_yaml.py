"""YAML as people mean it: scalars of version 1.2, an error for a duplicate key, and bounds on what a file may ask."""

from __future__ import annotations

import math
import re
from typing import Any

import yaml
from typing_extensions import override

from utils.errors import SettingsError

MAX_DEPTH = 50  # sections or lists within each other
MAX_VALUES = 50_000  # keys and values of a file, those behind an alias counted each time: three seconds of reading
MAX_DIGITS = 300
_UNUSABLE = re.compile("[\0\ud800-\udfff]")  # no path, name or file in UTF-8 can hold them


class UniqueKeyLoader(yaml.SafeLoader):
    """YAML 1.2 scalars, and an error for a duplicate key.

    PyYAML follows YAML 1.1, which reads `1e-3` as text, `on` as true and `2024-05-01` as a date, and keeps the last of
    two equal keys.

    Examples
    --------
    >>> yaml.load("{lr: 1e-3, on: off, day: 2024-05-01}", UniqueKeyLoader)
    {'lr': 0.001, 'on': 'off', 'day': '2024-05-01'}
    """

    def __init__(self, stream: str):
        super().__init__(stream)
        self.depth = self.values = 0

    @override
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Read a node and those in it, within the bounds.

        Raises
        ------
        SettingsError
            When the file holds too many values, or nests them too deeply.

        Examples
        --------
        >>> yaml.load("[" * 60 + "]" * 60, UniqueKeyLoader)
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: line 1: lists or sections are nested too deeply, at most 50
        """
        line = self.peek_event().start_mark.line + 1
        self.depth += 1
        self.values += 1
        if self.depth > MAX_DEPTH:
            raise SettingsError(f"line {line}: lists or sections are nested too deeply, at most {MAX_DEPTH}")
        if self.values > MAX_VALUES:
            raise SettingsError(f"line {line}: more than {MAX_VALUES} keys and values; keep lists in other files")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    @override
    def get_single_node(self) -> yaml.Node | None:
        """Read the whole file, and refuse aliases that would make endless data of it.

        Raises
        ------
        SettingsError
            When an alias stands inside of what it names, or aliases multiply beyond the bound.

        Examples
        --------
        >>> yaml.load("&a [*a]", UniqueKeyLoader)
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: line 1: an alias stands inside of what it names; write the value out
        """
        node = super().get_single_node()
        if node is not None and _count_values(node, {}) > MAX_VALUES:
            raise SettingsError(f"aliases (*name) make more than {MAX_VALUES} values of the file; use fewer")
        return node

    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Build a mapping, refusing duplicate keys; a list of keys gives each of them the value.

        Raises
        ------
        SettingsError
            When a key occurs twice, or is a section.

        Examples
        --------
        >>> yaml.load("{[184, 193]: vegetation, 7: water}", UniqueKeyLoader)
        {184: 'vegetation', 193: 'vegetation', 7: 'water'}
        >>> yaml.load("{01: a, 1: b}", UniqueKeyLoader)
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: line 1: duplicate key '1' in one section, as '01' is the same; keep one of them
        >>> yaml.load("{a: 1, a: 2}", UniqueKeyLoader)
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: line 1: duplicate key 'a' in one section; keep one of them
        """
        seen: dict[Any, str] = {}
        if not isinstance(node, yaml.MappingNode):
            return super().construct_mapping(node, deep)  # which complains
        listed = [
            (key_node.value if isinstance(key_node, yaml.SequenceNode) else [key_node], value_node)
            for key_node, value_node in node.value
        ]
        node.value = [(key_node, value_node) for key_nodes, value_node in listed for key_node in key_nodes]
        for key_node, _ in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise SettingsError(
                    f"line {line}: a key must be a word, a number or a list of them, got a section or a nested list"
                )
            if key == "<<":
                continue
            value = self.construct_object(key_node)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            marks = {key, value, str(value)} if is_number else {key, value}  # 01 is 1, which "1" may stand for too
            if other := next((seen[mark] for mark in marks if mark in seen), None):
                same = "" if other == key else f", as {other!r} is the same"
                raise SettingsError(f"line {line}: duplicate key {key!r} in one section{same}; keep one of them")
            seen |= dict.fromkeys(marks, key)
        return super().construct_mapping(node, deep)

    @override
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Build a value; what its tag cannot hold is an error of the settings.

        Raises
        ------
        SettingsError
            When the tag and the text do not fit each other, or the text holds what no file or name can hold.

        Examples
        --------
        >>> yaml.load("a: !!int x", UniqueKeyLoader)
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: line 1: 'x' is no int; leave out the tag !!int, or write one
        """
        line = node.start_mark.line + 1
        if isinstance(node, yaml.ScalarNode) and _UNUSABLE.search(node.value):
            shown = repr(node.value[:100])
            raise SettingsError(f"line {line}: {shown} holds a character that no name can have; leave it out")
        try:
            return super().construct_object(node, deep)
        except SettingsError:
            raise
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
            kind, text = node.tag.rpartition(":")[2], repr(node.value)[:100]
            raise SettingsError(f"line {line}: {text} is no {kind}; leave out the tag !!{kind}, or write one") from None


def _count_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the values that a node and those in it make; `known` holds the counts of nodes, 0 where one is at work.

    Raises
    ------
    SettingsError
        When a node holds itself.

    Examples
    --------
    >>> _count_values(yaml.compose("{a: &x [1, 2], b: [*x, *x]}"), {})
    13
    >>> _count_values(yaml.compose("{[a, b]: [1, 2]}"), {})
    11
    """
    if id(node) in known:
        if not known[id(node)]:
            line = node.start_mark.line + 1
            raise SettingsError(f"line {line}: an alias stands inside of what it names; write the value out")
        return known[id(node)]
    known[id(node)] = 0
    total = 1
    for entry in node.value if isinstance(node, yaml.CollectionNode) else ():
        parts = [_count_values(part, known) for part in (entry if isinstance(entry, tuple) else (entry,))]
        total += math.prod(parts) + 1 if len(parts) > 1 else parts[0]  # a list of keys gives each of them the value
    known[id(node)] = total
    return total


def _use_yaml_1_2_scalars(loader: type[yaml.SafeLoader]) -> None:
    """Replace YAML 1.1's rules for booleans, integers, floats and dates by those of YAML 1.2.

    Examples
    --------
    >>> yaml.load("[yes, true, 1_0, 010, .5, 12:30]", UniqueKeyLoader)
    ['yes', True, '1_0', 10, 0.5, '12:30']
    """
    dropped = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "float", "int", "timestamp", "value")}
    loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in rules if tag not in dropped]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    number = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
    whole = f"^[-+]?[0-9]{{1,{MAX_DIGITS}}}$"
    loader.add_implicit_resolver(
        "tag:yaml.org,2002:bool", re.compile("^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
    )
    loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(whole), list("-+0123456789"))
    loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^({number})$"), list("-+.0123456789"))
    loader.add_constructor("tag:yaml.org,2002:int", lambda self, node: int(node.value))
    kinds = ("null", "bool", "int", "float", "str", "seq", "map")  # no dates, bytes, sets, pairs
    kept = [None, *(f"tag:yaml.org,2002:{kind}" for kind in kinds)]  # None refuses the rest, naming the line
    loader.yaml_constructors = {tag: make for tag, make in loader.yaml_constructors.items() if tag in kept}


_use_yaml_1_2_scalars(UniqueKeyLoader)


def hint_of_quotes(problem: str) -> str:
    """Say how to write what YAML takes for signs of its own, such as the star of a glob.

    Examples
    --------
    >>> hint_of_quotes("expected alphabetic or numeric character, but found '.'")
    '; put names with * [ ] { } in quotes'
    >>> hint_of_quotes("found a tab")
    ''
    """
    return "; put names with * [ ] { } in quotes" if "expected" in problem else ""


def read_value(text: str) -> Any:
    """Parse YAML text into a value of any kind.

    Raises
    ------
    SettingsError
        When the text is not valid YAML, holds what settings cannot hold, or more than the bounds allow.

    Examples
    --------
    >>> read_value("[1, on]")
    [1, 'on']
    >>> read_value("a: [1")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: line 1: not valid YAML: ...
    """
    try:
        return yaml.load(text, UniqueKeyLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = " ".join(str(getattr(error, "problem", error)).split())  # one line, whatever the library says
        raise SettingsError(f"{where}not valid YAML: {problem[:500]}{hint_of_quotes(problem)}") from None
    except SettingsError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:  # of the library's parser
        raise SettingsError(f"not valid YAML: {type(error).__name__}: {str(error)[:500]}") from error


def read_sections(text: str) -> dict:
    """Parse YAML text into nested dictionaries.

    Raises
    ------
    SettingsError
        When the text is not valid YAML or holds no sections.

    Examples
    --------
    >>> read_sections("- 1")
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: expected sections such as 'train:', got list
    """
    tree = read_value(text)
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SettingsError(f"expected sections such as 'train:', got {type(tree).__name__}")
    return tree
