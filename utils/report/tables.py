"""Tables for people and CSV files for tools: one way to write a number and a row.

In tables a ratio has four decimals, a count its thousands apart, and what is unknown (None, NaN) is a dash. In CSV
files numbers keep six significant digits, and what is unknown is an empty cell.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.errors import DataError
from utils.logging import format_duration
from utils.runtime.files import named_in_errors, write_bytes

Row = Mapping[str, Any]


# --- numbers ---------------------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """Turn numpy and torch scalars into Python's own numbers, and what is not finite into None.

    Examples
    --------
    >>> import numpy as np
    >>> _plain(np.float32(0.5)), _plain(np.int64(3)), _plain(float("nan")), _plain("a")
    (0.5, 3, None, 'a')
    """
    if not isinstance(value, str) and hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def format_value(value: Any, decimals: int = 4) -> str:
    """Write one cell of a table.

    Parameters
    ----------
    value : Any
        A number, also of numpy or torch, or anything with a `str`.
    decimals : int
        Of floats.

    Returns
    -------
    str
        The cell.

    Examples
    --------
    >>> [format_value(value) for value in (0.49123, 1234567, None, float("nan"), True, "road")]
    ['0.4912', '1,234,567', '-', '-', 'yes', 'road']
    """
    value = _plain(value)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{decimals}f}" if isinstance(value, float) else str(value)


# --- tables ----------------------------------------------------------------------------------------------------------


def format_table(
    header: Sequence[str], rows: Sequence[Sequence[Any]], align: str | None = None, markdown: bool = True
) -> str:
    r"""Lay out a table in columns of even width.

    Parameters
    ----------
    header : sequence of str
        Titles of the columns.
    rows : sequence of sequences
        Cells, written by `format_value`.
    align : str, optional
        One `<` or `>` per column; by default words stand left and numbers right.
    markdown : bool
        Bars between the columns, for a page or a terminal; else two blanks, for a log.

    Returns
    -------
    str
        Lines without a final line feed.

    Raises
    ------
    ValueError
        If a row or `align` does not have as many columns as the header.

    Examples
    --------
    >>> print(format_table(["Class", "IoU"], [["road", 0.5], ["a|b", None]]))
    | Class |    IoU |
    |:------|-------:|
    | road  | 0.5000 |
    | a\|b  |      - |
    >>> print(format_table(["Class", "IoU"], [["road", 0.5]], markdown=False))
    Class     IoU
    -----  ------
    road   0.5000
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(
                f"table: expected {len(header)} columns ({', '.join(header)}), got {len(row)}: {list(row)}"
            )
    columns = [[row[index] for row in rows] for index in range(len(header))]
    align = align or "".join("<" if any(isinstance(cell, str) for cell in column) else ">" for column in columns)
    if len(align) != len(header) or set(align) - set("<>"):
        raise ValueError(f"table: align: expected {len(header)} of '<' and '>', got {align!r}")
    lines = [list(header), *([format_value(cell) for cell in row] for row in rows)]
    if markdown:
        lines = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(len(line[index]) for line in lines) for index in range(len(header))]
    padded = [
        [f"{cell:{side}{width}}" for cell, side, width in zip(line, align, widths, strict=True)] for line in lines
    ]
    if markdown:
        return _draw_bars(padded, align)
    rule = ["-" * len(cell) for cell in padded[0]]
    return "\n".join("  ".join(line).rstrip() for line in [padded[0], rule, *padded[1:]])


def _draw_bars(lines: list[list[str]], align: str) -> str:
    """Join padded cells as a Markdown table, whose first line is the header.

    Examples
    --------
    >>> print(_draw_bars([["a", " b"], ["c", "10"]], "<>"))
    | a |  b |
    |:--|---:|
    | c | 10 |
    """
    rule = [
        ":" + "-" * (len(cell) + 1) if side == "<" else "-" * (len(cell) + 1) + ":"
        for cell, side in zip(lines[0], align, strict=True)
    ]
    text = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([text[0], "|" + "|".join(rule) + "|", *text[1:]])


