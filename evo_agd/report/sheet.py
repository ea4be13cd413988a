"""``sheet.png``: what every member of the front makes of a few validation inputs, side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from evo_agd.config import Settings
from evo_agd.deploy.onnx_file import run as run_model
from evo_agd.deploy.onnx_file import session
from evo_agd.deploy.students import FP32
from evo_agd.files import write_bytes
from evo_agd.nets.build import space_of, supernet_of
from evo_agd.report.table import Row, front_rows
from evo_agd.run.directory import RunDirectory
from evo_agd.train.images import Photo
from evo_agd.train.pairs import Pair, to_photo, to_tensor

PICTURES = 6
MEMBERS = 16  # columns; more are thinned out evenly
SIDE = 160  # of a picture on the sheet, in pixels
CAPTION = 28


def _thinned(rows: Sequence[Row]) -> list[Row]:
    """At most ``MEMBERS`` of the front: all students, and others spread evenly."""
    others = [r for r in rows if not r["student"]]
    room = max(0, MEMBERS - (len(rows) - len(others)))
    kept = {others[i * len(others) // room]["id"] for i in range(room)} if others and room else ()
    return [r for r in rows if r["student"] or r["id"] in kept]


def _small(photo: Photo) -> Image.Image:
    height, width = photo.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS)


def write_sheet(run: RunDirectory, settings: Settings, pairs: Sequence[Pair]) -> None:
    """One row a validation picture: the input, the teacher's output, that of each front member.

    Retrained members are shown as they are deployed, the others as the supernet has them.
    """
    pairs = pairs[:PICTURES]
    columns: list[tuple[str, list[Photo]]] = [
        ("input", [np.asarray(p.low) for p in pairs]),
        ("teacher", [np.asarray(p.teacher) for p in pairs]),
    ]
    space, supernet = space_of(settings), supernet_of(settings)
    supernet.load_state_dict(load_file(run.supernet))
    for row in _thinned(front_rows(run)):
        caption = f"{row['gmacs']:.2f} GMACs\n" + ("retrained" if row["student"] else "supernet")
        if row["student"]:
            model = session(run.student(row["id"]) / FP32, threads=1)
            outputs = [run_model(model, np.asarray(p.low)) for p in pairs]
        else:
            path: Any = space.parse(row["id"])
            net = supernet.cut(path).eval()
            with torch.inference_mode():
                outputs = [to_photo(net(to_tensor([np.asarray(p.low)]))[0]) for p in pairs]
        columns.append((caption, outputs))
    sheet = Image.new("RGB", (len(columns) * SIDE, CAPTION + len(pairs) * SIDE), "white")
    draw = ImageDraw.Draw(sheet)
    for x, (caption, photos) in enumerate(columns):
        draw.multiline_text((x * SIDE + 4, 2), caption, fill="black")
        for y, photo in enumerate(photos):
            sheet.paste(_small(photo), (x * SIDE, CAPTION + y * SIDE))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    write_bytes(run.sheet, buffer.getvalue())
