"""Classical methods: clicks are seeds, without learned weights."""

from dct_seg.methods.classical import disc, geodesic, grabcut, graph_cut, random_walker, star_convexity

__all__ = ["disc", "geodesic", "grabcut", "graph_cut", "random_walker", "star_convexity"]