def class_table(metrics: Mapping[str, Any], names: Sequence[str]) -> str:
    """Write the scores of each class, and the means beneath.

    Parameters
    ----------
    metrics : mapping
        What `ConfusionMatrix.compute` returns.
    names : sequence of str
        Names of the K classes.

    Returns
    -------
    str
        The table; its last line holds the means over classes, all true pixels, and the share of right ones.

    Raises
    ------
    ValueError
        If there are not as many names as classes.

    Examples
    --------
    >>> scores = {"IoU": [0.5, None], "Acc": [0.75, None], "Dice": [0.667, None], "Support": [3000, 0]}
    >>> means = {"mIoU": 0.5, "mAcc": 0.75, "mDice": 0.667, "aAcc": 0.75}
    >>> print(class_table(scores | means, ["road", "water"]))
    | Class               |    IoU |    Acc |   Dice | Support |
    |:--------------------|-------:|-------:|-------:|--------:|
    | road                | 0.5000 | 0.7500 | 0.6670 |   3,000 |
    | water               |      - |      - |      - |       0 |
    | mean (aAcc: 0.7500) | 0.5000 | 0.7500 | 0.6670 |   3,000 |
    """
    columns = ("IoU", "Acc", "Dice", "Support")
    if len(names) != len(metrics["IoU"]):
        raise ValueError(f"class table: expected {len(metrics['IoU'])} names, got {len(names)}: {', '.join(names)}")
    rows = [list(row) for row in zip(names, *(metrics[column] for column in columns), strict=True)]
    title = f"mean (aAcc: {format_value(metrics['aAcc'])})"
    rows.append([title, *(metrics[f"m{column}"] for column in columns[:3]), sum(metrics["Support"])])
    return format_table(["Class", *columns], rows, "<>>>>")


def phase_table(phases: Sequence[tuple[str, str, float]]) -> str:
    """Write how each phase of a run ended and how long it took.

    Parameters
    ----------
    phases : sequence of (str, str, float)
        Phase, status, seconds.

    Returns
    -------
    str
        The table; its last line holds the sum of the times.

    Examples
    --------
    >>> print(phase_table([("coral.prepare", "done", 12.34), ("coral.train", "up to date", 0.06)]))
    Phase          Status        Time
    -------------  ----------  ------
    coral.prepare  done        12.3 s
    coral.train    up to date   60 ms
    total                      12.4 s
    """
    rows = [[name, status, format_duration(seconds)] for name, status, seconds in phases]
    rows.append(["total", "", format_duration(math.fsum(seconds for _, _, seconds in phases))])
    return format_table(["Phase", "Status", "Time"], rows, "<<>", markdown=False)


# --- CSV -------------------------------------------------------------------------------------------------------------


def _csv_cell(value: Any) -> str:
    r"""Write one cell of a CSV file on one line.

    Examples
    --------
    >>> [_csv_cell(value) for value in (1 / 3, 12, None, float("nan"), "two\nlines")]
    ['0.333333', '12', '', '', 'two lines']
    """
    value = _plain(value)
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).splitlines())


def _csv_text(columns: Sequence[str], rows: Iterable[Row], header: bool = True) -> str:
    r"""Write rows as CSV; a column that a row lacks is empty.

    Examples
    --------
    >>> _csv_text(["a", "b"], [{"b": 2}, {"a": "x,y"}])
    'a,b\n,2\n"x,y",\n'
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    if header:
        writer.writerow(columns)
    writer.writerows([_csv_cell(row.get(column)) for column in columns] for row in rows)
    return stream.getvalue()


def _merge_columns(columns: Iterable[str], rows: Iterable[Row]) -> list[str]:
    """Columns of all rows, in the order in which they first appear.

    Examples
    --------
    >>> _merge_columns(["epoch"], [{"loss": 1}, {"epoch": 1, "mIoU": 0.5}])
    ['epoch', 'loss', 'mIoU']
    """
    return list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))


def write_csv(path: str | Path, rows: Sequence[Row]) -> None:
    r"""Write a CSV file that appears whole or not at all.

    Parameters
    ----------
    path : str or Path
        The file; its folder is made when missing.
    rows : sequence of mappings
        Column name to value; the header holds the columns of all rows.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.csv"
    >>> write_csv(path, [{"class": "road", "IoU": 0.5}, {"class": "water"}])
    >>> path.read_text()
    'class,IoU\nroad,0.5\nwater,\n'
    """
    write_bytes(path, _csv_text(_merge_columns([], rows), rows).encode())


def read_csv(path: str | Path) -> list[dict[str, str]]:
    r"""Read a CSV file with a header; a torn last line, left by a crash while it was written, is dropped.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    list of dict
        Column name to text; nothing when there is no file.

    Raises
    ------
    DataError
        If a row does not have as many cells as the header.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.csv"
    >>> _ = path.write_text("epoch,loss\n0,0.5\n1,0.2")
    >>> read_csv(path)
    [{'epoch': '0', 'loss': '0.5'}]
    """
    columns, rows = _parse_csv(Path(path))
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _parse_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a file, without a torn last line; both empty when there is none.

    Raises
    ------
    DataError
        When a row has not as many cells as the header.

    Examples
    --------
    >>> _parse_csv(Path("/no/such/file.csv"))
    ([], [])
    """
    data = path.read_bytes() if path.exists() else b""
    # each row is one line and ends in a line feed, the last thing written; bytes that are no text spoil its cells only
    whole = data[: data.rfind(b"\n") + 1].decode(errors="replace")
    lines = list(csv.reader(io.StringIO(whole)))
    columns, rows = (lines[0], lines[1:]) if lines else ([], [])
    for number, row in enumerate(rows, start=2):
        if len(row) != len(columns):
            raise DataError(f"{path}: line {number}: expected {len(columns)} cells, got {len(row)}; mend or remove it")
    return columns, rows


