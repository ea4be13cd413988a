from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import convolve1d

from evo_agd.deploy.model_file import Nature
from evo_agd.deploy.tiles import (
    Layout,
    blended,
    layout,
    least_window,
    padded,
    rounded,
    spans,
    tile_answer,
)
from tests.conftest import photograph

NATURE = Nature(
    scale=2,
    overlap=3,
    multiple=1,
    smallest=8,
    whole=False,
    symmetric=False,
    bytes_per_pixel=100,
)


def smoothing(radius: int, scale: int):  # type: ignore[no-untyped-def]
    """A network that looks ``radius`` pixels far, with zeros beyond the edges."""

    def network(pixels: np.ndarray) -> np.ndarray:
        x = pixels.transpose(2, 0, 1).astype(np.float32) / 255
        kernel = np.arange(1, 2 * radius + 2, dtype=np.float32)
        for axis in (1, 2):
            x = convolve1d(x, kernel / kernel.sum(), axis=axis, mode="constant")
        return x.repeat(scale, axis=1).repeat(scale, axis=2)

    return network


def assembled(network, picture: np.ndarray, cut: Layout, scale: int) -> np.ndarray:  # type: ignore[no-untyped-def]
    result = np.full((3, picture.shape[0] * scale, picture.shape[1] * scale), np.nan, np.float32)
    for row in cut.rows:
        for column in cut.columns:
            answer = tile_answer(network, picture, row, column, scale)
            rows = slice(row.first * scale, row.last * scale)
            columns = slice(column.first * scale, column.last * scale)
            assert np.isnan(result[:, rows, columns]).all()  # nothing is done twice
            result[:, rows, columns] = answer
    return result


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_spans_cover_a_side_once_with_their_overlap(data: st.DataObject) -> None:
    multiple = data.draw(st.sampled_from([1, 2, 4, 8]))
    side = multiple * data.draw(st.integers(1, 300))
    overlap = data.draw(st.integers(0, 40))
    window = least_window(overlap, multiple, 8) + data.draw(st.integers(0, 200))
    found = spans(side, window, overlap, multiple)
    assert found[0].first == 0 and found[-1].last == side
    assert all(a.last == b.first for a, b in pairwise(found))
    assert len({s.stop - s.start for s in found}) == 1
    for span in found:
        assert 0 <= span.start <= span.first < span.last <= span.stop <= side
        assert span.start % multiple == 0 and span.stop % multiple == 0
        assert span.stop - span.start <= window
        assert span.start == 0 or span.first - span.start >= overlap
        assert span.stop == side or span.stop - span.last >= overlap


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    radius=st.integers(0, 6),
    multiple=st.sampled_from([1, 4]),
    scale=st.sampled_from([1, 2]),
    memory=st.integers(1_000, 400_000),
)
@settings(max_examples=60, deadline=None)
def test_tiles_are_the_whole(
    height: int, width: int, radius: int, multiple: int, scale: int, memory: int
) -> None:
    nature = replace(NATURE, overlap=radius, multiple=multiple, scale=scale)
    network = smoothing(radius, scale)
    picture = padded(photograph(height, width, 3), nature)
    cut = layout(height, width, nature, memory)
    assert not cut.blended
    found = assembled(network, picture, cut, scale)
    assert np.abs(found - network(picture)).max() <= 1e-6


@given(
    height=st.integers(8, 60),
    width=st.integers(8, 60),
    scale=st.sampled_from([1, 2]),
    memory=st.integers(1_000, 400_000),
)
@settings(max_examples=40, deadline=None)
def test_blended_tiles_add_up(height: int, width: int, scale: int, memory: int) -> None:
    nature = replace(NATURE, whole=True, scale=scale, multiple=4)
    picture = padded(photograph(height, width, 3), nature)
    cut = layout(height, width, nature, memory)
    whole = smoothing(0, scale)(picture)
    if not cut.blended:
        assert cut.count == 1
        return
    parts = list(blended(smoothing(0, scale), picture, cut, scale))
    assert [first for first, _ in parts] == [
        sum(rows.shape[1] for _, rows in parts[:i]) for i in range(len(parts))
    ]
    found = np.concatenate([rows for _, rows in parts], axis=1)
    assert np.abs(found - whole).max() <= 1e-5


def test_what_fits_is_not_cut_and_what_looks_at_everything_gets_all_the_memory() -> None:
    fits = 40 * 50 * NATURE.bytes_per_pixel
    assert layout(40, 50, NATURE, 4 * fits).count == 1
    assert layout(40, 50, NATURE, 4 * fits - 1).count > 1
    assert layout(40, 50, replace(NATURE, whole=True), fits).count == 1
    assert layout(40, 50, replace(NATURE, whole=True), fits - 1).blended


def test_a_tile_keeps_to_the_memory() -> None:
    memory = 400_000
    for height, width in ((500, 500), (9, 5000), (3000, 20), (1000, 130)):
        cut = layout(height, width, NATURE, memory)
        assert cut.area * NATURE.bytes_per_pixel <= memory / 4


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 50), (17, 18), (16, 20)])
def test_a_picture_is_mirrored_to_what_the_network_takes(height: int, width: int) -> None:
    nature = replace(NATURE, multiple=4)
    picture = photograph(height, width, 1)
    found = padded(picture, nature)
    assert found.shape[0] % 4 == found.shape[1] % 4 == 0 and min(found.shape[:2]) >= 8
    assert (found[:height, :width] == picture).all()
    if height > 1 and found.shape[0] > height:
        assert (found[height, :width] == picture[height - 2]).all()


def test_values_are_rounded_to_the_nearest_and_grey_is_luma() -> None:
    answer = np.array([-0.1, 0.4999 / 255, 0.5001 / 255, 1.2], np.float32)
    answer = np.broadcast_to(answer, (3, 1, 4))
    assert rounded(answer, False)[0, :, 1].tolist() == [0, 0, 1, 255]
    assert rounded(answer, True).shape == (1, 4)
    red = np.zeros((3, 1, 1), np.float32)
    red[0] = 1
    assert rounded(red, True)[0, 0] == 76
