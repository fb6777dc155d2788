"""Write docs/settings.md from the settings themselves: python -m docs.make_settings."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import BaseModel

from tasks import kinds
from utils.runtime.files import write_bytes

HEAD = """# Settings

Every setting, with its default. This page is made by `python -m docs.make_settings`; a test compares it with the code.
`python main.py --schema` prints the same as a JSON schema for editors. On the command line a setting is written with
its path: `python main.py config.yml train.epochs=5 model.head=linear`; it holds for all tasks of the file, or for one,
as in `tasks.segmentation.model.head=linear`. It comes before the file: an entry for all tasks also replaces what a task
of the file sets itself, and an entry for one task comes before one for all. The value is YAML and takes the place of
what is there, also of a whole section. Each kind of task has its own settings: the column `kinds` names the kinds
that have one. At the top level of the file a setting is valid if a task's kind has it; in a task's own section it must
be that kind's.
"""


def is_section(annotation: Any) -> TypeGuard[type[BaseModel]]:
    """Whether a field holds settings of its own."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def rows(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """Path, type, default and help of every setting below a section."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        nested = field.annotation
        if is_section(nested):
            yield from rows(nested, f"{path}.")
        else:
            yield path, type_name(nested), default_name(field.default), field.description or ""


def table(sections: Mapping[str, type[BaseModel]], name: str, every: int) -> str:
    """The settings of a section in all kinds of task; a line says which kinds have it so."""
    having: dict[tuple[str, str, str, str], list[str]] = {}
    for kind, section in sections.items():
        for row in rows(section, f"{name}."):
            having.setdefault(row, []).append(kind)
    lines = ["| setting | kinds | type | default | meaning |", "|---|---|---|---|---|"]
    for (path, type_, default, text), kinds_of_row in sorted(having.items(), key=lambda item: item[0][0]):
        which = "all" if len(kinds_of_row) == every else ", ".join(kinds_of_row)
        lines.append(f"| `{path}` | {which} | {type_} | `{default}` | {text} |")
    return "\n".join(lines)


def type_name(annotation: Any) -> str:
    """Name a type as a person would write it in YAML."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(str(value) for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(part) for part in arguments)
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if origin in (list, dict):
        return f"{'list' if origin is list else 'section'} of {type_name(arguments[-1])}"
    return {"str": "text", "bool": "true or false", "NoneType": "null", "Any": "value"}.get(
        getattr(annotation, "__name__", str(annotation)), getattr(annotation, "__name__", str(annotation))
    )


def default_name(value: Any) -> str:
    """Write a default as YAML."""
    return (
        {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)
    )


def page() -> str:
    """The whole page."""
    parts, classes = [HEAD], kinds()
    for name in dict.fromkeys(name for kind_class in classes.values() for name in kind_class.model_fields):
        fields = {kind: model.model_fields[name] for kind, model in classes.items() if name in model.model_fields}
        sections = {kind: field.annotation for kind, field in fields.items() if is_section(field.annotation)}
        if not sections:
            field = next(iter(fields.values()))
            default = "segmentation" if name == "kind" else field.default
            parts.append(f"\n## `{name}`\n\n{field.description} (default `{default}`).\n")
            continue
        title = (next(iter(sections.values())).__doc__ or "").splitlines()[0]
        parts.append(f"\n## `{name}`\n\n{title}\n\n{table(sections, name, len(classes))}\n")
    return "".join(parts)


if __name__ == "__main__":
    write_bytes(Path(__file__).parent / "settings.md", page().encode())
