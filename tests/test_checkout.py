"""The tests leave the checkout as it is, and the check of that fails where one does not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("processes", ["0", "2"])
@pytest.mark.parametrize(("name", "code"), [("processed", 1), ("splits/a.txt", 1), (".cache", 0)])
def test_a_test_that_writes_into_the_checkout_fails_the_session(tmp_path, processes, name, code):
    for folder in ("tests", "splits"):
        (tmp_path / folder).mkdir()
    for module in ("__init__.py", "conftest.py", "processes.py"):
        shutil.copy(Path(__file__).with_name(module), tmp_path / "tests")
    body = f"from pathlib import Path\n\n\ndef test_it():\n    Path({str(tmp_path / name)!r}).write_text('')\n"
    (tmp_path / "tests" / "test_it.py").write_text(body)
    command = [sys.executable, "-m", "pytest", "-q", "-n", processes, "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code, done.stdout
    assert ("seen first after tests/test_it.py::test_it" in done.stdout) == bool(code)
