#!/usr/bin/env bash
# Linter, formatter, types, doctests, tests, and half a minute of damaged files, with the tools of the active environment.
set -euo pipefail
cd "$(dirname "$0")/.."
ruff check .
ruff format --check .
mypy
python -m doctest main.py config.py
OMP_NUM_THREADS=1 python -m pytest --quiet --numprocesses 2 --dist loadfile
OMP_NUM_THREADS=1 python -m benchmarks.fuzz --seconds 30 --tries 10000
