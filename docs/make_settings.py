"""Write docs/settings.md from the settings themselves: python -m docs.make_settings."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from config import TaskConfig
from utils.files import write_bytes

HEAD = """# Settings

Every setting, with its default. This page is made by `python -m docs.make_settings`; a test compares it with the code.
`python main.py --schema` prints the same as a JSON schema for editors. On the command line a setting is written with
its path: `python main.py config.yml train.epochs=5 model.head=linear`; it holds for all tasks of the file, or for one,
as in `tasks.segmentation.model.head=linear`.
"""


def rows(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """Path, type, default and help of every setting below a section."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            yield from rows(nested, f"{path}.")
        else:
            yield path, type_name(nested), default_name(field.default), field.description or ""


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
    parts = [HEAD]
    for name, field in TaskConfig.model_fields.items():
        section = field.annotation
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            parts.append(f"\n## `{name}`\n\n{field.description} (default `{field.default}`).\n")
            continue
        title = (section.__doc__ or "").splitlines()[0]
        lines = [f"\n## `{name}`\n\n{title}\n\n| setting | type | default | meaning |\n|---|---|---|---|"]
        lines += [
            f"| `{path}` | {kind} | `{default}` | {text} |" for path, kind, default, text in rows(section, f"{name}.")
        ]
        parts.append("\n".join(lines) + "\n")
    return "".join(parts).replace("|---|---|---|---|", "|---|---|---|---|")


if __name__ == "__main__":
    write_bytes(Path(__file__).parent / "settings.md", page().encode())
