"""Tables of pose scores: each keypoint, and each pair of left and right, for people and as CSV.

The numbers come from `PoseScores.compute` in utils/keypoints/metrics.py, or from the JSON that was made of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.keypoints.metrics import PCK_PX, PCK_SIZES
from utils.report.tables import format_table, format_value, write_csv

COUNTS = ("labelled", "missed", "mean_error_px", "median_error_px", "mean_error_all_px")
SHARES = (*(f"PCK@{limit}px" for limit in PCK_PX), *(f"PCK@{limit:g}size" for limit in PCK_SIZES))


def score_or_nan(value: float | None) -> float:
    """Read a score, which is None where it came through JSON and is not known.

    Parameters
    ----------
    value : float or None
        The score.

    Returns
    -------
    float
        The score, or NaN.

    Examples
    --------
    >>> score_or_nan(0.5), score_or_nan(None)
    (0.5, nan)
    """
    return math.nan if value is None else float(value)


def keypoint_rows(result: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """List the scores of each keypoint, and of all together.

    Parameters
    ----------
    result : mapping
        What `PoseScores.compute` returns.
    names : sequence of str
        Names of the K keypoints.

    Returns
    -------
    list of dict
        K rows, and one named "all": "keypoint", counts, errors, and PCK at each threshold.

    Raises
    ------
    ValueError
        If there are not as many names as keypoints.

    Examples
    --------
    >>> from utils.keypoints.metrics import PoseScores
    >>> scores = PoseScores(2)
    >>> scores.update([([[0.0, 0, 2], [9, 9, 0]], None, None, False)], [([[0.0, 3, 1], [9, 9, 1]], 0.5)], "a")
    >>> rows = keypoint_rows(scores.compute(), ["nose", "tail"])
    >>> [(row["keypoint"], row["labelled"], row["mean_error_px"], row["PCK@4px"]) for row in rows]
    [('nose', 1, 3.0, 1.0), ('tail', 0, nan, nan), ('all', 1, 3.0, 1.0)]
    """
    table = result["per_keypoint"]
    if len(names) != len(table["labelled"]):
        raise ValueError(
            f"keypoint table: expected {len(table['labelled'])} names, got {len(names)}: {', '.join(names)}"
        )
    columns = (*COUNTS, *SHARES)
    rows = [
        {"keypoint": name} | {column: table[column][index] for column in columns} for index, name in enumerate(names)
    ]
    return [*rows, {"keypoint": "all"} | {column: result[column] for column in columns}]


def write_keypoint_table(path: str | Path, result: Mapping[str, Any], names: Sequence[str]) -> None:
    """Write the scores of each keypoint as CSV.

    Parameters
    ----------
    path : str or Path
        The file.
    result : mapping
        What `PoseScores.compute` returns.
    names : sequence of str
        Names of the K keypoints.

    Raises
    ------
    ValueError
        If there are not as many names as keypoints.

    Examples
    --------
    >>> import tempfile
    >>> from utils.keypoints.metrics import PoseScores
    >>> path = Path(tempfile.mkdtemp()) / "keypoints.csv"
    >>> write_keypoint_table(path, PoseScores(1).compute(), ["nose"])
    >>> path.read_text().splitlines()[1]
    'nose,0,0,,,,,,,,,,'
    """
    write_csv(path, keypoint_rows(result, names))


def keypoint_table(result: Mapping[str, Any], names: Sequence[str], markdown: bool = True) -> str:
    """Write the scores of each keypoint for people.

    Parameters
    ----------
    result : mapping
        What `PoseScores.compute` returns.
    names : sequence of str
        Names of the K keypoints.
    markdown : bool
        As in `format_table`.

    Returns
    -------
    str
        The table; its last line holds all keypoints together. "All px" is the mean over every labelled point, also
        those that were missed.

    Raises
    ------
    ValueError
        If there are not as many names as keypoints.

    Examples
    --------
    >>> from utils.keypoints.metrics import PoseScores
    >>> scores = PoseScores(1)
    >>> scores.update([([[0.0, 0, 2]], None, 1600, False)], [([[0.0, 3, 1]], 0.5)], "a")
    >>> print(keypoint_table(scores.compute(), ["nose"], markdown=False))
    Keypoint  Points  Missed  Mean px  Median px  All px  PCK@2  PCK@4  PCK@8  PCK@16  PCK@5%  PCK@10%  PCK@20%
    --------  ------  ------  -------  ---------  ------  -----  -----  -----  ------  ------  -------  -------
    nose           1       0     3.00       3.00    3.00  0.000  1.000  1.000   1.000   0.000    1.000    1.000
    all            1       0     3.00       3.00    3.00  0.000  1.000  1.000   1.000   0.000    1.000    1.000
    """
    limits = [*(f"PCK@{limit}" for limit in PCK_PX), *(f"PCK@{100 * limit:g}%" for limit in PCK_SIZES)]
    header = ["Keypoint", "Points", "Missed", "Mean px", "Median px", "All px", *limits]
    rows = [
        [
            row["keypoint"],
            row["labelled"],
            row["missed"],
            *(format_value(row[column], 2) for column in COUNTS[2:]),
            *(format_value(row[column], 3) for column in SHARES),
        ]
        for row in keypoint_rows(result, names)
    ]
    return format_table(header, rows, "<" + ">" * (len(header) - 1), markdown)


def swap_table(result: Mapping[str, Any], names: Sequence[str], markdown: bool = True) -> str:
    """Write how often each pair of left and right was swapped, for people.

    Parameters
    ----------
    result : mapping
        What `PoseScores.compute` returns.
    names : sequence of str
        Names of the K keypoints.
    markdown : bool
        As in `format_table`.

    Returns
    -------
    str
        The table; its last line holds all pairs together.

    Examples
    --------
    >>> from utils.keypoints.metrics import PoseScores
    >>> scores = PoseScores(2, flip_idx=[1, 0])
    >>> pose = [[0.0, 0, 2], [9.0, 0, 2]]
    >>> scores.update([(pose, None, None, False)], [(pose[::-1], 0.5)], "a")
    >>> print(swap_table(scores.compute(), ["l_ear", "r_ear"], markdown=False))
    Pair           Swapped  Animals    Rate
    -------------  -------  -------  ------
    l_ear / r_ear        1        1  1.0000
    all                  1        1  1.0000
    """
    table = result["per_pair"]
    pairs = [f"{names[left]} / {names[right]}" for left, right in table["pairs"]]
    rows = [list(row) for row in zip(pairs, table["swapped"], table["comparable"], table["swap_rate"], strict=True)]
    rows.append(["all", sum(table["swapped"]), sum(table["comparable"]), result["swap_rate"]])
    return format_table(["Pair", "Swapped", "Animals", "Rate"], rows, "<>>>", markdown)
