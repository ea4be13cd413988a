"""Pictures of any size through a network, in tiles where memory is short.

A tile's answer is kept only where the tile reaches at least the network's receptive field beyond,
so seams are those of the whole picture. Networks that look at whole pictures (instance norm) have
no such tiles; theirs overlap widely and are blended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from evo_agd.deploy.model_file import Nature
from evo_agd.train.images import Photo

Network = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

SHARE = 4  # tiles that find room in the memory at once
BLENDED = 4  # a blended tile shares 1 / BLENDED of its side with each neighbour
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow's


@dataclass(frozen=True)
class Span:
    """A tile along one side of a picture, in input pixels: taken in, and answered for."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True)
class Layout:
    """The tiles of one picture, rows times columns."""

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    blended: bool = False

    @property
    def count(self) -> int:
        """How many tiles there are."""
        return len(self.rows) * len(self.columns)

    @property
    def area(self) -> int:
        """Input pixels of a tile; all have the same size."""
        row, column = self.rows[0], self.columns[0]
        return (row.stop - row.start) * (column.stop - column.start)


def spans(side: int, window: int, overlap: int, multiple: int = 1) -> tuple[Span, ...]:
    """Tiles of equal size along one side, as few as will do and no larger than they must be.

    Args:
        side: of the picture; a multiple of ``multiple``.
        window: the most that a tile takes in, at least ``least_window``.
        overlap: what a tile takes in beyond what it answers for, but at the picture's edges.
        multiple: what divides where tiles start and how much they take in.
    """
    if side <= window:
        return (Span(0, side, 0, side),)
    overlap = _up(overlap, multiple)
    window = window // multiple * multiple
    count = -(-(side - 2 * overlap) // (window - 2 * overlap))
    window = _up(-(-(side - 2 * overlap) // count) + 2 * overlap, multiple)
    starts = [i * (side - window) // (count - 1) // multiple * multiple for i in range(count)]
    # Between two tiles the middle of what both take in: at least 2 overlaps wide.
    cuts = [(b + a + window) // 2 for a, b in pairwise(starts)]
    firsts, lasts = [0, *cuts], [*cuts, side]
    return tuple(
        Span(start, start + window, first, last)
        for start, first, last in zip(starts, firsts, lasts, strict=True)
    )


def _up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple


def least_window(overlap: int, multiple: int, smallest: int) -> int:
    """The smallest tile with something between its overlaps."""
    return _up(max(2 * _up(overlap, multiple) + multiple, smallest), multiple)


def layout(height: int, width: int, nature: Nature, memory: int) -> Layout:
    """How a picture is cut: whole if it may be, else in near-square tiles.

    Args:
        memory: bytes for the network to work in. A tile takes a quarter of it, so that some find
            room beside each other and their sizes depend on nothing else; a network that looks at
            whole pictures takes all of it. Where a tile with its overlaps needs more, it takes it.
    """
    pixels = memory // (1 if nature.whole else SHARE) // nature.bytes_per_pixel
    height, width = nature.padded(height), nature.padded(width)
    if height * width <= pixels:
        return Layout(spans(height, height, 0), spans(width, width, 0))
    if nature.whole:
        pixels //= SHARE  # tiles, and the rows that they are blended in
    square = math.isqrt(pixels)
    overlap = max(1, square // BLENDED // 2) if nature.whole else nature.overlap
    least = least_window(overlap, nature.multiple, nature.smallest)
    down = max(least, min(height, square) // nature.multiple * nature.multiple)
    across = max(least, min(width, pixels // down) // nature.multiple * nature.multiple)
    return Layout(
        spans(height, down, overlap, nature.multiple),
        spans(width, across, overlap, nature.multiple),
        blended=nature.whole,
    )


def padded(picture: Photo, nature: Nature) -> Photo:
    """The picture with its right and lower edges mirrored until the network takes its size."""
    height, width = picture.shape[:2]
    down, across = nature.padded(height) - height, nature.padded(width) - width
    if not down and not across:
        return picture
    return np.pad(picture, ((0, down), (0, across), (0, 0)), mode="reflect")


def rounded(answer: NDArray[np.float32], grey: bool) -> NDArray[np.uint8]:
    """(3, h, w) in 0..1 to (h, w, 3) of 8 bits, or to its luma (h, w)."""
    if grey:
        answer = np.tensordot(LUMA, answer, 1)
    values = np.clip(answer, 0, 1)
    values *= 255
    result: NDArray[np.uint8] = np.rint(values, out=values).astype(np.uint8)
    return result if grey else np.ascontiguousarray(result.transpose(1, 2, 0))


def tile_answer(
    network: Network, picture: Photo, row: Span, column: Span, scale: int
) -> NDArray[np.float32]:
    """What a tile answers for, (3, h, w), its overlaps cut off."""
    answer = network(picture[row.start : row.stop, column.start : column.stop])
    return answer[
        :,
        (row.first - row.start) * scale : (row.last - row.start) * scale,
        (column.first - column.start) * scale : (column.last - column.start) * scale,
    ]


# Blending


def _weights(tiles: Sequence[Span], scale: int) -> list[NDArray[np.float32]]:
    """How much each tile counts along its side, in output pixels; what is shared adds up to 1."""
    total = np.zeros(tiles[-1].stop * scale, np.float32)
    ramps = []
    for before, tile, after in zip([None, *tiles], tiles, [*tiles[1:], None], strict=False):
        at = np.arange(tile.start * scale, tile.stop * scale, dtype=np.float32) + 0.5
        ramp = np.ones(len(at), np.float32)
        if before is not None:
            ramp = np.minimum(ramp, _rise(at, tile.start * scale, before.stop * scale))
        if after is not None:
            ramp = np.minimum(ramp, _rise(-at, -tile.stop * scale, -after.start * scale))
        total[tile.start * scale : tile.stop * scale] += ramp
        ramps.append(ramp)
    return [
        ramp / total[tile.start * scale : tile.stop * scale]
        for ramp, tile in zip(ramps, tiles, strict=True)
    ]


def _rise(at: NDArray[np.float32], foot: int, top: int) -> NDArray[np.float32]:
    rise: NDArray[np.float32] = ((at - foot) / (top - foot)).astype(np.float32)
    return rise


def blended(
    network: Network, picture: Photo, cut: Layout, scale: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Rows of the answer from top to bottom: (first output row, (3, rows, width)).

    Only as many rows as tiles are high are held in floats.
    """
    width = picture.shape[1] * scale
    down, across = _weights(cut.rows, scale), _weights(cut.columns, scale)
    first = 0
    held = np.zeros((3, 0, width), np.float32)
    for index, row in enumerate(cut.rows):
        stop = row.stop * scale
        more = np.zeros((3, stop - first - held.shape[1], width), np.float32)
        held = np.concatenate([held, more], axis=1)
        for column, weights in zip(cut.columns, across, strict=True):
            answer = network(picture[row.start : row.stop, column.start : column.stop])
            place = held[:, row.start * scale - first :, column.start * scale : column.stop * scale]
            place += answer * down[index][:, None] * weights
        done = cut.rows[index + 1].start * scale if index + 1 < len(cut.rows) else stop
        yield first, held[:, : done - first]
        held, first = held[:, done - first :], done
