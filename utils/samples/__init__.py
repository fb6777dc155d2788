"""The procedural sample: one small seeded world that serves every kind of task."""
