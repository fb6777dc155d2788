"""Classes of settings: what several of them hold together, and their schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Union

from pydantic import BaseModel, Field, create_model
from pydantic.json_schema import models_json_schema

from utils.runtime.setting_errors import section_of, unknown_key


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
            annotations = dict.fromkeys(variant.annotation for variant in variants)
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
            yield unknown_key(f"{prefix}{key}", list(section.model_fields))
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
    """The JSON schema of a settings file, for editors.

    Examples
    --------
    >>> tree = schema_of({"toy": create_model("Toy", epochs=(int, 3))})
    >>> tree["properties"]["epochs"]["default"], tree["properties"]["tasks"]["additionalProperties"]
    (3, {'anyOf': [{'$ref': '#/$defs/Toy'}]})
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
    return {**tree, **top, "title": "Dinolith settings"}
