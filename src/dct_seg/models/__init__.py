"""Networks and their parts, independent of Lightning. Importing this package registers every network."""

from dct_seg.models import dct_net, fca_net, fcn, guidance, iis_ld, ris_net

__all__ = ["dct_net", "fca_net", "fcn", "guidance", "iis_ld", "ris_net"]
