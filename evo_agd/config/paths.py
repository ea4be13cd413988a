"""The settings that name files and folders, made absolute."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from evo_agd.config.settings import BUNDLED, MEASURED

PLACES = {
    "": ("teacher", "latency_table", "latency_int8_table"),
    "data": ("train", "validation", "train_low", "validation_low"),
    "features": ("weights",),
    "lpips": ("weights",),
    "judge": ("inception",),
    "search": ("start_front",),
}
NO_FILES = (BUNDLED, MEASURED)
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
_FUNCTION = re.compile(r"(?P<code>[^:]+\.py|[\w.]+):(?P<name>\w+)")


def _expanded(text: str) -> str:
    """``${NAME}`` and ``${NAME:-default}`` replaced as a shell does."""
    return _VARIABLE.sub(lambda m: os.environ.get(m[1]) or (m[2] or ""), text)


def _absolute(text: str, folder: Path) -> str:
    text = _expanded(text)
    if text in NO_FILES:
        return text
    function = _FUNCTION.fullmatch(text)
    if function is None:
        return str((folder / Path(text).expanduser()).resolve())
    if function["code"].endswith(".py"):
        return f"{_absolute(function['code'], folder)}:{function['name']}"
    return text  # a module of the Python path


def resolve_paths(value: dict[str, Any], folder: Path) -> None:
    """Make the paths in a mapping of settings absolute, as seen from ``folder``."""
    for section, keys in PLACES.items():
        inside = value.get(section) if section else value
        if isinstance(inside, dict):
            for key in keys:
                if isinstance(inside.get(key), str):
                    inside[key] = _absolute(inside[key], folder)
    budgets = value.get("budgets")
    for budget in budgets.values() if isinstance(budgets, dict) else ():
        if isinstance(budget, dict):
            resolve_paths(budget, folder)
