"""Annotator: a browser page for a folder of images, and its HTTP interface."""
