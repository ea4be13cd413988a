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
from evo_agd.nets.build import Architecture, Student, student_of
from evo_agd.space.cells import CellArchitecture
from evo_agd.space.layers import Layer
from evo_agd.space.super_resolution import Block, SRArchitecture
from evo_agd.space.translation import TranslationArchitecture

ARCHITECTURE, WEIGHTS = "architecture.yaml", "student.safetensors"


def write_student(folder: Path, name: str, net: Student) -> None:
    """``architecture.yaml`` and ``student.safetensors`` of a (folded) student in a folder.

    Args:
        name: the id of the member, which names blocks as they were before folding.
    """
    architecture = net.architecture
    task = "image_translation" if architecture.scale == 1 else "super_resolution"
    value = {"id": name, "task": task, **_plain(asdict(architecture))}
    write_text(folder / ARCHITECTURE, yaml.safe_dump(value, sort_keys=False))
    write_weights(folder / WEIGHTS, net)


def _plain(value: Any) -> Any:
    """Tuples as lists, all the way down, for YAML."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def write_weights(path: Path, net: nn.Module) -> None:
    """A network's weights as safetensors."""
    write_bytes(path, save({k: v.contiguous() for k, v in net.state_dict().items()}))


def _architecture(raw: dict[str, Any]) -> Architecture:
    if raw["task"] == "image_translation":
        full, half, quarter = raw["stem"]
        up, top = raw["header"]
        layers = tuple(Layer(**layer) for layer in raw["layers"])
        frozen = raw.get("frozen", False)
        return TranslationArchitecture((full, half, quarter), layers, (up, top), frozen)
    if "cells" in raw:
        cells = tuple(tuple(Layer(**layer) for layer in cell) for cell in raw["cells"])
        return CellArchitecture(raw["scale"], raw["features"], cells)
    blocks = tuple(Block(**b) for b in raw["blocks"])
    keys = ("scale", "features", "upsampler", "upsampler_width")
    return SRArchitecture(blocks=blocks, **{k: raw[k] for k in keys})


def read_architecture(path: Path) -> Architecture:
    """The architecture in an ``architecture.yaml``.

    Raises:
        InputError: not such a file.
    """
    try:
        return _architecture(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise InputError(path, "an architecture.yaml of a student", error) from error


def read_student(folder: Path) -> Student:
    """A student from its folder.

    Raises:
        InputError: a file is missing or does not fit.
    """
    net = student_of(read_architecture(folder / ARCHITECTURE))
    try:
        net.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, RuntimeError) as error:
        raise InputError(folder / WEIGHTS, "the weights of this architecture", error) from error
    return net
