"""Teachers: generators of every kind, recognised by what they are and brought to one shape."""

from __future__ import annotations

import logging
import re
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError

from evo_agd.config.settings import BUNDLED
from evo_agd.errors import InputError
from evo_agd.nets.foreign import (
    FUNCTION,
    Foreign,
    count,
    digest_of,
    open_function,
    open_onnx,
    open_torchscript,
    ready,
)
from evo_agd.nets.probing import Symmetric, fit, reason_of, takes_symmetric
from evo_agd.nets.published import (
    LumaEnlarger,
    State,
    read_state,
    recognise_cyclegan,
    recognise_vdsr,
)
from evo_agd.nets.students import ARCHITECTURE, WEIGHTS, read_student

TILE = 128  # input pixels that go through the teacher at once; bounds memory
OVERLAP = 16  # input pixels of context around a tile
RANGES = ("auto", "unit", "symmetric")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Teacher:
    """A generator to learn from.

    ``net`` maps (N, 3, H, W) in 0..1 to (N, 3, H * scale, W * scale) in 0..1 (not clamped), RGB,
    H and W from 8; ``architecture`` is for people to read; ``digest`` names its content in 16 hex
    digits.
    """

    net: Callable[[torch.Tensor], torch.Tensor]
    architecture: str
    params: int
    digest: str
    tiled: bool = True
    """False for scale 1: normalisation over the picture must see it whole."""

    def answer(self, low: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
        """Its output for an image (h, w, 3), in tiles where it may be, rounded to 8 bits."""
        height, width = low.shape[:2]
        step = TILE if self.tiled else max(height, width)
        result = np.empty((height * scale, width * scale, 3), np.uint8)
        for top in range(0, height, step):
            for left in range(0, width, step):
                rows = slice(max(0, top - OVERLAP), min(height, top + step + OVERLAP))
                columns = slice(max(0, left - OVERLAP), min(width, left + step + OVERLAP))
                x = torch.from_numpy(low[rows, columns].copy()).permute(2, 0, 1)[None]
                with torch.inference_mode():
                    y = self.net((x.float() / 255).contiguous(memory_format=torch.channels_last))
                tile = y[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
                bottom, right = min(height, top + step), min(width, left + step)
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


def load_teacher(source: str, scale: int, *, value_range: str = "auto") -> Teacher:
    """Recognise a teacher and make it ready, in FP32 on the CPU.

    Args:
        source: ``bundled``; a checkpoint that spandrel recognises, or of CycleGAN's generator or
            VDSR in their published key layout; an ``.onnx`` file; a TorchScript file; the folder
            of a student; ``package.module:function`` or ``path/to/file.py:function``, which is
            called without arguments and returns a module or a callable from tensor to tensor.
        scale: output size / input size.
        value_range: what the network itself takes and gives, ``unit`` (0..1) or ``symmetric``
            (-1..1); ``auto`` knows it of a published layout and otherwise asks the network.

    Raises:
        InputError: no such file, nothing that is recognised, another scale or channel count.
    """
    if value_range not in RANGES:
        raise InputError("teacher_range", f"one of {', '.join(RANGES)}", value_range)
    found = _open(source, scale)
    network = found.network
    net = fit(network.net, scale, source) if found.fits else network.net
    values, reason = value_range, "as it was set"
    if value_range == "auto":
        values, reason = found.values, "as all of its kind"
    elif value_range == "symmetric" and isinstance(net, LumaEnlarger):
        raise InputError(source, "teacher_range auto or unit for a VDSR", value_range)
    if values == "auto":
        values, reason = "unit", "as super-resolution usually does"
        if scale == 1:
            values, reason = ("symmetric" if takes_symmetric(net) else "unit"), "by its answers"
    log.info("%s: %s, its values are %s, %s", source, network.architecture, values, reason)
    if values == "symmetric":
        net = Symmetric(net)
    return Teacher(net, network.architecture, network.params, network.digest, tiled=scale != 1)


@dataclass(frozen=True)
class _Found:
    """A network before its values are brought to 0..1."""

    network: Foreign
    values: str
    """``unit``, ``symmetric``, or ``auto`` where the kind of file does not say."""
    fits: bool = True
    """Whether its sizes and its scale remain to be found."""


def _open(source: str, scale: int) -> _Found:
    """What is behind a ``teacher`` setting."""
    path = teacher_path(source)
    if path.is_dir():
        return _Found(_open_student(path), "unit")
    if not path.is_file():
        if FUNCTION.fullmatch(source):
            return _Found(open_function(source), "auto")
        raise InputError(path, "a teacher checkpoint", "no such file")
    if path.suffix.lower() == ".onnx":
        return _Found(open_onnx(path), "auto")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the loaders' own, about files that are not theirs
        return _open_checkpoint(path, scale)


def _open_student(folder: Path) -> Foreign:
    if not (folder / ARCHITECTURE).is_file():
        raise InputError(folder, f"a file, or a student's folder with {ARCHITECTURE}", "a folder")
    net = ready(read_student(folder))
    digest = digest_of(*((folder / name).read_bytes() for name in (ARCHITECTURE, WEIGHTS)))
    return Foreign(net, f"student {folder.name}", count(net), digest)


def _open_checkpoint(path: Path, scale: int) -> _Found:
    """A checkpoint by its content: spandrel's architectures, published layouts, TorchScript."""
    digest = digest_of(path.read_bytes())
    try:
        model = ModelLoader(device=torch.device("cpu")).load_from_file(path)
    except UnsupportedModelError:
        spandrel = ""
    except Exception as error:  # spandrel passes on whatever unpickling or parsing raised
        spandrel = f", of which spandrel says {reason_of(error)}"
    else:
        return _Found(_of_spandrel(path, model, scale, digest), "unit", fits=False)
    try:
        state = read_state(path)
    except Exception as error:  # safetensors' own and torch's, and those of a broken zip file
        reason = reason_of(error)
    else:
        published = _of_published(path, state, scale, digest)
        if published is not None:
            return published
        reason = f"keys {', '.join([*state][:3])}, ...{spandrel}" if state else "no tensors"
    try:
        return _Found(open_torchscript(path), "auto")
    except RuntimeError as error:
        if _is_torchscript(path):
            reason = reason_of(error)
        expected = "a checkpoint of an architecture that spandrel recognises, of CycleGAN's"
        expected += " generator or VDSR with their published keys, or a TorchScript file"
        raise InputError(path, expected, reason) from error


def _is_torchscript(path: Path) -> bool:
    """Whether a file has TorchScript's own part in it, though it may not load."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _of_spandrel(path: Path, model: object, scale: int, digest: str) -> Foreign:
    if not isinstance(model, ImageModelDescriptor):
        raise InputError(path, "a generator from image to image", type(model).__name__)
    if model.scale != scale:
        raise InputError(path, f"a teacher of scale {scale}", f"scale {model.scale}")
    if (model.input_channels, model.output_channels) != (3, 3):
        channels = f"{model.input_channels} to {model.output_channels} channels"
        raise InputError(path, "a teacher from RGB to RGB", channels)
    ready(model.model)
    # The descriptor, not the bare module: it pads to the sizes that an architecture asks for.
    return Foreign(model, model.architecture.name, count(model.model), digest)


def _of_published(path: Path, state: State, scale: int, digest: str) -> _Found | None:
    cyclegan = recognise_cyclegan(state, path)
    if cyclegan is not None:
        name = f"CycleGAN ResNet-{cyclegan.blocks}"
        return _Found(Foreign(ready(cyclegan), name, count(cyclegan), digest), "symmetric")
    vdsr = recognise_vdsr(state, path)
    if vdsr is None:
        return None
    named = re.search(r"(?<![a-z0-9])(?:x([2-9])|([2-9])x)(?![a-z0-9])", path.stem.lower())
    if named and int(named[1] or named[2]) != scale:  # the weights fit any scale, the name tells
        raise InputError(path, f"a teacher of scale {scale}", f"scale {named[1] or named[2]}")
    if scale == 1:
        raise InputError(path, "a teacher of scale 1", "VDSR, which enlarges")
    enlarger = LumaEnlarger(ready(vdsr), scale)
    return _Found(Foreign(enlarger, "VDSR", count(vdsr), digest), "unit", fits=False)
