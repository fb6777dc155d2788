"""Annotations that are made to fill the memory or the time: one line each, in bounds of both."""

from __future__ import annotations

import base64
import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
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


def write_label(**keys) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        one = {"label": "cow", "bounding_box": [0, 0, 1, 1], **keys}
        kind = ("Polylines", "polylines") if "points" in keys else ("Detections", "detections")
        sample = {"filepath": "a.png", "truth": {"_cls": kind[0], kind[1]: [one]}}
        (folder / "samples.json").write_text(json.dumps({"samples": [sample]}))

    return write


def write_bomb(folder: Path) -> None:
    """A mask of half a gigabyte in two megabytes."""
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(bytes(2**24)) for _ in range(32)) + packer.flush()
    write_label(mask={"$binary": {"base64": base64.b64encode(data).decode(), "subType": "00"}})(folder)


def write_claim(folder: Path) -> None:
    """An array that says it has 10^12 rows."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|b1", "fortran_order": False, "shape": (10**12, 60)})
    text = base64.b64encode(zlib.compress(b"\x93NUMPY\x01\x00" + stream.getvalue()[8:] + bytes(60))).decode()
    write_label(mask=text)(folder)


def write_deep(folder: Path) -> None:
    (folder / "samples.json").write_text('{"samples": [' + "[" * 1_000_000)


def write_text(path: Path, text: str) -> None:
    path.write_text(text)


def write_huge_mask(folder: Path) -> None:
    """A set of masks: one of a small picture, and one whose head says 60000 x 60000 pixels."""
    for name in ("data/a.png", "labels/a.png", "data/b.png", "labels/b.png"):
        draw(folder / name)
    head = struct.pack(">II", 60_000, 60_000) + b"\x08\x00\x00\x00\x00"
    data = (folder / "labels" / "b.png").read_bytes()
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + head))
    (folder / "labels" / "b.png").write_bytes(data[:16] + head + crc + data[33:])
    cv2.imwrite(str(folder / "labels" / "a.png"), np.zeros((40, 60), np.uint8))
    (folder / "classes.txt").write_text("cow\n")


def write_bombs(path: Path) -> None:
    """Entities that grow tenfold in each of nine steps."""
    steps = "".join(f'<!ENTITY b{n} "{f"&b{n - 1};" * 10}">' for n in range(1, 10))
    path.write_text(f'<!DOCTYPE a [\n<!ENTITY b0 "boom">{steps}]><annotations>&b9;</annotations>')


HOSTILE: dict[str, tuple[str, str, Callable[[Path], None], str]] = {
    "entities": (
        "cvat",
        "a.xml",
        lambda folder: write_bombs(folder / "a.xml"),
        "a.xml:2: declares an entity",
    ),
    "millions of points": (
        "cvat",
        "a.xml",
        lambda folder: write_cvat(polygon(";".join(["1,2"] * 2_500_000)))(folder),
        "a.xml: line 2: a list of 2500001 numbers",
    ),
    "more points than an outline has": (
        "cvat",
        "a.xml",
        lambda folder: write_cvat(polygon(";".join(["1,2"] * 1_500_000)))(folder),
        "a.xml:2: a polygon of 1500000 points",
    ),
    "very many elements": (
        "cvat",
        "a.xml",
        lambda folder: write_cvat("<a/>" * 600_000)(folder),
        "a.xml:2: more than 500000 elements",
    ),
    "a text of many lines": (
        "voc",
        "a.xml",
        lambda folder: write_text(folder / "a.xml", "<annotation><object/>" + "x\n" * 5_000_000 + "</annotation>"),
        "a.xml:1: no name in the object",
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
    "millions of points of fiftyone": (
        "fiftyone",
        "samples.json",
        lambda folder: write_label(points=[[[0.5, 0.25]] * 1_200_000], filled=True)(folder),
        "samples.json: line 1: a list of 2400001 numbers",
    ),
    "a mask that unpacks to far more than its picture": (
        "fiftyone",
        "samples.json",
        write_bomb,
        "samples.json: sample 1: truth: label 1: a mask that has more than 8392704 bytes",
    ),
    "an array that claims to be huge": (
        "fiftyone",
        "samples.json",
        write_claim,
        "samples.json: sample 1: truth: label 1: a mask that is no array of NumPy",
    ),
    "numbers in objects": (
        "fiftyone",
        "samples.json",
        lambda folder: write_label(points=[[[{"$numberDouble": "0.5"}] * 2] * 1_250_000], filled=True)(folder),
        "samples.json: 2500000 numbers as objects ($number), and there may be 2000000",
    ),
    "a mask whose head claims to be huge": (
        "masks",
        "classes.txt",
        lambda folder: write_huge_mask(folder),
        "labels/b.png: 60000 x 60000 pixels, expected at most",
    ),
    "deep JSON": ("fiftyone", "samples.json", write_deep, "samples.json: not JSON that can be read: nested too deeply"),
}


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
