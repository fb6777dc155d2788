"""Boxes around objects in pictures and videos."""
