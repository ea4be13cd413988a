"""Picture quality as the super-resolution literature counts it."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from evo_agd.train.images import Photo
from evo_agd.train.pairs import Pair

# ITU-R BT.601, studio range: what MATLAB's rgb2ycbcr computes for 8-bit RGB.
LUMA = np.array([65.481, 128.553, 24.966]) / 255.0
_LUMA_OFFSET = 16.0
CEILING = 100.0  # dB
SSIM_WINDOW = 11  # pixels a side


def luma(photo: Photo) -> NDArray[np.float64]:
    """Studio-range luma (16 to 235) of an RGB image, shape (height, width), not rounded."""
    result: NDArray[np.float64] = photo.astype(np.float64) @ LUMA + _LUMA_OFFSET
    return result


def luma_squared_error(image: Photo, reference: Photo, border: int) -> float:
    """Mean squared error of the luma with ``border`` pixels cropped from each side.

    Raises:
        ValueError: shapes differ, or nothing is left after the crop.
    """
    if image.shape != reference.shape:
        raise ValueError(f"images of different shape: {image.shape} and {reference.shape}")
    if min(image.shape[:2]) <= 2 * border:
        raise ValueError(f"{image.shape[:2]} leaves nothing after a border of {border}")
    inside = slice(border, -border) if border else slice(None)
    difference = (luma(image) - luma(reference))[inside, inside]
    return float(np.mean(difference**2))


def decibels(squared_error: float) -> float:
    """PSNR in dB of a mean squared error of 8-bit values; 100 dB for none, so that it is finite."""
    if squared_error == 0.0:
        return CEILING
    return min(CEILING, 10.0 * math.log10(255.0**2 / squared_error))


def psnr_y(image: Photo, reference: Photo, border: int) -> float:
    """PSNR in dB on studio-range luma, ``border`` (the scale) pixels cropped.

    Equal images have 100 dB, so that means and files stay finite.
    """
    return decibels(luma_squared_error(image, reference, border))


def psnr_rgb(image: Photo, reference: Photo) -> float:
    """PSNR in dB over all three channels, nothing cropped; 100 dB for equal images."""
    return decibels(float(np.mean((image.astype(np.float64) - reference) ** 2)))


def psnr(output: Photo, pair: Pair) -> float:
    """The PSNR that a task is judged by, in dB.

    Super-resolution: :func:`psnr_y` to the truth. Translation has no truth: :func:`psnr_rgb` to the
    teacher's output.
    """
    scale = pair.high.shape[0] // pair.low.shape[0]
    high = np.asarray(pair.high)
    return psnr_rgb(output, high) if scale == 1 else psnr_y(output, high, scale)


def ssim_y(image: Photo, reference: Photo, border: int) -> float:
    """Structural similarity on studio-range luma, ``border`` (the scale) pixels cropped; at most 1.

    Wang et al., IEEE TIP 2004, as their MATLAB program has it, which the super-resolution papers
    use: Gaussian windows of 11x11 pixels and sigma 1.5 that lie inside the picture, at full size.

    Raises:
        ValueError: shapes differ, or fewer than 11 pixels are left after the crop.
    """
    # Here: piq loads torchvision, which training and its workers have no use for.
    from piq import ssim

    if image.shape != reference.shape:
        raise ValueError(f"images of different shape: {image.shape} and {reference.shape}")
    if min(image.shape[:2]) - 2 * border < SSIM_WINDOW:
        raise ValueError(f"{image.shape[:2]} leaves no window inside a border of {border}")
    inside = slice(border, -border) if border else slice(None)
    # The constants that keep the quotient finite are shares of 255, so 255 is 1 here.
    one, other = (torch.from_numpy(luma(p)[inside, inside] / 255) for p in (image, reference))
    # piq would shrink what is larger than 384 pixels first; MATLAB's program does not.
    return float(ssim(one[None, None], other[None, None], SSIM_WINDOW, downsample=False))
