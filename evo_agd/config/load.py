"""From a YAML file and ``--set`` to :class:`Settings`, with errors that name file, line and key."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from evo_agd.config.paths import resolve_paths
from evo_agd.config.settings import Settings, settings_class
from evo_agd.errors import InputError

DEFAULT = "sr_x4_small.yaml"
Key = tuple[str | int, ...]


def shipped(name: str) -> Path:
    """A search space that travels with the package, or in the checkout beside it."""
    inside = Path(str(files("evo_agd"))) / "search_spaces" / name
    return (
        inside if inside.exists() else Path(str(files("evo_agd"))).parent / "search_spaces" / name
    )


def _found(name: Path, folder: Path) -> Path:
    """The file in this folder, or the shipped one where there is none and only a name is given."""
    path, own = folder / name, shipped(name.name)
    return own if len(name.parts) == 1 and not path.exists() and own.exists() else path


def _lines(node: yaml.Node | None, key: Key, into: dict[Key, int]) -> None:
    if node is None:
        return
    into.setdefault(key, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            into[(*key, name.value)] = name.start_mark.line + 1
            _lines(value, (*key, name.value), into)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _lines(value, (*key, index), into)


def _read(path: Path, seen: tuple[Path, ...] = ()) -> tuple[dict[str, Any], dict[Key, str]]:
    """The mapping in a file merged over the one it extends, and where each key stands."""
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
    except OSError as error:
        raise InputError(path, "a search-space YAML file", error.strerror) from error
    except UnicodeDecodeError as error:
        raise InputError(path, "text in UTF-8", str(error)) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: 2024-13-45 is no date
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise InputError(where, "YAML", getattr(error, "problem", None) or error) from error
    if not isinstance(value, dict):
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise InputError(path, "a mapping of settings", found)
    lines: dict[Key, int] = {}
    _lines(node, (), lines)
    places = {key: f"{path}:{line}" for key, line in lines.items()}
    resolve_paths(value, path.resolve().parent)
    parent = value.pop("extends", None)
    if parent is None:
        return value, places
    parent_path = _found(Path(str(parent)), path.parent).resolve()
    if parent_path in (*seen, path.resolve()):
        raise InputError(places[("extends",)], "a file that does not extend this one", parent)
    base, base_places = _read(parent_path, (*seen, path.resolve()))
    return _merged(base, value), base_places | places


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        result[key] = _merged(typing.cast(dict[str, Any], old), value) if both else value
    return result


def _apply(value: dict[str, Any], places: dict[Key, str], assignment: str) -> None:
    name, equals, text = assignment.partition("=")
    where = f"--set {assignment}"
    if not equals or not name:
        raise InputError(where, "KEY=VALUE", "no '='" if not equals else "no key")
    try:
        new = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(where, "a YAML value", getattr(error, "problem", error)) from error
    *outer, last = name.split(".")
    inside = value
    for key in outer:
        inside = inside.setdefault(key, {})
        if not isinstance(inside, dict):
            raise InputError(where, f"{key} to be a section", inside)
    inside[last] = new
    for depth in range(1, len(outer) + 2):
        places[tuple(name.split(".")[:depth])] = where


def _take_budget(value: dict[str, Any], places: dict[Key, str], path: Path) -> dict[str, Any]:
    """The mapping with the one of its ``budgets`` that ``budget`` names merged over the rest.

    Raises:
        InputError: there is none of this name.
    """
    budgets = value.pop("budgets", None)
    if budgets is None:
        return value
    if not isinstance(budgets, dict) or not all(isinstance(b, dict) for b in budgets.values()):
        where = f"{_place(('budgets',), places, path)}: budgets"
        raise InputError(where, "a mapping from names to sections", type(budgets).__name__)
    name = value.get("budget")
    if name not in budgets:
        where = f"{_place(('budget',), places, path)}: budget"
        raise InputError(where, " or ".join(map(str, budgets)), "nothing" if name is None else name)
    for key in [k for k in places if k[:2] == ("budgets", name) and len(k) > 2]:
        places[key[2:]] = places[key]
    return _merged(value, budgets[name])


def _fields_at(key: Key, model: Any) -> list[str]:
    """The keys that the section at this place knows."""
    for part in key:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            break
        field = model.model_fields.get(str(part))
        model = field.annotation if field else None
    if isinstance(model, type) and issubclass(model, BaseModel):
        return list(model.model_fields)
    if typing.get_origin(model) is Mapping:
        return list(typing.get_args(typing.get_args(model)[0]))
    return []


def _place(key: Key, places: dict[Key, str], path: Path) -> str:
    for length in range(len(key), -1, -1):
        if key[:length] in places:
            return places[key[:length]]
    return str(path)


def _key(loc: Key) -> Key:
    """A place of pydantic's without what is no key: "[key]", the names of a union's branches."""
    return tuple(part for part in loc if re.fullmatch(r"\w+", str(part)))


def _explain(
    error: ValidationError, places: dict[Key, str], path: Path, model: type[Settings]
) -> InputError:
    """The first problem as one line."""
    first = error.errors()[0]
    key = _key(first["loc"])
    dotted = ".".join(map(str, key))
    where = _place(key, places, path) + (f": {dotted}" if dotted else "")
    kind, found = first["type"], first["input"]
    if kind == "extra_forbidden":
        known = _fields_at(key[:-1], model)
        near = difflib.get_close_matches(str(key[-1]), known, n=1, cutoff=0.5)
        expected = f"a known key (did you mean {near[0]}?)" if near else f"one of {known}"
        return InputError(where, expected, f"unknown key {key[-1]}")
    if kind == "missing":
        return InputError(where, "a value", "nothing")
    if kind == "value_error":
        expected, _, rest = str(first["ctx"]["error"]).partition(", found ")
        return InputError(where, expected, rest or found)
    # A union reports each of its branches, all at one key.
    messages = [e["msg"] for e in error.errors() if _key(e["loc"]) == key]
    message = " or ".join(m.removeprefix("Input should be ") for m in messages)
    return InputError(where, message[:1].lower() + message[1:], repr(found))


def load(path: Path | None = None, assignments: Sequence[str] = ()) -> Settings:
    """Read a search-space file (None: the embedded default), then apply ``KEY=VALUE`` overrides.

    A file that is not there, or that another extends, may be one that travels with the package.

    Folders and files named in it are relative to the file's own folder, those in an override to
    the current one.

    Raises:
        InputError: with file, line and key.
    """
    path = shipped(DEFAULT) if path is None else _found(path, Path())
    value, places = _read(path)
    for assignment in assignments:
        if assignment.partition("=")[0] == "budget":  # decides what the others override
            _apply(value, places, assignment)
    value = _take_budget(value, places, path)
    for assignment in assignments:
        _apply(value, places, assignment)
    resolve_paths(value, Path.cwd())  # what is not absolute yet came from the shell
    model = settings_class(value)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _explain(error, places, path, model) from error


def dump(settings: Settings) -> str:
    """The settings as YAML that :func:`load` reads back to the same."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, width=100)
