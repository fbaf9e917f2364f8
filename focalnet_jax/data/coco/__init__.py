"""Reads annotations of objects in COCO's format."""
