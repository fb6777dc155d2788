#!/usr/bin/env bash
# Linter, formatter, types, doctests and tests, with the tools of the active environment.
set -euo pipefail
cd "$(dirname "$0")/.."
ruff check .
ruff format --check .
mypy
python -m doctest main.py config.py
OMP_NUM_THREADS=1 python -m pytest --quiet --numprocesses 2 --dist loadfile
