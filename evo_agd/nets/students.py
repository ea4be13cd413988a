"""Student files: the architecture as YAML, the weights as safetensors, and back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file, save
from torch import nn

from evo_agd.errors import InputError
from evo_agd.files import write_bytes, write_text
from evo_agd.nets.super_resolution import SRStudent
from evo_agd.space.super_resolution import Block, SRArchitecture

ARCHITECTURE, WEIGHTS = "architecture.yaml", "student.safetensors"


def write_student(folder: Path, name: str, architecture: SRArchitecture, net: nn.Module) -> None:
    """``architecture.yaml`` and ``student.safetensors`` in a folder."""
    text = asdict(architecture)
    text["blocks"] = [dict(b) for b in text["blocks"]]
    value = {"id": name, "task": "super_resolution", **text}
    write_text(folder / ARCHITECTURE, yaml.safe_dump(value, sort_keys=False))
    write_weights(folder / WEIGHTS, net)


def write_weights(path: Path, net: nn.Module) -> None:
    """A network's weights as safetensors."""
    write_bytes(path, save({k: v.contiguous() for k, v in net.state_dict().items()}))


def read_architecture(path: Path) -> SRArchitecture:
    """The architecture in an ``architecture.yaml``.

    Raises:
        InputError: not such a file.
    """
    try:
        raw: dict[str, Any] = yaml.safe_load(path.read_text())
        blocks = tuple(Block(**b) for b in raw["blocks"])
        keys = ("scale", "features", "upsampler", "upsampler_width")
        return SRArchitecture(blocks=blocks, **{k: raw[k] for k in keys})
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise InputError(path, "an architecture.yaml of a student", error) from error


def read_student(folder: Path) -> SRStudent:
    """A student from its folder.

    Raises:
        InputError: a file is missing or does not fit.
    """
    net = SRStudent(read_architecture(folder / ARCHITECTURE))
    try:
        net.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, RuntimeError) as error:
        raise InputError(folder / WEIGHTS, "the weights of this architecture", error) from error
    return net