class CsvLog:
    r"""A CSV file that grows by a row at a time and survives being killed at any moment.

    A row is on disk when `append` returns. A torn last line is dropped before the next row is written. A column that
    appears late is added to the header, and the earlier rows leave it empty.

    Parameters
    ----------
    path : str or Path
        The file; rows that it already holds are kept.

    Raises
    ------
    DataError
        If the file is no CSV with as many cells in every row as in its header.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "results.csv"
    >>> log = CsvLog(path)
    >>> log.append({"epoch": 0, "loss": 0.75})
    >>> log.append({"epoch": 1, "loss": 0.5, "mIoU": 0.25})
    >>> log.truncate_after("epoch", 0)
    >>> log.append({"epoch": 1, "loss": 0.125})
    >>> path.read_text()
    'epoch,loss,mIoU\n0,0.75,\n1,0.125,\n'
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.columns, _ = _parse_csv(self.path)
        if not self.columns:
            self.path.unlink(missing_ok=True)  # killed while the header was written
        elif not self.path.read_bytes().endswith(b"\n"):
            self._rewrite(self.rows())

    def rows(self) -> list[dict[str, str]]:
        """Read all rows.

        Returns
        -------
        list of dict
            Column name to text.

        Examples
        --------
        >>> import tempfile
        >>> log = CsvLog(Path(tempfile.mkdtemp()) / "a.csv")
        >>> log.append({"epoch": 0, "loss": 0.5})
        >>> log.rows()
        [{'epoch': '0', 'loss': '0.5'}]
        """
        return read_csv(self.path)

    def append(self, row: Row) -> None:
        r"""Add a row, and flush it to disk.

        Parameters
        ----------
        row : mapping
            Column name to value.

        Examples
        --------
        >>> import tempfile
        >>> log = CsvLog(Path(tempfile.mkdtemp()) / "a.csv")
        >>> log.append({"loss": 0.5})
        >>> log.path.read_text()
        'loss\n0.5\n'
        """
        columns = _merge_columns(self.columns, [row])
        if columns != self.columns or not self.path.exists():
            self.columns = columns
            self._rewrite([*self.rows(), row])
            return
        with named_in_errors(self.path), open(self.path, "a", encoding="utf-8", newline="") as stream:
            stream.write(_csv_text(self.columns, [row], header=False))
            stream.flush()
            os.fsync(stream.fileno())

    def truncate_after(self, key: str, value: float) -> None:
        """Drop the rows that lie beyond the point from which a training resumes.

        Parameters
        ----------
        key : str
            Column that counts, such as epoch or step.
        value : float
            The last value to keep. A row without a number there is kept.

        Examples
        --------
        >>> import tempfile
        >>> log = CsvLog(Path(tempfile.mkdtemp()) / "a.csv")
        >>> for epoch in (8, 9, 10):
        ...     log.append({"epoch": epoch})
        >>> log.truncate_after("epoch", 9)
        >>> [row["epoch"] for row in log.rows()]
        ['8', '9']
        """
        rows = self.rows()
        kept = [row for row in rows if not row.get(key) or float(row[key]) <= value]
        if len(kept) < len(rows):
            self._rewrite(kept)

    def _rewrite(self, rows: Sequence[Row]) -> None:
        r"""Replace the file in one move.

        Examples
        --------
        >>> import tempfile
        >>> log = CsvLog(Path(tempfile.mkdtemp()) / "a.csv")
        >>> log.append({"epoch": 9})
        >>> log._rewrite([{"epoch": 3}])
        >>> log.path.read_text()
        'epoch\n3\n'
        """
        write_bytes(self.path, _csv_text(self.columns, rows).encode())
