"""What is wrong with settings, in lines a person can act on: where, what was expected, what came."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from utils.errors import SettingsError

MAX_SHOWN = 200  # characters of a value in a message
MAX_MISTAKES = 20  # of one file that are listed
MANY_KEYS = 15  # of a section; more are not listed where one is near. Heads have fewer, and are not on that page
NEAR = 3  # near keys that are named

_EXPECTED = {
    "float_type": "float",
    "int_type": "int",
    "int_from_float": "int",
    "string_type": "text",
    "bool_type": "true or false",
    "invalid_key": "a word as key",
    "list_type": "a list",
    "dict_type": "a section",
    "model_type": "a section",
    "model_attributes_type": "a section",
}


def explain_errors(error: ValidationError, model: type[BaseModel], section: str = "") -> list[str]:
    """Turn pydantic's errors into lines that say where, what was expected and what came.

    Parameters
    ----------
    error : ValidationError
        As raised by a pydantic model.
    model : type of BaseModel
        The model, for the names of its known keys.
    section : str
        Where the model stands in the settings, such as "model.head_options"; empty for the settings as a whole, whose
        own checks name their keys from the top.

    Returns
    -------
    list of str
        One line per mistake; an unknown key names the nearest known one.

    Examples
    --------
    >>> from pydantic import create_model
    >>> model = create_model("Train", epochs=(int, 3))
    >>> try:
    ...     model(epochs=2.5)
    ... except ValidationError as error:
    ...     print(*explain_errors(error, model, "train"))
    train.epochs: expected int, got float 2.5
    """
    prefix = f"{section}." if section else ""
    lines = []
    for detail in error.errors()[: MAX_MISTAKES + 1]:  # each would search for the nearest key
        if detail["type"] == "value_error" and len(detail["loc"]) <= 1:
            messages = str(detail["ctx"]["error"]).splitlines()
            lines += [f"{section}: {line}" for line in messages] if section else messages
        else:
            lines.append(prefix + _explain(detail, model))
    return _join_variants(lines)


def _join_variants(lines: Sequence[str]) -> list[str]:
    """Make one line of those that name the variants of a type for one value.

    Examples
    --------
    >>> _join_variants(["a: expected int, got str 'x'", "a: expected true or false, got str 'x'", "b: unknown key"])
    ["a: expected int or true or false, got str 'x'", 'b: unknown key']
    """
    joined: dict[tuple[str, str], str] = {}
    for line in lines:
        where, _, rest = line.partition(": expected ")
        what, _, came = rest.partition(", got ")
        before = joined.setdefault((where, came), line)
        if what not in before:
            joined[where, came] = before.replace(f", got {came}", f" or {what}, got {came}")
    return list(joined.values())


def _explain(detail: Any, model: type[BaseModel]) -> str:
    """One line for one pydantic error, its path from the model on.

    Examples
    --------
    >>> from pydantic import create_model
    >>> model = create_model("Train", epochs=(int, 3))
    >>> _explain({"type": "extra_forbidden", "loc": ("epoch",), "input": 3}, model)
    "epoch: unknown key, did you mean 'epochs'? known keys: epochs"
    """
    keys = _keys_of_model(model, detail["loc"])
    path = ".".join(str(key) for key in detail["loc"][: len(keys)])
    if detail["type"] == "extra_forbidden":
        return unknown_key(path, keys[-1], why_left_out(model, detail["loc"][: len(keys)]))
    if detail["type"] == "unknown_name":
        return f"{path}: {detail['msg']}"
    value = detail["input"]
    looks_boolean = str(value).lower() in ("on", "off", "yes", "no") and "bool" in detail["type"]
    hint = " (write true or false)" if looks_boolean else ""
    if detail["type"] in ("too_short", "too_long"):
        bound, count = ("least", "min_length") if detail["type"] == "too_short" else ("most", "max_length")
        entries = "1 entry" if detail["ctx"][count] == 1 else f"{detail['ctx'][count]} entries"
        return f"{path}: expected a list of at {bound} {entries}, got {show_value(value)}"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{path}: expected {_EXPECTED.get(detail['type'], message)}, got {show_value(value)}{hint}"


def show_value(value: Any) -> str:
    """Type and content of a value, cut where it is long.

    Examples
    --------
    >>> show_value(2.5), len(show_value("x" * 10**6))
    ('float 2.5', 207)
    """
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= MAX_SHOWN else shown[:MAX_SHOWN] + '...'}"


def list_mistakes(lines: Iterable[str]) -> SettingsError:
    """One error of all mistakes in settings, sorted; the first ones of many.

    Examples
    --------
    >>> print(str(list_mistakes(f"{number:03}: unknown key" for number in range(30))).splitlines()[-2:])
    ['019: unknown key', 'and more mistakes; mend these first']
    """
    listed = sorted(set(lines))
    more = ["and more mistakes; mend these first"] if len(listed) > MAX_MISTAKES else []
    return SettingsError(*listed[:MAX_MISTAKES], *more)


def why_left_out(model: type[BaseModel], location: Sequence[Any]) -> str:
    """Why a section has no setting of that name, where its class says so in `left_out`; empty where it does not.

    Examples
    --------
    >>> from pydantic import create_model
    >>> train = create_model("Train", epochs=(int, 3))
    >>> train.left_out = {"lr": "nothing is trained here"}
    >>> task = create_model("Task", train=(train, train()))
    >>> why_left_out(task, ("train", "lr")), why_left_out(task, ("train", "epoch")), why_left_out(task, ("trian",))
    ('nothing is trained here', '', '')
    """
    current: type[BaseModel] | None = model
    for key in location[:-1]:
        field = current.model_fields.get(key) if current else None
        current = section_of(field.annotation) if field else None
    return getattr(current, "left_out", {}).get(location[-1], "")


def unknown_key(path: str, known: Iterable[str], why: str = "") -> str:
    """Say that a key is unknown, which are near, and which are known, unless these are many and one is near.

    A reason `why` there is no such key is said in their place.

    Examples
    --------
    >>> unknown_key("train.lr", ["epochs"], "nothing is trained here; drop it")
    'train.lr: nothing is trained here; drop it'
    >>> unknown_key("train.epoch", ["epochs", "enable"])
    "train.epoch: unknown key, did you mean 'epochs'? known keys: enable, epochs"
    >>> unknown_key("train.epoch", ["epochs", *(f"key_{letter}" for letter in "abcdefghijklmno")])
    "train.epoch: unknown key, did you mean 'epochs'? all 16 keys are in docs/settings.md"
    >>> unknown_key("model.head_options.lr", [])
    'model.head_options.lr: unknown key; this section has none'
    """
    if why:
        return f"{path}: {why}"
    if not known:
        return f"{path}: unknown key; this section has none"
    names, name = sorted(known), path.rpartition(".")[2]
    near = difflib.get_close_matches(name, names, NEAR, cutoff=0.8) or difflib.get_close_matches(name, names, 1)
    if near and len(names) > MANY_KEYS:
        listed = " or ".join(map(repr, near))
        return f"{path}: unknown key, did you mean {listed}? all {len(names)} keys are in docs/settings.md"
    return f"{path}: unknown key{suggest(name, names)} known keys: {', '.join(names)}"


def suggest(name: str, known: Iterable[str]) -> str:
    """What goes between an unknown name and the list of known ones: the nearest, when one is near.

    Examples
    --------
    >>> suggest("widht", ["depth", "width"]), suggest("lr", ["depth"])
    (", did you mean 'width'?", ';')
    """
    near = difflib.get_close_matches(name, list(known), 1)
    return f", did you mean {near[0]!r}?" if near else ";"


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, also where it may be null; None for a value.

    Examples
    --------
    >>> from pydantic import create_model
    >>> model = create_model("Train", epochs=(int, 3))
    >>> section_of(model | None).__name__, section_of(list[model])
    ('Train', None)
    """
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    parts = get_args(annotation) if type(None) in get_args(annotation) else ()
    return next((section for part in parts if (section := section_of(part))), None)


def _keys_of_model(model: type[BaseModel], location: Sequence[Any]) -> list[list[str]]:
    """The known keys at each step of a pydantic location, without the steps that name a variant of a type.

    Examples
    --------
    >>> from pydantic import create_model
    >>> train = create_model("Train", epochs=(int | float, 3), lr=(float, 0.1))
    >>> _keys_of_model(create_model("Task", train=(train, train())), ("train", "epochs", "float"))
    [['train'], ['epochs', 'lr']]
    """
    steps: list[list[str]] = []
    current: type[BaseModel] | None = model
    for key in location:
        if current is None:
            if isinstance(key, int):
                steps.append([])
            break
        fields = current.model_fields
        steps.append(list(fields))
        current = section_of(fields[key].annotation) if key in fields else None
    return steps
