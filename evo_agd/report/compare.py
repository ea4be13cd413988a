"""A comparison beside an answer: the input, bicubic, the teacher, the student."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import uniform_filter

from evo_agd.train.images import Photo, upscale

if TYPE_CHECKING:  # it loads torch
    from evo_agd.nets.teachers import Teacher

SIDE = 384  # of a view, in output pixels at most
CONTEXT = 64  # input pixels around a view that are enlarged with it
TRANSLATED = 512  # of the part that a teacher of scale 1 sees, which wants whole pictures
GAP = 6
CAPTION = 18


def most_detailed(photo: Photo, side: int) -> tuple[int, int]:
    """Top left corner of the square of ``side`` with the strongest edges; the first of equals.

    Args:
        photo: (h, w, 3).
    """
    height, width = photo.shape[:2]
    step = max(1, min(height, width) // 512)  # of a large picture every few pixels will do
    grey = photo[::step, ::step].mean(axis=2, dtype=np.float32)
    edges = np.abs(np.diff(grey, axis=0, prepend=grey[:1]))
    edges += np.abs(np.diff(grey, axis=1, prepend=grey[:, :1]))
    down, across = min(side, height), min(side, width)
    size = (max(1, down // step), max(1, across // step))
    strength = uniform_filter(edges, size, mode="constant")
    # The filter looks half its size to the left; only squares inside the picture count.
    inside = strength[
        size[0] // 2 : size[0] // 2 + (height - down) // step + 1,
        size[1] // 2 : size[1] // 2 + (width - across) // step + 1,
    ]
    top, left = np.unravel_index(int(np.round(inside, 3).argmax()), inside.shape)
    return min(int(top) * step, height - down), min(int(left) * step, width - across)


def _around(start: int, stop: int, side: int, context: int) -> tuple[int, int]:
    return max(0, start - context), min(side, stop + context)


def compared(low: Photo, output: Image.Image, scale: int, teacher: Teacher | None) -> Image.Image:
    """The sheet: views of at most 384x384 pixels in a row, of a larger picture its busiest part.

    Args:
        low: the input (h, w, 3).
        output: the student's answer to it.
        teacher: of the same scale; one of scale 1 sees some 512x512 pixels around the view.
    """
    side = max(1, SIDE // scale)
    top, left = most_detailed(low, side)
    height, width = low.shape[:2]
    bottom, right = min(top + side, height), min(left + side, width)
    context = CONTEXT if scale > 1 else max(CONTEXT, (TRANSLATED - side) // 2)
    rows, columns = _around(top, bottom, height, context), _around(left, right, width, context)
    part = low[slice(*rows), slice(*columns)]
    box = [x * scale for x in (left, top, right, bottom)]
    inside = (
        slice((top - rows[0]) * scale, (bottom - rows[0]) * scale),
        slice((left - columns[0]) * scale, (right - columns[0]) * scale),
    )
    view = low[top:bottom, left:right]
    views = [("input", Image.fromarray(view.repeat(scale, axis=0).repeat(scale, axis=1)))]
    if scale > 1:
        views.append(("bicubic", Image.fromarray(upscale(part, scale)[inside])))
    if teacher is not None:
        views.append(("teacher", Image.fromarray(teacher.answer(part, scale)[inside])))
    student = output.crop((box[0], box[1], box[2], box[3])).convert("RGB")
    views.append(("student", student))
    return _in_a_row(views)


def _in_a_row(views: list[tuple[str, Image.Image]]) -> Image.Image:
    """Views of one size with their captions."""
    width, height = views[0][1].size
    column = max(width, 64) + GAP  # room for a caption above a tiny picture
    sheet = Image.new("RGB", (GAP + len(views) * column, CAPTION + height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (caption, view) in enumerate(views):
        left = GAP + index * column
        draw.text((left, 3), caption, fill="black")
        sheet.paste(view, (left, CAPTION))
    return sheet
