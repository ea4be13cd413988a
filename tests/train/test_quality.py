from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from evo_agd.train.images import crop_to_multiple, downscale, list_photos, read_photo, upscale
from evo_agd.train.quality import CEILING, luma, psnr_y, ssim_y
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


@given(st.integers(0, 1000), st.integers(1, 60), st.integers(0, 5))
def test_similarity_agrees_with_scikit_image(seed: int, noise: int, border: int) -> None:
    high = photograph(30, 41, seed)
    rng = np.random.default_rng(seed)
    other = np.clip(high + rng.integers(-noise, noise + 1, high.shape), 0, 255).astype(np.uint8)
    inside = slice(border, -border or None)
    expected = structural_similarity(
        luma(high)[inside, inside],
        luma(other)[inside, inside],
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
    )
    found = ssim_y(other, high, border)
    assert found == pytest.approx(expected, abs=1e-3)
    assert found == pytest.approx(ssim_y(high, other, border), abs=1e-12)
    assert -1 <= found < 1 == pytest.approx(ssim_y(high, high, border))


def test_similarity_is_that_of_the_full_size() -> None:
    # piq by itself would shrink this picture by 2 and find it less disturbed.
    high = photograph(520, 500, 0)
    other = high.copy()
    other[::2, ::2] //= 2
    expected = structural_similarity(
        luma(high), luma(other), gaussian_weights=True, use_sample_covariance=False, data_range=255
    )
    assert ssim_y(other, high, 0) == pytest.approx(expected, abs=1e-3)


def test_the_border_is_not_compared() -> None:
    high = photograph(24, 26, 0)
    framed = high.copy()
    framed[:4] = framed[:, -4:] = 0
    assert ssim_y(framed, high, 4) == pytest.approx(1) and ssim_y(framed, high, 3) < 0.9999


def test_more_noise_is_less_similar() -> None:
    high, rng = photograph(40, 40, 3), np.random.default_rng(0)
    noise = rng.normal(0, 1, high.shape)
    noisy = [np.clip(high + s * noise, 0, 255).astype(np.uint8) for s in (2, 8, 32, 128)]
    found = [ssim_y(n, high, 4) for n in noisy]
    assert found == sorted(found, reverse=True)


def test_no_similarity_of_what_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="shape"):
        ssim_y(photograph(20, 21, 0), photograph(21, 20, 0), 1)
    ssim_y(photograph(13, 13, 0), photograph(13, 13, 0), 1)
    with pytest.raises(ValueError, match="no window"):
        ssim_y(photograph(12, 13, 0), photograph(12, 13, 0), 1)


def test_similarity_is_what_the_papers_publish(shared: Path) -> None:
    highs = [crop_to_multiple(read_photo(p), 4) for p in list_photos(shared / "data/sr/Set5")]
    scores = [ssim_y(upscale(downscale(h, 4), 4), h, 4) for h in highs]
    assert np.mean(scores) == pytest.approx(0.8104, abs=0.003)
