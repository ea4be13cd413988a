"""What lies where in a run directory, and who may write there."""

from __future__ import annotations

import csv
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evo_agd.config import Settings, dump, load
from evo_agd.errors import InputError
from evo_agd.files import write_text

# Settings of the students that may differ when a run is resumed: who, and who is stopped.
CHOICE = ("count", "ids", "rungs", "margin")


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved settings."""
        return self.path / "config.yaml"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def teacher(self) -> Path:
        """The teacher's cached outputs."""
        return self.path / "teacher"

    @property
    def supernet(self) -> Path:
        """The trained supernet; there when its stage is done."""
        return self.path / "supernet.safetensors"

    @property
    def supernet_state(self) -> Path:
        """Where a supernet's training stands, while it goes on."""
        return self.path / "supernet.state"

    @property
    def history(self) -> Path:
        """A row per evaluated architecture."""
        return self.path / "search" / "history.csv"

    @property
    def search_state(self) -> Path:
        """All that resuming the search needs."""
        return self.path / "search" / "state.json"

    @property
    def front(self) -> Path:
        """The Pareto front; there when the search is done."""
        return self.path / "front.json"

    @property
    def students(self) -> Path:
        return self.path / "students"

    @property
    def retraining(self) -> Path:
        """Weights and states of students that are not complete yet, and Ray Tune's own files."""
        return self.path / "retraining"

    @property
    def outcomes(self) -> Path:
        """What became of each member whose retraining has ended."""
        return self.path / "students.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def sheet(self) -> Path:
        """What every front member makes of a few pictures."""
        return self.path / "sheet.png"

    def student(self, name: str) -> Path:
        """The folder of one retrained member; there when it is complete."""
        return self.students / name

    @property
    def inputs(self) -> Path:
        """What the run was made from: a digest of its photographs and its teacher."""
        return self.path / "inputs.txt"

    def check(self) -> None:
        """Raise an :class:`InputError` if this is not a run directory."""
        if not self.config.is_file():
            raise InputError(self.path, "a run directory (with a config.yaml)", _what(self.path))

    def check_inputs(self, digest: str) -> None:
        """Raise an :class:`InputError` if photographs or teacher are not those of the run."""
        if not self.inputs.is_file() or self.inputs.read_text().strip() != digest:
            found = "others (or inputs.txt is missing)"
            raise InputError(self.path, "the photographs and the teacher that it began with", found)

    def settings(self) -> Settings:
        """The settings that the run was made with.

        Raises:
            InputError: this is not a run directory, or its configuration is damaged.
        """
        self.check()
        return load(self.config)

    def read_front(self) -> list[dict[str, Any]]:
        """The members of the front, cheapest first.

        Raises:
            InputError: the search has not ended yet, or the file is damaged.
        """
        if not self.front.is_file():
            raise InputError(self.path, "a run whose search is done", "no front.json")
        try:
            members: list[dict[str, Any]] = json.loads(self.front.read_text())
        except ValueError as error:
            raise InputError(self.front, "JSON", error) from error
        return members

    def read_outcomes(self) -> dict[str, dict[str, Any]]:
        """Members whose retraining has ended, by id, cheapest first.

        Each is what ``front.json`` has, with its ``scores`` by step and, if it was ``stopped``, the
        step, by whom, and both of their PSNRs there.

        Raises:
            InputError: the file is damaged.
        """
        if not self.outcomes.is_file():
            return {}
        try:
            return {m["id"]: m for m in json.loads(self.outcomes.read_text())}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(self.outcomes, "what became of students", error) from error

    def read_history(self) -> list[dict[str, str]]:
        """The rows of the history, all values as text; none before the first generation."""
        if not self.history.exists():
            return []
        with self.history.open(newline="") as file:
            return list(csv.DictReader(file))


def _what(path: Path) -> str:
    if not path.exists():
        return "no such folder"
    return "a folder without config.yaml" if path.is_dir() else "a file"


def _first_difference(old: Any, new: Any, key: str = "") -> str | None:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            found = _first_difference(
                old.get(name), new.get(name), f"{key}.{name}" if key else name
            )
            if found:
                return found
        return None
    return None if old == new else f"{key} {new} here, {old} there"


def start(path: Path, settings: Settings, inputs: str) -> RunDirectory:
    """Make a run directory for these settings and this digest of inputs.

    Raises:
        InputError: something else is in the way, or the place cannot be written to.
    """
    run = RunDirectory(path)
    if run.config.exists():
        there = yaml.safe_load(run.config.read_text())
        difference = _first_difference(there, yaml.safe_load(dump(settings)))
        if difference:
            found = f"a run of another configuration ({difference})"
            raise InputError(path, "a folder without a run in it", found)
        raise InputError(path, "a folder without a run in it, or --resume", "a run")
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(
                path, "a new or empty folder", _what(path).replace("a folder", "files")
            )
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(path, "a place that can be written to", error.strerror) from error
    write_text(run.inputs, inputs + "\n")
    write_text(run.config, dump(settings))
    return run


def resume(path: Path, settings: Settings, inputs: str) -> RunDirectory:
    """Take up a run directory, if it was made with the same settings and inputs.

    The number of workers may differ: no figure depends on it. So may the choice of students, for
    which see :func:`choose`.

    Raises:
        InputError: nothing to resume here, or a run of another configuration or other inputs.
    """
    run = RunDirectory(path)
    run.check()
    old, new = (yaml.safe_load(dump(s)) for s in (run.settings(), settings))
    for value in (old, new):
        value["compute"].pop("workers")
        for name in CHOICE:
            value["students"].pop(name)
    difference = _first_difference(old, new)
    if difference:
        raise InputError(path, "a run of the same configuration", f"another ({difference})")
    run.check_inputs(inputs)
    return run


def choose(run: RunDirectory, settings: Settings) -> None:
    """Let a run that is taken up have the choice of students of these settings.

    Sheet and page are of another choice and go first, so that they are made again whatever happens.

    Raises:
        InputError: the run cannot be written to.
    """
    old = run.settings()
    if old.students == settings.students:
        return
    for path in (run.report, run.sheet):
        path.unlink(missing_ok=True)
    write_text(run.config, dump(old.model_copy(update={"students": settings.students})))


@contextmanager
def locked(run: RunDirectory) -> Iterator[None]:
    """Keep a second process out of the run while this one writes.

    Raises:
        InputError: another process is at it, or the folder cannot be written to.
    """
    try:
        handle = os.open(run.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(run.path, "a place that can be written to", error.strerror) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            found = "another process that is running it"
            raise InputError(run.path, "a run that nobody else works on", found) from error
        yield
    finally:
        os.close(handle)
