"""Interactive segmentation systems behind one protocol.

Importing this package registers every method; what a method needs beyond the core is imported when it is made.
"""

from dct_seg.methods import dctnet, disc, geodesic, grabcut, graph_cut, random_walker, sam_onnx, star_convexity
from dct_seg.methods.base import METHODS, Method

__all__ = [
    "METHODS",
    "Method",
    "dctnet",
    "disc",
    "geodesic",
    "grabcut",
    "graph_cut",
    "random_walker",
    "sam_onnx",
    "star_convexity",
]
