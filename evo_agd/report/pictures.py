"""Crops that show what the students do: input, bicubic, teacher, student, INT8, truth."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from evo_agd.deploy.onnx_file import run, session
from evo_agd.deploy.students import FP32, INT8
from evo_agd.run.directory import RunDirectory
from evo_agd.train.images import Photo, upscale
from evo_agd.train.pairs import Pair

SIDE = 160  # of a crop, in high-resolution pixels


@dataclass(frozen=True)
class Strip:
    """One place in one photograph, seen by everybody."""

    photo: str
    crops: tuple[tuple[str, str], ...]
    """(caption, data URI) from left to right."""


def data_uri(photo: Photo) -> str:
    """A PNG that lives inside the page."""
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def busiest(pair: Pair, scale: int) -> tuple[int, int]:
    """Top left corner of the crop where the truth has most that bicubic misses.

    In a translation, where the teacher changed most.
    """
    plain = upscale(np.asarray(pair.low), scale)
    missed = np.abs(np.asarray(pair.high).astype(np.int16) - plain).sum(axis=2)
    side = min(SIDE, *missed.shape)
    tops = range(0, missed.shape[0] - side + 1, side // 2)
    lefts = range(0, missed.shape[1] - side + 1, side // 2)
    return max(
        ((t, left) for t in tops for left in lefts),
        key=lambda at: int(missed[at[0] : at[0] + side, at[1] : at[1] + side].sum()),
    )


def strips(run_directory: RunDirectory, names: Sequence[str], pairs: Sequence[Pair]) -> list[Strip]:
    """One strip a validation photograph; ``names`` are the students to show."""
    found = []
    for pair in pairs:
        scale = pair.high.shape[0] // pair.low.shape[0]
        top, left = busiest(pair, scale)
        rows, columns = slice(top, top + SIDE), slice(left, left + SIDE)
        low = np.asarray(pair.low)
        views = [("input", low.repeat(scale, axis=0).repeat(scale, axis=1))]
        if scale > 1:
            views.append(("bicubic", upscale(low, scale)))
        for name in names:
            for file, kind in ((FP32, "FP32"), (INT8, "INT8")):
                model = session(run_directory.student(name) / file, threads=1)
                views.append((f"{name} {kind}", run(model, low)))
        views.append(("teacher", np.asarray(pair.teacher)))
        if scale > 1:
            views.append(("photograph", np.asarray(pair.high)))
        crops = tuple((caption, data_uri(view[rows, columns])) for caption, view in views)
        found.append(Strip(pair.name, crops))
    return found
