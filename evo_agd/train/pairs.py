"""What networks are trained and judged on: an input, the truth, and the teacher's answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evo_agd.errors import InputError
from evo_agd.train.images import Photo


@dataclass(frozen=True)
class Stored:
    """A picture on disk of which only crops are read: a ``.npy`` file of uint8, (h, w, 3).

    Every reading maps the file anew, since thousands of pictures that stay mapped are more files
    than a process may have open. What is pickled is the path; name it absolutely where another
    process is to read it.
    """

    path: Path
    shape: tuple[int, int, int]
    offset: int
    """Bytes before the pixels."""

    @classmethod
    def at(cls, path: Path) -> Stored:
        """The picture that ``path`` holds, as the file's header describes it.

        Raises:
            InputError: no such file, or another kind of file.
        """
        try:
            mapped = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise InputError(path, "a picture of this run", error) from error
        ours = isinstance(mapped, np.memmap) and mapped.flags.c_contiguous
        if not ours or mapped.dtype != np.uint8 or mapped.ndim != 3 or mapped.shape[2] != 3:
            raise InputError(path, "a picture of this run", "something else")
        height, width, channels = mapped.shape
        return cls(path, (height, width, channels), mapped.offset)

    def _mapped(self) -> Photo:
        # By hand, since np.load takes five times as long: 0.2 ms, 48 times a step of training.
        try:
            with self.path.open("rb") as file:
                mapped = mmap(file.fileno(), 0, access=ACCESS_READ)
            return np.ndarray(self.shape, np.uint8, mapped, self.offset)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(self.path, "a picture of this run", error) from error

    def __getitem__(self, index: Any) -> Photo:
        """A crop, read from disk.

        Raises:
            InputError: the file is not there any more.
        """
        return np.array(self._mapped()[index])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The whole picture, read from disk; a copy always."""
        return np.array(self._mapped(), dtype=dtype)


Picture: TypeAlias = Photo | Stored


@dataclass(frozen=True)
class Pair:
    """One training or validation picture.

    ``low`` is the input (h, w, 3); ``high`` the truth and ``teacher`` the teacher's answer, both
    (h * scale, w * scale, 3). Where only the teacher knows the answer, ``high`` is its answer.
    Training pictures lie on disk, validation pictures are arrays.
    """

    name: str
    low: Picture
    high: Picture
    teacher: Picture


def middle(pair: Pair, share: float, multiple: int = 1, least: int = 1) -> Pair:
    """The middle of a pair's pictures.

    Args:
        share: of the area, above 0 and at most 1.
        multiple: what the input's sides have to be divisible by.
        least: sides of the input below which nothing is cut off, in pixels.
    """
    height, width = pair.low.shape[:2]
    scale = pair.high.shape[0] // height

    def inside(side: int) -> tuple[int, int]:
        size = max(round(side * share**0.5), min(least, side))
        size = min(side, -(-size // multiple) * multiple)
        first = (side - size) // 2
        return first, first + size

    (top, bottom), (left, right) = inside(height), inside(width)

    def cut(picture: Picture, zoom: int) -> Photo:
        part = picture[top * zoom : bottom * zoom, left * zoom : right * zoom]
        return np.ascontiguousarray(part)

    return replace(
        pair, low=cut(pair.low, 1), high=cut(pair.high, scale), teacher=cut(pair.teacher, scale)
    )


def to_tensor(photos: Sequence[Picture]) -> Tensor:
    """Equal-sized images as (N, 3, H, W) in 0..1, channels last in memory."""
    batch = torch.from_numpy(np.stack([np.ascontiguousarray(p) for p in photos]))
    return batch.permute(0, 3, 1, 2).float().div_(255)


def to_photo(output: Tensor) -> Photo:
    """One (3, H, W) output in 0..1 as an 8-bit image; out-of-range values are clipped."""
    array: Photo = output.float().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    return array


class CropSampler:
    """Random crops, turned and flipped; what is drawn depends on the seed and the step only.

    Args:
        crop: side of a crop in input pixels.
        upright: only flip left to right: horses do not stand on their heads.
    """

    def __init__(
        self, pairs: Sequence[Pair], batch: int, crop: int, seed: int, *, upright: bool = False
    ) -> None:
        self.pairs = list(pairs)
        self.batch = batch
        self.crop = crop
        self.seed = seed
        self.upright = upright
        area = np.array([p.low.shape[0] * p.low.shape[1] for p in pairs], dtype=np.float64)
        self.chance = area / area.sum()

    def draw(self, *key: int) -> tuple[Tensor, Tensor, Tensor]:
        """Low, high and teacher crops, each (N, 3, H, W) in 0..1, for this key."""
        rng = np.random.default_rng([self.seed, *key])
        chosen = [
            self._crop(self.pairs[i], rng)
            for i in rng.choice(len(self.pairs), self.batch, p=self.chance)
        ]
        return (
            to_tensor([c.low for c in chosen]),
            to_tensor([c.high for c in chosen]),
            to_tensor([c.teacher for c in chosen]),
        )

    def _crop(self, pair: Pair, rng: np.random.Generator) -> Pair:
        scale = pair.high.shape[0] // pair.low.shape[0]
        size = self.crop
        top = int(rng.integers(pair.low.shape[0] - size + 1))
        left = int(rng.integers(pair.low.shape[1] - size + 1))
        turns = 0 if self.upright else int(rng.integers(4))
        flip = bool(rng.integers(2))

        def cut(picture: Picture, zoom: int) -> Photo:
            part = picture[top * zoom : (top + size) * zoom, left * zoom : (left + size) * zoom]
            part = np.rot90(part, turns)
            return part[:, ::-1] if flip else part

        low, teacher = cut(pair.low, 1), cut(pair.teacher, scale)
        # Where there is no truth the two are one file, which need not be read twice.
        high = teacher if pair.high is pair.teacher else cut(pair.high, scale)
        return replace(pair, low=low, high=high, teacher=teacher)
