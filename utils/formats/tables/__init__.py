"""Tables of boxes: csv files with a row for each box."""
