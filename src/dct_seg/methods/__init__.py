"""Interactive segmentation systems behind one protocol."""
