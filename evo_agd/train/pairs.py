"""What networks are trained and judged on: an input, the truth, and the teacher's answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evo_agd.errors import InputError
from evo_agd.train.images import Photo, crop_to_multiple, downscale, list_photos, read_photo

BUNDLED = "bundled"
# Colour photographs that travel in the wheels of scikit-image and scikit-learn.
BUNDLED_TRAIN = (
    ("skimage.data", "chelsea.png"),
    ("skimage.data", "hubble_deep_field.jpg"),
    ("skimage.data", "motorcycle_left.png"),
    ("skimage.data", "rocket.jpg"),
    ("skimage.data", "ihc.png"),
    ("sklearn.datasets.images", "china.jpg"),
)
BUNDLED_VALIDATION = (
    ("skimage.data", "astronaut.png"),
    ("skimage.data", "coffee.png"),
    ("sklearn.datasets.images", "flower.jpg"),
)


@dataclass(frozen=True)
class Pair:
    """One training or validation picture.

    ``low`` is the input (h, w, 3); ``high`` the truth and ``teacher`` the teacher's answer, both
    (h * scale, w * scale, 3). Where only the teacher knows the answer, ``high`` is its answer.
    """

    name: str
    low: Photo
    high: Photo
    teacher: Photo


def photo_paths(source: str, *, validation: bool) -> list[Path]:
    """The files behind a ``data`` setting: a folder, or ``bundled``.

    Raises:
        InputError: an empty or missing folder, or a package without its photographs.
    """
    if source != BUNDLED:
        return list_photos(Path(source))
    paths = []
    for package, name in BUNDLED_VALIDATION if validation else BUNDLED_TRAIN:
        path = Path(str(files(package) / name))
        if not path.is_file():
            raise InputError(path, f"the photograph {name} that {package} carries", "no file")
        paths.append(path)
    return paths


def read_inputs(
    paths: Sequence[Path], scale: int, smallest: int, unpaired_shrink: Sequence[int] = ()
) -> list[tuple[str, Photo, Photo | None]]:
    """Decode photographs to (name, low, high), with ``high`` None where there is no truth.

    Args:
        scale: how much smaller ``low`` is than the photograph.
        smallest: the shortest side in low-resolution pixels that is of use.
        unpaired_shrink: also use the photograph shrunk by these factors as an input.

    Raises:
        InputError: a file that cannot be read, or a photograph that is too small.
    """
    inputs: list[tuple[str, Photo, Photo | None]] = []
    for path in paths:
        photo = read_photo(path)
        need = smallest * max((scale, *unpaired_shrink))
        if min(photo.shape[:2]) < need:
            size = f"{photo.shape[1]}x{photo.shape[0]}"
            raise InputError(path, f"a photograph of at least {need}x{need} pixels", size)
        high = crop_to_multiple(photo, scale)
        inputs.append((path.name, downscale(high, scale), high))
        for factor in unpaired_shrink:
            low = downscale(crop_to_multiple(photo, factor), factor)
            inputs.append((f"{path.name} / {factor}", low, None))
    return inputs


def with_teacher(
    inputs: Sequence[tuple[str, Photo, Photo | None]],
    answer: Callable[[int, Photo], Photo],
) -> list[Pair]:
    """Complete the inputs by ``answer(index, low)``, the teacher's cached or computed output."""
    pairs = []
    for index, (name, low, high) in enumerate(inputs):
        taught = answer(index, low)
        pairs.append(Pair(name, low, taught if high is None else high, taught))
    return pairs


def to_tensor(photos: Sequence[Photo]) -> Tensor:
    """Equal-sized images as (N, 3, H, W) in 0..1, channels last in memory."""
    batch = torch.from_numpy(np.stack([np.ascontiguousarray(p) for p in photos]))
    return batch.permute(0, 3, 1, 2).float().div_(255)


def to_photo(output: Tensor) -> Photo:
    """One (3, H, W) output in 0..1 as an 8-bit image; out-of-range values are clipped."""
    array: Photo = output.float().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    return array


class CropSampler:
    """Random crops, turned and flipped; what is drawn depends on the seed and the step only."""

    def __init__(self, pairs: Sequence[Pair], batch: int, crop: int, seed: int) -> None:
        self.pairs = list(pairs)
        self.batch = batch
        self.crop = crop
        self.seed = seed
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
        turns, flip = int(rng.integers(4)), bool(rng.integers(2))

        def cut(photo: Photo, zoom: int) -> Photo:
            part = photo[top * zoom : (top + size) * zoom, left * zoom : (left + size) * zoom]
            part = np.rot90(part, turns)
            return part[:, ::-1] if flip else part

        low, high, teacher = cut(pair.low, 1), cut(pair.high, scale), cut(pair.teacher, scale)
        return replace(pair, low=low, high=high, teacher=teacher)
