"""Tables that line up, and CSV files that survive being torn at any byte."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.errors import DataError
from utils.metrics import ConfusionMatrix
from utils.report.tables import (
    CsvLog,
    class_table,
    format_table,
    format_value,
    phase_table,
    read_csv,
    write_csv,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float32(0.25), "0.2500"),
        (np.int64(12345), "12,345"),
        (torch.tensor(0.5), "0.5000"),
        (math.inf, "-"),
        (np.nan, "-"),
        (-0.5, "-0.5000"),
        (False, "no"),
        ("", ""),
    ],
)
def test_values_of_any_library_look_alike(value: object, text: str) -> None:
    assert format_value(value) == text


@pytest.mark.parametrize("markdown", [True, False])
def test_lines_of_a_table_are_equally_long(markdown: bool) -> None:
    rows = [["a", 1, 0.5], ["a much longer name", 1234567, None], ["", 0, -12.25]]
    lines = format_table(["Name", "N", "Score"], rows, markdown=markdown).splitlines()
    assert len(lines) == 5
    assert len({len(line) for line in lines}) == 1
    assert lines[3].rstrip(" |").endswith("-")
    assert ("|" in lines[0]) is markdown


def test_alignment_can_be_chosen_and_a_table_may_be_empty() -> None:
    assert format_table(["a"], [["xyz"], ["x"]], align=">", markdown=False).splitlines()[3] == "  x"
    assert format_table(["a", "b"], [], markdown=False) == "a  b\n-  -"


def test_bad_tables_are_named() -> None:
    with pytest.raises(ValueError, match=r"expected 2 columns \(a, b\), got 1: \[3\]"):
        format_table(["a", "b"], [[3]])
    with pytest.raises(ValueError, match=r"align: expected 2 of '<' and '>', got '<x'"):
        format_table(["a", "b"], [], align="<x")


def test_class_table_reads_a_confusion_matrix() -> None:
    metric = ConfusionMatrix(3)
    metric.load_state(torch.tensor([[6, 2, 0], [0, 0, 0], [0, 0, 2000]]))
    lines = class_table(metric.compute(), ["field", "ghost", "road"]).replace("|", " ").splitlines()
    assert lines[0].split() == ["Class", "IoU", "Acc", "Dice", "Support"]
    assert lines[2].split() == ["field", "0.7500", "0.7500", "0.8571", "8"]
    assert lines[3].split() == ["ghost", "0.0000", "-", "0.0000", "0"]
    assert lines[5].split()[-4:] == ["0.5833", "0.8750", "0.6190", "2,008"]
    with pytest.raises(ValueError, match="expected 3 names, got 1: field"):
        class_table(metric.compute(), ["field"])


def test_phase_table_adds_up() -> None:
    lines = phase_table([("a.train", "done", 3000.0), ("a.evaluate", "skipped", 700.0)]).splitlines()
    assert lines[-1].split() == ["total", "1", "h", "1", "min"]


def test_csv_keeps_text_with_commas_quotes_and_umlauts(tmp_path: Path) -> None:
    rows = [{"name": 'a "b", c', "IoU": 0.5}, {"name": "Äcker", "IoU": math.nan, "Support": 3}]
    write_csv(tmp_path / "a.csv", rows)
    assert read_csv(tmp_path / "a.csv") == [
        {"name": 'a "b", c', "IoU": "0.5", "Support": ""},
        {"name": "Äcker", "IoU": "", "Support": "3"},
    ]
    assert read_csv(tmp_path / "none.csv") == []


def test_log_torn_at_any_byte_keeps_its_whole_rows_and_goes_on(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "whole.csv")
    for epoch in range(3):
        log.append({"epoch": epoch, "note": "ä, b", "loss": 1 / (epoch + 1)})
    data = (tmp_path / "whole.csv").read_bytes()
    for length in range(len(data) + 1):
        path = tmp_path / "torn.csv"
        path.write_bytes(data[:length])
        kept = max(0, data[:length].count(b"\n") - 1)
        torn = CsvLog(path)
        assert [row["epoch"] for row in torn.rows()] == ["0", "1", "2"][:kept]
        for epoch in range(kept, 3):
            torn.append({"epoch": epoch, "note": "ä, b", "loss": 1 / (epoch + 1)})
        assert path.read_bytes() == data


def test_resumed_log_equals_an_unbroken_one(tmp_path: Path) -> None:
    def train(log: CsvLog, epochs: range) -> None:
        for epoch in epochs:
            log.append({"epoch": epoch, "loss": 0.5**epoch, **({"mIoU": 0.5} if epoch % 2 else {})})

    train(CsvLog(tmp_path / "unbroken.csv"), range(12))
    train(CsvLog(tmp_path / "resumed.csv"), range(11))
    log = CsvLog(tmp_path / "resumed.csv")
    log.truncate_after("epoch", 8)  # the last checkpoint
    assert len(log.rows()) == 9
    train(log, range(9, 12))
    assert (tmp_path / "resumed.csv").read_bytes() == (tmp_path / "unbroken.csv").read_bytes()


def test_truncating_before_the_first_row_empties_but_keeps_the_header(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "a.csv")
    log.truncate_after("epoch", 3)  # no file yet: nothing to do
    log.append({"epoch": 0, "loss": 1.0})
    log.truncate_after("epoch", -1)
    assert (tmp_path / "a.csv").read_text() == "epoch,loss\n"
    assert CsvLog(tmp_path / "a.csv").columns == ["epoch", "loss"]


def test_columns_keep_their_order_over_restarts(tmp_path: Path) -> None:
    CsvLog(tmp_path / "a.csv").append({"epoch": 0, "loss": 1})
    CsvLog(tmp_path / "a.csv").append({"mIoU": 0.5, "loss": 2, "epoch": 1})
    assert (tmp_path / "a.csv").read_text() == "epoch,loss,mIoU\n0,1,\n1,2,0.5\n"


def test_rows_of_another_length_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n1,2,3\n")
    with pytest.raises(DataError, match=r"a.csv: line 3: expected 2 cells, got 3"):
        CsvLog(tmp_path / "a.csv")
