"""The learned rows of the paper's Table 2, and refinements of DCT-Net itself, under their short names.

Each is :class:`DCTNetMethod` with other weights and defaults: same views, same zoom-in. "After" a paper means
that its details are partly unknown; the network's docstring lists our choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from dct_seg.methods.base import METHODS
from dct_seg.methods.dctnet import DCTNetMethod

PLAIN = {"network": "dct_net", "feature_dct": False}
"""A U-Net with pyramid pooling."""


@METHODS.register("dos")
class DOS(DCTNetMethod):
    """After DOS: a fully convolutional network over distance maps, then a graph cut."""

    name, paper, row = "dos", "Xu et al. 2016", "dos"
    default_checkpoint = None
    default_after = "graph_cut"
    wants: ClassVar[Mapping[str, Any]] = {"network": "fcn", "click_encoder": "Euclidean"}


@METHODS.register("ris_net")
class RISNet(DCTNetMethod):
    """After RIS-Net: a global branch, and regions between opposite clicks."""

    name, paper, row = "ris_net", "Liew et al. 2017", "ris_net"
    default_checkpoint = None
    wants: ClassVar[Mapping[str, Any]] = {"network": "ris_net", "click_encoder": "Euclidean"}


@METHODS.register("iis_ld")
class IISLD(DCTNetMethod):
    """After IIS-LD: several hypotheses, and a network that picks one."""

    name, paper, row = "iis_ld", "Li et al. 2018", "iis_ld"
    default_checkpoint = None
    wants: ClassVar[Mapping[str, Any]] = {"network": "iis_ld", "click_encoder": "Euclidean"}


@METHODS.register("cmg")
class CMG(DCTNetMethod):
    """After CMG: maps that follow superpixels and object proposals."""

    name, paper, row = "cmg", "Majumder & Yao 2019", "cmg"
    default_checkpoint = None
    wants: ClassVar[Mapping[str, Any]] = {**PLAIN, "click_encoder": "SuperpixelGuidance"}


@METHODS.register("brs")
class BRSMethod(DCTNetMethod):
    """BRS: the distance maps are changed until all clicks are right."""

    name, paper, row = "brs", "Jang & Kim 2019", "brs"
    default_checkpoint = None
    default_refine = "brs"
    wants: ClassVar[Mapping[str, Any]] = {**PLAIN, "click_encoder": "Euclidean"}


class _FBRS(DCTNetMethod):
    paper, row = "Sofiiuk et al. 2020", "fbrs"
    default_checkpoint = None
    wants: ClassVar[Mapping[str, Any]] = {**PLAIN, "click_encoder": "TanhDistance", "decoder_norm": "batch"}


@METHODS.register("fbrs")
class FBRSB(_FBRS):
    """f-BRS-B: scales and biases after pyramid pooling are changed."""

    name = "fbrs"
    default_refine = "fbrs_b"


@METHODS.register("fbrs_a")
class FBRSA(_FBRS):
    """f-BRS-A: scales and biases of the backbone's coarsest level are changed."""

    name = "fbrs_a"
    default_refine = "fbrs_a"


@METHODS.register("fbrs_c")
class FBRSC(_FBRS):
    """f-BRS-C: scales and biases before the last convolution are changed."""

    name = "fbrs_c"
    default_refine = "fbrs_c"


@METHODS.register("fca_net")
class FCANet(DCTNetMethod):
    """FCA-Net: attention to the first click, and only parts with a positive click are kept."""

    name, paper, row = "fca_net", "Lin et al. 2020", "fca_net"
    default_checkpoint = None
    default_after = "connected"
    wants: ClassVar[Mapping[str, Any]] = {"network": "fca_net", "click_encoder": "HalfWidthGaussian"}


@METHODS.register("dctnet_brs")
class DCTNetBRS(DCTNetMethod):
    """DCT-Net whose click maps are changed until all clicks are right."""

    name, paper = "dctnet_brs", ""
    default_refine = "brs"


@METHODS.register("dctnet_statistics")
class DCTNetStatistics(DCTNetMethod):
    """DCT-Net whose predicted statistics are changed where a click is wrong."""

    name, paper = "dctnet_statistics", ""
    default_refine = "statistics"
    wants: ClassVar[Mapping[str, Any]] = {"feature_dct": True}


@METHODS.register("dctnet_radii")
class DCTNetRadii(DCTNetMethod):
    """DCT-Net whose drags are made longer or shorter where a click is wrong."""

    name, paper = "dctnet_radii", ""
    default_refine = "radii"
    wants: ClassVar[Mapping[str, Any]] = {"click_encoder": "SpatialDCT"}
