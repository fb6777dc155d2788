"""Masks of classes: pictures in data/, index masks in labels/, names in classes.txt, colours in palette.txt."""
