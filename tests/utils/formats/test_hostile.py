"""Annotations that are made to fill the memory or the time: one line each, in bounds of both."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.utils.formats.conftest import draw

ROOT = Path(__file__).resolve().parents[3]
READ = """
import os, resource, sys, time
from utils.errors import DataError
from utils.formats.read import read_annotations

resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))  # of addresses, of which libraries take most
for place in range(1, len(sys.argv), 2):
    if child := os.fork():  # each begins where only the imports are in memory
        os.waitpid(child, 0)
        continue
    start, base = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        sets = read_annotations(sys.argv[place], sys.argv[place + 1])
        told = [str(problem) for part in sets.values() for problem in part.problems]
    except DataError as error:
        told = [str(error)]
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024
    print(round(time.process_time() - start, 2), round(used), len(told), told[0], flush=True)
    os._exit(0)
"""
IMAGE = '<annotations><image name="a.png" width="60" height="40">\n{}</image></annotations>'


def write_cvat(shape: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "a.xml").write_text(IMAGE.format(shape))

    return write


def polygon(points: str) -> str:
    return f'<polygon label="cow" points="{points}"/>'


HOSTILE: dict[str, tuple[str, str, Callable[[Path], None], str]] = {
    "entities": (
        "cvat",
        "a.xml",
        lambda folder: write_bombs(folder / "a.xml"),
        "a.xml:2: declares an entity",
    ),
    "ten million points": (
        "cvat",
        "a.xml",
        lambda folder: write_cvat(polygon(";".join(["1.5,2.5"] * 10_000_000)))(folder),
        "a.xml: line 2: a list of 10000001 numbers",
    ),
    "more points than an outline has": (
        "cvat",
        "a.xml",
        lambda folder: write_cvat(polygon(";".join(["1,2"] * 1_500_000)))(folder),
        "a.xml:2: a polygon of 1500000 points",
    ),
    "ten million elements": (
        "cvat",
        "a.xml",
        lambda folder: write_cvat("<a/>" * 10_000_000)(folder),
        "a.xml:2: more than 500000 elements",
    ),
    "elements inside each other": (
        "cvat",
        "a.xml",
        lambda folder: write_cvat("<a>" * 1_000_000)(folder),
        "a.xml:2: more than 100 elements inside each other",
    ),
    "a mask larger than its picture": (
        "cvat",
        "a.xml",
        write_cvat('<mask label="cow" rle="0, 9999999999" left="0" top="0" width="99999" height="100001"/>'),
        "a.xml:2: a mask of 100001 x 99999 pixels",
    ),
}


def write_bombs(path: Path) -> None:
    """Entities that grow tenfold in each of nine steps."""
    steps = "".join(f'<!ENTITY b{n} "{f"&b{n - 1};" * 10}">' for n in range(1, 10))
    path.write_text(f'<!DOCTYPE a [\n<!ENTITY b0 "boom">{steps}]><annotations>&b9;</annotations>')


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict[str, str]:
    """What reading each of them prints, all by one program."""
    words, folders = [], {}
    for case, (format, name, write, _) in HOSTILE.items():
        folders[case] = tmp_path_factory.mktemp("hostile")
        draw(folders[case] / "a.png")
        write(folders[case])
        words += [str(folders[case] / name), format]
    done = subprocess.run([sys.executable, "-c", READ, *words], cwd=ROOT, capture_output=True, text=True, timeout=300)
    lines = done.stdout.splitlines()
    assert len(lines) == len(HOSTILE), done.stdout[-2000:] + done.stderr[-2000:]
    return {case: line.replace(f"{folders[case]}/", "") for case, line in zip(HOSTILE, lines, strict=True)}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_annotations_are_told_in_one_line_below_a_gigabyte_and_five_seconds(case, answers):
    seconds, megabytes, count, text = answers[case].split(" ", 3)
    assert text.startswith(HOSTILE[case][3])
    assert int(count) == 1
    assert float(seconds) < 5
    assert int(megabytes) < 1000
