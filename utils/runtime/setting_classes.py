"""Classes of settings: what several of them hold together, and their schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Union

from pydantic import BaseModel, Field, create_model
from pydantic.json_schema import models_json_schema

from utils.runtime.setting_errors import section_of, unknown_key, why_left_out

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def merge_classes(classes: Sequence[type[BaseModel]], name: str = "Settings") -> type[BaseModel]:
    """Make a class with the settings of all: what top-level sections may hold, which are for every task of a file.

    Parameters
    ----------
    classes : sequence of type of BaseModel
        Of the kinds.
    name : str
        Of the class that is made.

    Returns
    -------
    type of BaseModel
        Its fields are in the order of their first appearance; a default is kept where all kinds have the same.

    Examples
    --------
    >>> first, second = create_model("Train", epochs=(int, 3)), create_model("Train", epochs=(int, 5), crop=(int, 64))
    >>> list(merge_classes([first, second]).model_fields)
    ['epochs', 'crop']
    """
    fields: dict[str, Any] = {}
    for key in dict.fromkeys(key for kind_class in classes for key in kind_class.model_fields):
        variants = [kind_class.model_fields[key] for kind_class in classes if key in kind_class.model_fields]
        sections = list(dict.fromkeys(section_of(variant.annotation) for variant in variants))
        first = variants[0]
        if len(sections) > 1 and None not in sections:
            merged = merge_classes([section for section in sections if section], key.capitalize())
            fields[key] = (merged, Field(default_factory=merged))
        elif any((other.annotation, other.default) != (first.annotation, first.default) for other in variants):
            annotations = [
                Annotated[(other.annotation, *other.metadata)] if other.metadata else other.annotation
                for other in variants
            ]
            fields[key] = (
                Union[tuple(annotations)],  # noqa: UP007 - of a number that only the run knows
                Field(default_factory=lambda: None, description=first.description),
            )
        else:
            fields[key] = (first.annotation, first)
    return create_model(name, __config__=classes[0].model_config, __doc__=classes[0].__doc__, **fields)


def unknown_keys(tree: dict, section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Say of each key of top-level sections that no kind of task in the file has, which is the nearest.

    Examples
    --------
    >>> model = create_model("Task", train=(create_model("Train", epochs=(int, 3)), ...))
    >>> list(unknown_keys({"train": {"epoch": 3}}, model))
    ["train.epoch: unknown key, did you mean 'epochs'? known keys: epochs"]
    """
    for key, value in tree.items():
        field = section.model_fields.get(key)
        nested = field and section_of(field.annotation)
        if field is None and isinstance(key, str):
            yield unknown_key(f"{prefix}{key}", list(section.model_fields), why_left_out(section, (key,)))
        elif nested and isinstance(value, dict):
            yield from unknown_keys(value, nested, f"{prefix}{key}.")


def only_known(tree: dict, section: type[BaseModel]) -> dict:
    """Leave out the keys that a section does not have; top-level sections may hold them for tasks of other kinds.

    Examples
    --------
    >>> model = create_model("Task", train=(create_model("Train", epochs=(int, 3)), ...))
    >>> only_known({"train": {"epochs": 3, "crop_size": 64}, "keypoints": {}}, model)
    {'train': {'epochs': 3}}
    """
    kept = {}
    for key, value in tree.items():
        field = section.model_fields.get(key)
        nested = field and section_of(field.annotation)
        if field is not None or not isinstance(key, str):
            kept[key] = only_known(value, nested) if nested and isinstance(value, dict) else value
    return kept


def schema_of(kinds: Mapping[str, type[BaseModel]]) -> dict:
    """The JSON schema of a settings file, for editors: every property has a description, every choice its values.

    Examples
    --------
    >>> tree = schema_of({"toy": create_model("Toy", epochs=(int, 3))})
    >>> tree["properties"]["epochs"]["default"], tree["properties"]["tasks"]["additionalProperties"]
    (3, {'anyOf': [{'$ref': '#/$defs/Toy'}]})
    >>> tree["$schema"]
    'https://json-schema.org/draft/2020-12/schema'
    """
    merged = merge_classes(list(kinds.values()))
    refs, tree = models_json_schema([(merged, "validation"), *((kind, "validation") for kind in kinds.values())])
    top = tree["$defs"].pop(refs[merged, "validation"]["$ref"].rpartition("/")[2])
    section = {"anyOf": [refs[kind, "validation"] for kind in kinds.values()]}
    top["properties"]["tasks"] = {
        "type": "object",
        "additionalProperties": section,
        "description": "one section per task",
    }
    tree = {"$schema": DRAFT, **tree, **top, "title": "Dinolith settings", "description": "settings of one file"}
    for definition in tree["$defs"].values():
        if "description" in definition:  # of a docstring, editors show the first paragraph
            definition["description"] = " ".join(definition["description"].partition("\n\n")[0].split())
    for place in (tree, *tree["$defs"].values()):
        for entry in place.get("properties", {}).values():
            _complete(entry, tree["$defs"])
    return tree


def _complete(entry: dict[str, Any], definitions: Mapping[str, dict[str, Any]]) -> None:
    """Give a property the description of its section, and write constants and lists of values as one list of values.

    Examples
    --------
    >>> entry = {"anyOf": [{"const": "a"}, {"enum": ["b", "a"]}], "description": "x"}
    >>> _complete(entry, {})
    >>> entry
    {'description': 'x', 'enum': ['a', 'b']}
    >>> section = {"$ref": "#/$defs/Train"}
    >>> _complete(section, {"Train": {"description": "how to train"}})
    >>> section["description"]
    'how to train'
    """
    if "$ref" in entry and "description" not in entry:
        section = definitions[entry["$ref"].rpartition("/")[2]]
        entry["description"] = section.get("description") or section["title"]  # a class may lack a docstring
    choices = entry.get("anyOf", [entry] if "const" in entry else [])
    if choices and all("const" in choice or "enum" in choice for choice in choices):
        values = [value for choice in choices for value in choice.get("enum", [choice.get("const")])]
        for word in ("anyOf", "const"):
            entry.pop(word, None)
        entry["enum"] = list(dict.fromkeys(values))
