"""Masks: losses of mask classification."""
