"""Teachers: any generator that spandrel recognises by its checkpoint."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from spandrel import ImageModelDescriptor, ModelLoader

from evo_agd.errors import InputError
from evo_agd.files import write_bytes

BUNDLED = "bundled"
TILE = 128  # input pixels that go through the teacher at once; bounds memory
OVERLAP = 16  # input pixels of context around a tile


@dataclass(frozen=True)
class Teacher:
    """A generator to learn from.

    ``net`` maps (N, 3, H, W) in 0..1 to (N, 3, H * scale, W * scale); ``digest`` names its file's
    content.
    """

    net: Callable[[torch.Tensor], torch.Tensor]
    architecture: str
    params: int
    digest: str

    def answer(self, low: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
        """Its output for an image (h, w, 3), in tiles, rounded to 8 bits."""
        height, width = low.shape[:2]
        result = np.empty((height * scale, width * scale, 3), np.uint8)
        for top in range(0, height, TILE):
            for left in range(0, width, TILE):
                rows = slice(max(0, top - OVERLAP), min(height, top + TILE + OVERLAP))
                columns = slice(max(0, left - OVERLAP), min(width, left + TILE + OVERLAP))
                x = torch.from_numpy(low[rows, columns].copy()).permute(2, 0, 1)[None]
                with torch.inference_mode():
                    y = self.net((x.float() / 255).contiguous(memory_format=torch.channels_last))
                tile = y[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
                bottom, right = min(height, top + TILE), min(width, left + TILE)
                inside = tile[
                    (top - rows.start) * scale : (bottom - rows.start) * scale,
                    (left - columns.start) * scale : (right - columns.start) * scale,
                ]
                result[top * scale : bottom * scale, left * scale : right * scale] = inside
        return result


def teacher_path(source: str) -> Path:
    """The checkpoint behind the ``teacher`` setting."""
    if source == BUNDLED:
        return Path(str(files("evo_agd") / "teachers" / "rrdb_x4_compact.safetensors"))
    return Path(source)


def load_teacher(source: str, scale: int) -> Teacher:
    """Recognise a checkpoint and make it ready, in FP32 on the CPU.

    Raises:
        InputError: no such file, no architecture that matches, or another scale or channel count.
    """
    path = teacher_path(source)
    if not path.is_file():
        raise InputError(path, "a teacher checkpoint", "no such file")
    content = path.read_bytes()
    try:
        model = ModelLoader(device=torch.device("cpu")).load_from_file(path)
    except Exception as error:  # spandrel passes on whatever unpickling or parsing raised
        reason = f"{type(error).__name__}: {error}"[:200]
        raise InputError(path, "a checkpoint that spandrel recognises", reason) from error
    if not isinstance(model, ImageModelDescriptor):
        raise InputError(path, "a generator from image to image", type(model).__name__)
    if model.scale != scale:
        raise InputError(path, f"a teacher of scale {scale}", f"scale {model.scale}")
    if (model.input_channels, model.output_channels) != (3, 3):
        channels = f"{model.input_channels} to {model.output_channels} channels"
        raise InputError(path, "a teacher from RGB to RGB", channels)
    model.model.float().eval().to(memory_format=torch.channels_last)
    params = sum(p.numel() for p in model.model.parameters())
    digest = hashlib.sha256(content).hexdigest()[:16]
    # The descriptor, not the bare module: it pads to the sizes that an architecture asks for.
    return Teacher(model, model.architecture.name, params, digest)


class TeacherCache:
    """A teacher's answers on disk, each computed once."""

    def __init__(self, folder: Path, teacher: Teacher, scale: int) -> None:
        self.folder = folder
        self.teacher = teacher
        self.scale = scale

    def answer(self, low: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The teacher's output for an input (h, w, 3), from disk if it is there."""
        key = hashlib.sha256(np.ascontiguousarray(low).tobytes() + str(low.shape).encode())
        path = self.folder / f"{self.teacher.digest}-{key.hexdigest()[:16]}.npy"
        if path.exists():
            cached: NDArray[np.uint8] = np.load(path)
            return cached
        result = self.teacher.answer(low, self.scale)
        buffer = io.BytesIO()
        np.save(buffer, result)
        write_bytes(path, buffer.getvalue())
        return result
