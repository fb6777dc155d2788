"""Every setting of every kind of task acts: another value changes what real code computes, reads, writes or calls.

A probe never looks at resolved settings, logs of resolved settings or fingerprints. `PROBES` names for each setting of
each kind a probe and another value; a setting without one fails the test.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config import Section
from tasks import kinds
from tests.settings.detection import DETECTION
from tests.settings.distill import DISTILL
from tests.settings.keypoints import KEYPOINTS
from tests.settings.probe import Probe
from tests.settings.segmentation import SEGMENTATION
from tests.settings.shared import SHARED
from tests.settings.stage import CALLS, EXAMPLES, SIZES, model_of, prepared
from utils.errors import DinolithError
from utils.runtime.setting_errors import section_of

OF_KIND = {"segmentation": SEGMENTATION, "keypoints": KEYPOINTS, "detection": DETECTION, "distill": DISTILL}


def leaves(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Paths of all settings below a section."""
    for name, field in section.model_fields.items():
        nested = section_of(field.annotation)
        if nested:
            yield from leaves(nested, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


LEAVES = [(kind, leaf) for kind, settings in kinds().items() for leaf in leaves(settings)]
PROBES = {(kind, leaf): OF_KIND[kind].get(leaf) or SHARED.get(leaf) for kind, leaf in LEAVES}


def look(probe: Probe, kind: str, folder: Path, *more: str) -> str:
    """What a probe sees with further settings, without the names of the folders where it looks."""
    folder.mkdir(parents=True)
    if probe.change:
        EXAMPLES[kind](folder)
        probe.change(folder)
    words = {"{folder}": str(folder), "{data}": str(prepared(kind))}
    if "{model}" in str((probe.base, more)):
        words["{model}"] = str(model_of(kind))
    overrides = [*probe.base, *more]
    for word, value in words.items():
        overrides = [entry.replace(word, value) for entry in overrides]
    CALLS.clear()
    SIZES.clear()
    return str(probe.look(kind, folder, overrides)).replace(str(folder), "")


def usually(probe: Probe, kind: str, folder: Path) -> str:
    """What a probe sees without the other value; that may be the error that the other value mends."""
    try:
        return look(probe, kind, folder)
    except DinolithError as error:
        return f"{type(error).__name__}: {error}".replace(str(folder), "")


@pytest.mark.parametrize(("kind", "leaf"), [case for case in LEAVES if PROBES[case]])
def test_a_setting_acts(kind, leaf, usual, tmp_path):
    probe = PROBES[kind, leaf]
    if probe.refuses:
        look(probe, kind, tmp_path / "usual")
        with pytest.raises(DinolithError, match=probe.refuses):
            look(probe, kind, tmp_path / "other", f"{leaf}={probe.other}")
        return
    key: Any = kind, probe.look, probe.base, probe.change
    if key not in usual:
        usual[key] = usually(probe, kind, tmp_path / "usual")
    assert look(probe, kind, tmp_path / "other", f"{leaf}={probe.other}") != usual[key], f"{leaf} changes nothing"


@pytest.mark.parametrize("case", sorted({(kind, probe.look) for (kind, _), probe in PROBES.items() if probe}, key=str))
def test_the_same_settings_look_the_same(case, tmp_path):
    kind, of = case
    probe = next(probe for (of_kind, _), probe in PROBES.items() if probe and (of_kind, probe.look) == (kind, of))
    first, second = (usually(probe, kind, tmp_path / name) for name in ("first", "second"))
    assert first == second


def test_every_setting_has_a_probe():
    assert [case for case in LEAVES if PROBES[case] is None] == []


def test_every_probe_is_of_a_setting():
    assert {leaf for kind in OF_KIND for leaf in OF_KIND[kind] if (kind, leaf) not in PROBES} == set()
    used = {id(probe) for probe in PROBES.values()}
    assert [leaf for leaf, probe in SHARED.items() if id(probe) not in used] == []
