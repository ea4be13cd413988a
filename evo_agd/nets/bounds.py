"""How far a network looks: what tiles have to overlap by."""

from __future__ import annotations

from evo_agd.nets.build import Student
from evo_agd.nets.elastic import ElasticConv, ElasticTransposed
from evo_agd.nets.translation import MULTIPLE, TranslationStudent

_GRID = {"stem_quarter": 2, "layers": 4, "header_half": 4, "header_full": 2}
"""Input pixels to a pixel of what a part of the translation skeleton takes; else 1."""
_BASE = 1  # what a bilinear enlargement looks at beside a pixel


def reach_of(net: Student) -> int:
    """Input pixels on each side of a pixel that its output may depend on, norms left aside.

    Convolutions side by side are counted as if they were in a row: it is never too little.
    """
    total = _BASE
    for name, module in net.named_modules():
        if isinstance(module, ElasticConv | ElasticTransposed):
            grid = _GRID.get(name.split(".")[0], 1) if net.scale == 1 else 1
            total += grid * (module.weight.shape[-1] // 2)
    return total


def sees_all(net: Student) -> bool:
    """Whether every pixel depends on all others, through instance norm."""
    return isinstance(net, TranslationStudent) and not net.frozen


def multiple_of(net: Student) -> int:
    """What the sides of an input have to be divisible by."""
    return MULTIPLE if net.scale == 1 else 1
