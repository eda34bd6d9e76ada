"""Methods from before deep learning: clicks are seeds, the image alone is the evidence."""

from dct_seg.methods.classical import disc, geodesic, grabcut, graph_cut, random_walker, star_convexity

__all__ = ["disc", "geodesic", "grabcut", "graph_cut", "random_walker", "star_convexity"]
