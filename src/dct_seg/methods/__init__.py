"""Interactive segmentation methods with a common interface.

Importing this package registers every method; optional dependencies are imported when a method is created.
"""

from dct_seg.methods import classical, dctnet, learned, sam_onnx
from dct_seg.methods.base import METHODS, Answer

__all__ = [
    "METHODS",
    "Answer",
    "classical",
    "dctnet",
    "learned",
    "sam_onnx",
]
