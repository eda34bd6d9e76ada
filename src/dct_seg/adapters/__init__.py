"""Adapters to annotation tools: CVAT, Label Studio, napari, and our own HTTP interface."""
