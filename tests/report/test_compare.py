from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from evo_agd.report.compare import SIDE, compared, most_detailed
from tests.conftest import photograph


@pytest.mark.parametrize("size", [(100, 140), (1600, 2200)])
@pytest.mark.parametrize("corner", [(0, 0), (1, 1), (0, 1), (1, 0)])
def test_the_most_detailed_part_is_found(size: tuple[int, int], corner: tuple[int, int]) -> None:
    side = 40 if size[0] < 1000 else 96
    top, left = ((total - side) * at for total, at in zip(size, corner, strict=True))
    photo = np.full((*size, 3), 90, np.uint8)
    photo[top : top + side, left : left + side] = np.random.default_rng(0).integers(
        0, 255, (side, side, 3), dtype=np.uint8
    )
    found = most_detailed(photo, side)
    assert np.abs(np.subtract(found, (top, left))).max() <= 8
    assert 0 <= found[0] <= size[0] - side and 0 <= found[1] <= size[1] - side


def test_equal_parts_and_small_pictures_have_one_too() -> None:
    assert most_detailed(np.zeros((50, 60, 3), np.uint8), 20) == (0, 0)
    assert most_detailed(photograph(10, 300, 0), 40)[0] == 0
    assert most_detailed(np.zeros((1, 1, 3), np.uint8), 40) == (0, 0)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_sheets_are_bounded(scale: int) -> None:
    low = photograph(500, 700, 0)
    output = Image.fromarray(low.repeat(scale, 0).repeat(scale, 1))
    sheet = compared(low, output, scale, None)
    views = 2 if scale == 1 else 3
    assert sheet.height <= SIDE + 30 and sheet.width <= views * (SIDE + 10) + 10
    pixels = np.asarray(sheet)[18:-6]
    width = SIDE // scale * scale
    first, last = pixels[:, 6 : 6 + width], pixels[:, -6 - width : -6]
    assert (first == last).all()  # this student repeats pixels
