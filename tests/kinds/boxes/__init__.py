"""Boxes around the foxes of the procedural sample: a kind of task in a folder of its own."""
