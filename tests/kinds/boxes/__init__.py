"""Boxes around the foxes of the procedural sample: a kind of task that touches its own folder and two registry lines."""
