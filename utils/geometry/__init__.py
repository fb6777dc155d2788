"""Geometry of samples: the kinds of their fields, and what moving and padding a picture does to each."""
