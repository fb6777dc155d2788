"""Leaf tools, named by subject; none of them knows a task or a head."""
