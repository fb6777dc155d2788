"""YAML that was made to do harm: one line of error within seconds, and no value that later steps trip over."""

import time

import pytest

from utils.errors import SettingsError
from utils.runtime.setting_files import set_value
from utils.runtime.strict_yaml import MAX_VALUES, read_sections

BOMB = "\n".join(
    ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]", *(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]" for i in range(9))]
)
MERGES = "\n".join(
    ["a0: &a0 {k: 1}", *(f"a{i + 1}: &a{i + 1} {{<<: [{', '.join([f'*a{i}'] * 9)}]}}" for i in range(6))]
)
HOSTILE = {
    "int": ("a: !!int x", "line 1: 'x' is no int"),
    "float": ("\na: !!float x", "line 2: 'x' is no float"),
    "bool": ("a: !!bool x", "line 1: 'x' is no bool"),
    "map": ("a: !!map x", "expected a mapping node"),
    "date": ("a: !!timestamp 2001-99-99", "could not determine a constructor"),
    "bytes": ("a: !!binary '%%'", "could not determine a constructor"),
    "object": ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    "long number": (f"a: !!int {'9' * 5000}", "is no int"),
    "deep": ("[" * 100_000, "nested too deeply, at most 50"),
    "deep blocks": ("\n".join(" " * depth + "a:" for depth in range(2000)), "line 50: .* nested too deeply"),
    "alias in itself": ("a: &a {b: *a}", "an alias stands inside of what it names"),
    "merge of itself": ("a: &a {<<: *a}", "an alias stands inside of what it names"),
    "alias bomb": (BOMB, "make more than 50000 values"),
    "merge bomb": (MERGES, "make more than 50000 values"),
    "keys": ("\n".join(f"k{number}: 1" for number in range(100_000)), "more than 50000 keys and values"),
    "nul": (r'a: "x\0y"', "a character that no name can have"),
    "half a character": (r'a: "\ud800"', "a character that no name can have"),
}


@pytest.mark.parametrize(("text", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_one_short_line_soon(text, words):
    start = time.process_time()
    with pytest.raises(SettingsError, match=words) as caught:
        read_sections(text)
    assert time.process_time() - start < 5
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    "text", [text for name, (text, _) in HOSTILE.items() if name in ("int", "alias in itself", "nul")]
)
def test_an_override_is_read_by_the_same_loader(text):
    with pytest.raises(SettingsError, match=r"train\.x=.*the value cannot be used: line 1"):
        set_value({}, f"train.x={text.removeprefix('a: ')}")


def test_dates_and_signs_are_text_and_shared_parts_are_kept():
    tree = read_sections("day: 2024-05-01\nbad: 2001-99-99\nsign: =\nbase: &b {x: 1}\nmore: {<<: *b, y: 2}\nsame: *b")
    assert tree == {
        "day": "2024-05-01",
        "bad": "2001-99-99",
        "sign": "=",
        "base": {"x": 1},
        "more": {"x": 1, "y": 2},
        "same": {"x": 1},
    }


def test_a_list_of_many_class_names_is_read():
    names = "\n".join(f"  {number}: name {number}" for number in range(21_841))  # ImageNet's 21k
    assert len(read_sections(f"names:\n{names}")["names"]) == 21_841 < MAX_VALUES
