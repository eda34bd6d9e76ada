"""Learned methods of the paper's Table 2, and refinements of DCT-Net, by short name.

Each is `DCTNetMethod` with other weights and defaults: same views, same zoom-in. "Based on" means that
details of the paper are unknown; the network's docstring lists our choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from dct_seg.methods.base import METHODS
from dct_seg.methods.dctnet import DCTNetMethod

PLAIN = {"network": "dct_net", "feature_dct": False}
"""Configuration of a U-Net with pyramid pooling."""


class _Published(DCTNetMethod):
    """Method as published: without our post-processing, and with the Auto-Drag-Head's radii, by default."""

    default_after, default_radius_from = "none", "head"


class _Reproduction(_Published):
    """Another paper's method: no weights in the package."""

    default_checkpoint = None


@METHODS.register("dos")
class DOS(_Reproduction):
    """Based on DOS: a fully convolutional network with distance maps, then a graph cut.

    Examples:
        >>> DOS.name, DOS.wants["click_encoder"]
        ('dos', 'Euclidean')
    """

    name, paper, row = "dos", "Xu et al. 2016", "dos"
    default_after = "graph_cut"
    wants: ClassVar[Mapping[str, Any]] = {"network": "fcn", "click_encoder": "Euclidean"}


@METHODS.register("ris_net")
class RISNet(_Reproduction):
    """Based on RIS-Net: a global branch, and regions between opposite clicks.

    Examples:
        >>> RISNet.name, RISNet.wants["click_encoder"]
        ('ris_net', 'Euclidean')
    """

    name, paper, row = "ris_net", "Liew et al. 2017", "ris_net"
    wants: ClassVar[Mapping[str, Any]] = {"network": "ris_net", "click_encoder": "Euclidean"}


@METHODS.register("iis_ld")
class IISLD(_Reproduction):
    """Based on IIS-LD: several hypotheses, and a network that selects one.

    Examples:
        >>> IISLD.name, IISLD.wants["click_encoder"]
        ('iis_ld', 'Euclidean')
    """

    name, paper, row = "iis_ld", "Li et al. 2018", "iis_ld"
    wants: ClassVar[Mapping[str, Any]] = {"network": "iis_ld", "click_encoder": "Euclidean"}


@METHODS.register("cmg")
class CMG(_Reproduction):
    """Based on CMG: click maps from superpixels and object proposals.

    Examples:
        >>> CMG.name, CMG.wants["click_encoder"]
        ('cmg', 'SuperpixelGuidance')
    """

    name, paper, row = "cmg", "Majumder & Yao 2019", "cmg"
    wants: ClassVar[Mapping[str, Any]] = {**PLAIN, "click_encoder": "SuperpixelGuidance"}


@METHODS.register("brs")
class BRSMethod(_Reproduction):
    """BRS: changes the distance maps until all clicks have the right label.

    Examples:
        >>> BRSMethod.name, BRSMethod.default_refine
        ('brs', 'brs')
    """

    name, paper, row = "brs", "Jang & Kim 2019", "brs"
    default_refine = "brs"
    wants: ClassVar[Mapping[str, Any]] = {**PLAIN, "click_encoder": "Euclidean"}


class _FBRS(_Reproduction):
    paper, row = "Sofiiuk et al. 2020", "fbrs"
    wants: ClassVar[Mapping[str, Any]] = {**PLAIN, "click_encoder": "TanhDistance", "decoder_norm": "batch"}


@METHODS.register("fbrs")
class FBRSB(_FBRS):
    """f-BRS-B: changes scales and biases after pyramid pooling.

    Examples:
        >>> FBRSB.name, FBRSB.default_refine
        ('fbrs', 'fbrs_b')
    """

    name = "fbrs"
    default_refine = "fbrs_b"


@METHODS.register("fbrs_a")
class FBRSA(_FBRS):
    """f-BRS-A: changes scales and biases of the backbone's coarsest level.

    Examples:
        >>> FBRSA.name, FBRSA.default_refine
        ('fbrs_a', 'fbrs_a')
    """

    name = "fbrs_a"
    default_refine = "fbrs_a"


@METHODS.register("fbrs_c")
class FBRSC(_FBRS):
    """f-BRS-C: changes scales and biases before the last convolution.

    Examples:
        >>> FBRSC.name, FBRSC.default_refine
        ('fbrs_c', 'fbrs_c')
    """

    name = "fbrs_c"
    default_refine = "fbrs_c"


@METHODS.register("fca_net")
class FCANet(_Reproduction):
    """FCA-Net: attention to the first click; keeps only parts with a positive click.

    Examples:
        >>> FCANet.name, FCANet.wants["click_encoder"]
        ('fca_net', 'HalfWidthGaussian')
    """

    name, paper, row = "fca_net", "Lin et al. 2020", "fca_net"
    default_after = "connected"
    wants: ClassVar[Mapping[str, Any]] = {"network": "fca_net", "click_encoder": "HalfWidthGaussian"}


@METHODS.register("dctnet_brs")
class DCTNetBRS(_Published):
    """DCT-Net that changes its click maps until all clicks have the right label.

    Examples:
        >>> DCTNetBRS.name, DCTNetBRS.default_refine
        ('dctnet_brs', 'brs')
    """

    name, paper = "dctnet_brs", ""
    default_refine = "brs"


@METHODS.register("dctnet_statistics")
class DCTNetStatistics(_Published):
    """DCT-Net that changes its predicted statistics if a click has the wrong label.

    Examples:
        >>> DCTNetStatistics.name, DCTNetStatistics.default_refine
        ('dctnet_statistics', 'statistics')
    """

    name, paper = "dctnet_statistics", ""
    default_refine = "statistics"
    wants: ClassVar[Mapping[str, Any]] = {"feature_dct": True}


@METHODS.register("dctnet_radii")
class DCTNetRadii(_Published):
    """DCT-Net that changes the drags' radii if a click has the wrong label.

    Examples:
        >>> DCTNetRadii.name, DCTNetRadii.default_refine
        ('dctnet_radii', 'radii')
    """

    name, paper = "dctnet_radii", ""
    default_refine = "radii"
    wants: ClassVar[Mapping[str, Any]] = {"click_encoder": "SpatialDCT"}
