"""COCO: a JSON file of images, annotations and categories for each split."""
