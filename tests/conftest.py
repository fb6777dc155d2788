"""What holds for every test: none of them, nor an example in a docstring, writes into the checkout.

Tests that start programs share a process that has imported the libraries.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import Forks

ROOT = Path(__file__).parents[1]
CACHES = ("__pycache__",)  # of Python; those of tools begin with a dot

before: set[str] = set()
gained: dict[str, str] = {}  # what appeared -> the test after which it was seen first


def entries() -> set[str]:
    """Files and folders in the checkout and in its `splits`, the only folder of it that a run writes to by default."""
    found = {path.name for path in ROOT.iterdir()}
    found |= {f"splits/{path.name}" for path in (ROOT / "splits").iterdir()}
    return {name for name in found if name not in CACHES and not name.startswith(".")}


def pytest_sessionstart(session: pytest.Session) -> None:
    before.update(entries())


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """With several processes the one that collects the reports sees them all, so the test may be a neighbour's."""
    for name in entries() - before - set(gained):
        gained[name] = report.nodeid


def pytest_sessionfinish(session: pytest.Session) -> None:
    if gained and not hasattr(session.config, "workerinput"):  # the process that collects the reports decides
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter) -> None:
    for name, test in sorted(gained.items()):
        text = f"{ROOT / name}: appeared during the tests, seen first after {test}; tests write to temporary folders"
        terminalreporter.write_line(f"ERROR: {text}", red=True)


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Starts programs as processes of their own, without the seconds that imports take."""
    forks = Forks()
    yield forks
    forks.close()
