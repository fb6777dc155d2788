"""Kinds of task that only tests have."""
