"""Where a search stands at the end of a generation, and its two files.

``history.csv`` has a row for each evaluated architecture, ``state.json`` everything else that going
on needs. The history is written first: a kill between the two leaves rows that the state does not
know of, which are dropped and evaluated again, with the same result.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from evo_agd.errors import InputError
from evo_agd.evolve.candidates import Candidate
from evo_agd.files import write_text
from evo_agd.space.genes import Genome

OWN_COLUMNS = ("generation", "id", "genome", "violation", "seconds", "failed", "raced_out")


@dataclass(frozen=True)
class Brood:
    """Genomes that are scored together, bred when ``known`` architectures had been evaluated."""

    genomes: tuple[Genome, ...]
    known: int


@dataclass
class SearchState:
    """Everything that a search is at the end of a generation."""

    generation: int = 0
    population: list[str] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    pending: list[Brood] = field(default_factory=list)
    """Bred and not integrated yet."""
    generator: dict[str, Any] = field(default_factory=dict)
    volumes: list[tuple[int, float]] = field(default_factory=list)
    """Evaluations so far and hypervolume, per generation."""
    box: tuple[list[float], list[float]] | None = None
    """Reference and ideal point of the hypervolume, fixed by the first generation."""

    def to_json(self) -> str:
        """All but the candidates themselves."""
        value = {k: v for k, v in self.__dict__.items() if k not in ("candidates", "pending")}
        pending = [{"genomes": brood.genomes, "known": brood.known} for brood in self.pending]
        return json.dumps(value | {"evaluated": len(self.candidates), "pending": pending})

    @classmethod
    def read(cls, history: Path, state: Path) -> SearchState | None:
        """What a :class:`Store` left; None if the search has no generation behind it.

        Raises:
            InputError: files that do not belong together, or are damaged.
        """
        if not state.exists():
            return None
        try:
            raw = json.loads(state.read_text())
            with history.open(newline="") as file:
                rows = [row for _, row in zip(range(raw.pop("evaluated")), csv.DictReader(file))]  # noqa: B905
            candidates = [_candidate(row) for row in rows]
            known = {c.id for c in candidates}
            if not known.issuperset(raw["population"]):
                raise ValueError("a population that the history does not have")
            raw["pending"] = [
                Brood(tuple(map(tuple, b["genomes"])), b["known"]) for b in raw["pending"]
            ]
            raw["volumes"] = [(int(n), float(v)) for n, v in raw["volumes"]]
            raw["box"] = raw["box"] and (raw["box"][0], raw["box"][1])
            return cls(candidates=candidates, **raw)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(state, "the state of this search", error) from error


class Store:
    """Keeps the two files of a search up to date, but for the last second.

    The search would end the same with any of its states, and writing each of them was a fifth of
    the driver's work.
    """

    def __init__(self, history: Path, state: Path, seconds: float = 1.0) -> None:
        self.history, self.state = history, state
        self.lines = Lines()
        self.seconds = seconds
        self.last = -math.inf

    def __call__(self, state: SearchState) -> None:
        """Write, where the files are older than that."""
        if monotonic() - self.last >= self.seconds:
            self.write(state)

    def write(self, state: SearchState) -> None:
        """Replace both files now, each whole."""
        write_text(self.history, self.lines.text(state.candidates))
        write_text(self.state, state.to_json())
        self.last = monotonic()


class Lines:
    """The history as CSV, a row per evaluated architecture; what it has no figure of is empty.

    It is written anew with each generation, but only what is new is made: at a thousand
    architectures making all of it took as long as breeding.
    """

    def __init__(self) -> None:
        self.names: dict[str, None] = {}
        self.made: list[str] = []

    def text(self, candidates: Sequence[Candidate]) -> str:
        """All of it; ``candidates`` are those of last time and more."""
        if not candidates:
            return ""
        fresh = candidates[len(self.made) :]
        names = dict.fromkeys(name for c in fresh for name in c.values)
        if not names.keys() <= self.names.keys():
            self.names |= names
            self.made.clear()
            fresh = candidates
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        for c in fresh:
            writer.writerow(self._row(c))
            self.made.append(buffer.getvalue())
            buffer.seek(0)
            buffer.truncate()
        writer.writerow([*OWN_COLUMNS[:3], *self.names, *OWN_COLUMNS[3:]])
        return buffer.getvalue() + "".join(self.made)

    def _row(self, c: Candidate) -> list[Any]:
        figures = [c.values.get(name, "") for name in self.names]
        front = [c.generation, c.id, " ".join(map(str, c.genome)), *figures]
        return [*front, c.violation, round(c.seconds, 4), c.failed, int(c.raced_out)]


def _candidate(row: dict[str, str]) -> Candidate:
    figures = {k: _number(v) for k, v in row.items() if k not in OWN_COLUMNS and v != ""}
    return Candidate(
        row["id"],
        tuple(map(int, row["genome"].split())),
        figures,
        float(row["violation"]),
        int(row["generation"]),
        float(row["seconds"]),
        row["failed"],
        bool(int(row["raced_out"])),
    )


def _number(text: str) -> float:
    """As it was: counts are integers."""
    return int(text) if text.lstrip("-").isdecimal() else float(text)


def scored(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those with all their figures: neither failed nor left behind in a race."""
    return [c for c in candidates if not c.failed and not c.raced_out]
