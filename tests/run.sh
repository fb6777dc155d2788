#!/usr/bin/env bash
# Linter, formatter, types, doctests, tests, and half a minute of damaged files, with the tools of the active environment.
set -euo pipefail
cd "$(dirname "$0")/.."
ruff check .
ruff format --check .
mypy & # beside the tests: it keeps one core busy for a minute
types=$!
python -m doctest main.py config.py
# files in their order: by the number of tests, as xdist sorts them, the few long tests come last and one process waits
OMP_NUM_THREADS=1 python -m pytest --quiet --numprocesses 2 --dist loadfile --no-loadscope-reorder
wait "$types"
OMP_NUM_THREADS=1 python -m benchmarks.fuzz --seconds 30 --tries 10000
