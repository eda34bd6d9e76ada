"""Adapters to annotation tools: CVAT, Label Studio, napari, and an HTTP interface of our own."""
