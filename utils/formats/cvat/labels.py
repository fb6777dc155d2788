"""The labels that the head of a CVAT file declares: classes, skeletons and the kinds of their attributes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from utils.errors import DataError
from utils.formats.elements import Element
from utils.formats.types import Skeleton, build_skeleton
from utils.formats.values import read_number

TAG = "tag"  # kind of a label that pictures have, not objects
_TAGS_OF_SVG = re.compile(r"<(circle|line)\b([^<>]*)>")
_KEYS_OF_SVG = re.compile(r"""([\w-]+)\s*=\s*["']([^"']*)["']""")


@dataclass
class Labels:
    """What a file declares.

    Parameters
    ----------
    skeletons : dict of str to Skeleton
        By class, in the order of the file.
    kinds : dict of str to dict of str to str
        By label, then by attribute: text, number, checkbox, select or radio.
    defaults : dict of str to dict of str to str
        Values that attributes have until somebody sets them.
    declared : bool
        Whether the file has a list of labels at all.

    Examples
    --------
    >>> Labels().declared
    False
    """

    skeletons: dict[str, Skeleton] = field(default_factory=dict)
    kinds: dict[str, dict[str, str]] = field(default_factory=dict)
    defaults: dict[str, dict[str, str]] = field(default_factory=dict)
    declared: bool = False


def read_labels(where: str, meta: Element) -> Labels:
    """Read the labels of the element `meta`, of a task, job or project.

    Parameters
    ----------
    where : str
        The file.
    meta : Element
        A label with a `parent` is a point of that skeleton.

    Raises
    ------
    DataError
        If the points of a skeleton have equal names, or their number is too large.

    Examples
    --------
    >>> from utils.formats.elements import parse_xml
    >>> part = "<label><name>{}</name><type>points</type><parent>fox</parent></label>"
    >>> svg = '<svg>&lt;line data-node-from="1" data-node-to="2"/&gt;</svg>'
    >>> whole = f"<label><name>fox</name><type>skeleton</type>{svg}</label>{part.format('nose')}{part.format('tail')}"
    >>> read_labels("a.xml", parse_xml(f"<meta><task><labels>{whole}</labels></task></meta>")).skeletons
    {'fox': Skeleton(names=('nose', 'tail'), flip_idx=None, edges=((0, 1),))}
    """
    found, parts, drawn = Labels(), dict[str, list[str]](), dict[str, str]()
    for label in _find_labels(meta):
        found.declared = True
        name, parent, kind = (label.text_of(key) or "" for key in ("name", "parent", "type"))
        attributes = [one for group in label.find_all("attributes") for one in group.find_all("attribute")]
        if parent:
            parts.setdefault(parent, []).append(name)
        elif name and kind != TAG:
            parts.setdefault(name, [])
            drawn[name] = label.text_of("svg") or ""
            stated = [(one.text_of("name") or "", one) for one in attributes]
            found.kinds[name] = {key: one.text_of("input_type") or "text" for key, one in stated}
            found.defaults[name] = {key: one.text_of("default_value") or "" for key, one in stated}
    for name in drawn:
        edges = _read_edges(drawn[name], parts[name])
        found.skeletons[name] = build_skeleton(f"{where}: skeleton {name!r}", parts[name], None, edges)
    return found


def _find_labels(element: Element) -> Iterator[Element]:
    """The elements `label` in lists of labels, at any depth.

    Examples
    --------
    >>> from utils.formats.elements import parse_xml
    >>> text = "<meta><project><labels><label><name>a</name></label></labels></project></meta>"
    >>> [label.text_of("name") for label in _find_labels(parse_xml(text))]
    ['a']
    """
    for child in element.children:
        if child.name == "labels":
            yield from child.find_all("label")
        elif child.name != "label":
            yield from _find_labels(child)


def _read_edges(svg: str, names: Sequence[str]) -> list[tuple[int, int]]:
    """Edges of a skeleton, as indices from 0, out of its drawing; none where it does not tell them.

    Examples
    --------
    >>> nodes = '<circle data-node-id="7" data-label-name="b"/><circle data-node-id="8" data-label-name="a"/>'
    >>> line = '<line x1="1" data-node-from="7" data-node-to="8"></line>'
    >>> _read_edges(nodes + line, ["a", "b"]), _read_edges(line, ["a", "b"])
    ([(1, 0)], [])
    """
    nodes = {str(index): name for index, name in enumerate(names, start=1)}
    lines = []
    for kind, text in _TAGS_OF_SVG.findall(svg):
        keys = dict(_KEYS_OF_SVG.findall(text))
        if kind == "line":
            lines.append((keys.get("data-node-from"), keys.get("data-node-to")))
        elif "data-label-name" in keys:
            nodes[keys.get("data-node-id", "")] = keys["data-label-name"]
    ends = [tuple(nodes.get(end or "", "") for end in line) for line in lines]
    index = {name: place for place, name in enumerate(names)}
    return [(index[first], index[last]) for first, last in ends if first in index and last in index]


def join_labels(where: str, parts: Iterable[Labels]) -> Labels:
    """The labels of several files together.

    Raises
    ------
    DataError
        If two files mean different points by one skeleton.

    Examples
    --------
    >>> fox, cow = Labels({"fox": Skeleton(("nose",))}, declared=True), Labels({"cow": Skeleton(())})
    >>> list(join_labels("set", [fox, cow]).skeletons)
    ['fox', 'cow']
    """
    whole = Labels(declared=True)
    for part in parts:
        whole.declared &= part.declared
        for name, skeleton in part.skeletons.items():
            if whole.skeletons.setdefault(name, skeleton) != skeleton:
                what = f"the points of the skeleton {name!r} differ from those of another file"
                raise DataError(f"{where}: {what}; give one of them another name")
    return whole


def type_tags(tags: Mapping[str, Any], kinds: Mapping[str, str]) -> dict[str, Any]:
    """Attributes as the kinds of their values say: true and false of a checkbox, numbers, else text.

    Examples
    --------
    >>> type_tags({"hidden": "true", "legs": "4", "age": "old"}, {"hidden": "checkbox", "legs": "number"})
    {'hidden': True, 'legs': 4, 'age': 'old'}
    """
    found = dict(tags)
    for name, kind in kinds.items():
        value = tags.get(name)
        if kind == "checkbox" and value in ("true", "false"):
            found[name] = value == "true"
        elif kind == "number" and isinstance(value, str):
            try:
                number = read_number(value)
            except ValueError:
                continue
            found[name] = int(number) if number.is_integer() and value.lstrip("-").isdigit() else number
    return found
