"""Interactive segmentation systems behind one protocol.

Importing this package registers every method; what a method needs beyond the core is imported when it is
made.
"""

from dct_seg.methods import classical, dctnet, learned, sam_onnx
from dct_seg.methods.base import METHODS, Method

__all__ = [
    "METHODS",
    "Method",
    "classical",
    "dctnet",
    "learned",
    "sam_onnx",
]
