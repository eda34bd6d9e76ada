"""The networks and their parts; no Lightning in here. Importing this package registers every network."""

from dct_seg.models import dct_net

__all__ = ["dct_net"]
