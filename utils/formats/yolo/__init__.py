"""YOLO: a data.yaml, and a text file of rows for each picture."""
