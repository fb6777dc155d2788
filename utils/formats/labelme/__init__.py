"""LabelMe: a JSON file of shapes for each picture."""
