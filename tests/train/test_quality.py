from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio

from evo_agd.train.images import crop_to_multiple, downscale, list_photos, read_photo, upscale
from evo_agd.train.quality import CEILING, luma, psnr_y
from tests.conftest import photograph


@pytest.mark.parametrize(
    ("name", "published", "tolerance"), [("Set5", 28.42, 0.05), ("Set14", 26.00, 0.12)]
)
def test_bicubic_is_what_the_papers_publish(
    shared: Path, name: str, published: float, tolerance: float
) -> None:
    highs = [crop_to_multiple(read_photo(p), 4) for p in list_photos(shared / "data/sr" / name)]
    scores = [psnr_y(upscale(downscale(h, 4), 4), h, 4) for h in highs]
    assert np.mean(scores) == pytest.approx(published, abs=tolerance)


@given(st.integers(0, 1000), st.integers(1, 60))
def test_agrees_with_scikit_image(seed: int, noise: int) -> None:
    high = photograph(30, 40, seed)
    rng = np.random.default_rng(seed)
    other = np.clip(high + rng.integers(-noise, noise + 1, high.shape), 0, 255).astype(np.uint8)
    expected = peak_signal_noise_ratio(
        rgb2ycbcr(high)[4:-4, 4:-4, 0], rgb2ycbcr(other)[4:-4, 4:-4, 0], data_range=255
    )
    assert psnr_y(other, high, 4) == pytest.approx(expected, abs=0.01)
    assert psnr_y(other, high, 4) == psnr_y(high, other, 4)


def test_identity_and_range() -> None:
    high = photograph(20, 20, 0)
    assert psnr_y(high, high, 4) == CEILING
    black, white = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    assert luma(black).max() == 16.0 and luma(white).min() == pytest.approx(235.0)


def test_the_border_does_not_count() -> None:
    high = photograph(20, 20, 0)
    other = high.copy()
    other[:4] = 0
    assert psnr_y(other, high, 4) == CEILING > psnr_y(other, high, 3)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        psnr_y(photograph(8, 9, 0), photograph(9, 8, 0), 1)
    with pytest.raises(ValueError, match="nothing"):
        psnr_y(photograph(8, 9, 0), photograph(8, 9, 0), 4)
