"""Datasets, transforms and batches of images and masks."""
