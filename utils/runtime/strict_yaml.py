"""YAML as people mean it: the scalars of version 1.2, and an error for a duplicate key."""

from __future__ import annotations

import re

import yaml
from typing_extensions import override

from utils.errors import SettingsError


class UniqueKeyLoader(yaml.SafeLoader):
    """YAML 1.2 scalars, and an error for a duplicate key.

    PyYAML follows YAML 1.1, which reads `1e-3` as text and `on` as true, and keeps the last of two equal keys.

    Examples
    --------
    >>> yaml.load("{lr: 1e-3, on: off}", UniqueKeyLoader)
    {'lr': 0.001, 'on': 'off'}
    """

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
        >>> yaml.load("{a: 1, a: 2}", UniqueKeyLoader)
        Traceback (most recent call last):
            ...
        utils.errors.SettingsError: line 1: duplicate key 'a' in one section; keep one of them
        """
        seen = set()
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
            if key != "<<" and key in seen:
                raise SettingsError(f"line {line}: duplicate key {key!r} in one section; keep one of them")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _use_yaml_1_2_scalars(loader: type[yaml.SafeLoader]) -> None:
    """Replace YAML 1.1's rules for booleans, integers and floats by those of YAML 1.2.

    Examples
    --------
    >>> yaml.load("[yes, true, 1_0, 010, .5, 12:30]", UniqueKeyLoader)
    ['yes', True, '1_0', 10, 0.5, '12:30']
    """
    dropped = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float", "tag:yaml.org,2002:int")
    loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in rules if tag not in dropped]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    number = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
    loader.add_implicit_resolver(
        "tag:yaml.org,2002:bool", re.compile("^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
    )
    loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile("^[-+]?[0-9]{1,300}$"), list("-+0123456789"))
    loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^({number})$"), list("-+.0123456789"))
    loader.add_constructor("tag:yaml.org,2002:int", lambda self, node: int(node.value))


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


def read_sections(text: str) -> dict:
    """Parse YAML text into nested dictionaries.

    Raises
    ------
    SettingsError
        When the text is not valid YAML or holds no sections.

    Examples
    --------
    >>> read_sections("a: [1")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    utils.errors.SettingsError: line 1: not valid YAML: ...
    """
    try:
        tree = yaml.load(text, UniqueKeyLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = " ".join(str(getattr(error, "problem", error)).split())  # one line, whatever the library says
        raise SettingsError(f"{where}not valid YAML: {problem}{hint_of_quotes(problem)}") from None
    except RecursionError:
        raise SettingsError("not valid YAML: lists or sections are nested too deeply") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SettingsError(f"expected sections such as 'train:', got {type(tree).__name__}")
    return tree
