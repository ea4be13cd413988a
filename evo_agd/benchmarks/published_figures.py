"""What papers say of x4 super-resolution: the rows that measured ones are put beside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SCALE = 4
INPUT_SIZE = (256, 256)  # low-resolution pixels that the GFLOPs are counted at
_ALIASES = {"bsds100": "BSD100", "b100": "BSD100"}


@dataclass(frozen=True)
class Published:
    """One method as papers give it.

    ``gflops`` are multiply-accumulates / 1e9 at :data:`INPUT_SIZE`, ``memory_mb`` parameters x 4 /
    1e6; ``psnr`` in dB and ``ssim`` are on luma, by test set; ``source`` is theirs, ``note`` tells
    where the cost is another network's.
    """

    name: str
    psnr: Mapping[str, float]
    source: str
    gflops: float | None = None
    memory_mb: float | None = None
    ssim: Mapping[str, float] = field(default_factory=dict)
    note: str | None = None


# GFLOPs and MB of ESRGAN, VDSR and AGD are those of Fu et al., ICML 2020 (arXiv 2006.08198), who
# count by thop, with biases and activations: the convolutions of ESRGAN alone are 1174.85. Their
# VDSR is one of RGB; that of luma, which is in use, has 696.99. The hand-made networks' GFLOPs are
# those of challenge entries, which are not always the networks of the papers: the notes tell.
PUBLISHED = (
    Published(
        "bicubic",
        {"Set5": 28.42, "Set14": 26.00, "BSD100": 25.96, "Urban100": 23.14},
        "Lim et al., EDSR, CVPRW 2017",
        ssim={"Set5": 0.8104, "Set14": 0.7027, "BSD100": 0.6675, "Urban100": 0.6577},
    ),
    Published(
        "ESRGAN (PSNR-oriented)",
        {"Set5": 32.73, "Set14": 28.99, "BSD100": 27.85, "Urban100": 27.03},
        "Wang et al., ECCVW 2018",
        gflops=1176.61,
        memory_mb=66.8,
        ssim={"Set5": 0.9011, "Set14": 0.7917, "BSD100": 0.7455, "Urban100": 0.8153},
    ),
    Published(
        "VDSR",
        {"Set5": 31.35, "Set14": 28.01, "BSD100": 27.29, "Urban100": 25.18},
        "Kim et al., CVPR 2016",
        gflops=699.36,
        memory_mb=2.67,
        ssim={"Set5": 0.8838, "Set14": 0.7674, "BSD100": 0.7251, "Urban100": 0.7524},
    ),
    Published(
        "AGD",
        {"Set5": 31.79, "Set14": 28.36, "BSD100": 27.41, "Urban100": 25.55},
        "Fu et al., ICML 2020",
        gflops=110.9,
        memory_mb=1.8,
    ),
    Published(
        "IMDN",
        {"Set5": 32.21},
        "Hui et al., ACM MM 2019",
        gflops=58.5,
        memory_mb=2.86,
        note="GFLOPs of the entry to AIM 2019 with 894 K parameters",
    ),
    Published(
        "RFDN",
        {"Set5": 32.24},
        "Liu et al., ECCVW 2020",
        gflops=27.1,
        memory_mb=1.73,
        note="GFLOPs and MB of the entry to AIM 2020, PSNR of a network with 550 K parameters",
    ),
    Published(
        "RLFN-NTIRE",
        {"Set5": 32.10},
        "Kong et al., CVPRW 2022",
        gflops=19.7,
        memory_mb=1.27,
    ),
)


def published_set(folder: str) -> str | None:
    """The test set that papers give figures for, by its folder's name in any case; else None."""
    known = {name.lower(): name for method in PUBLISHED for name in method.psnr}
    return (known | _ALIASES).get(folder.lower())
