"""Tests, in the order of what they test, and what several of them need."""
