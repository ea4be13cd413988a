"""Where a search stands at the end of a generation, and its two files.

``history.csv`` has a row for each evaluated architecture, ``state.json`` everything else that going
on needs. The history is written first: a kill between the two leaves rows that the state does not
know of, which are dropped and evaluated again, with the same result.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
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
        pending = [asdict(brood) for brood in self.pending]
        return json.dumps(value | {"evaluated": len(self.candidates), "pending": pending})

    def rows(self) -> list[dict[str, Any]]:
        """The history, one row per evaluated architecture; what it has no figure of is empty."""
        names = dict.fromkeys(name for c in self.candidates for name in c.values)
        rows = []
        for c in self.candidates:
            row: dict[str, Any] = {"generation": c.generation, "id": c.id}
            row["genome"] = " ".join(map(str, c.genome))
            row |= {name: c.values.get(name, "") for name in names}
            row |= {"violation": c.violation, "seconds": round(c.seconds, 4)}
            rows.append(row | {"failed": c.failed, "raced_out": int(c.raced_out)})
        return rows

    def write(self, history: Path, state: Path) -> None:
        """Replace both files, each whole."""
        buffer = io.StringIO()
        rows = self.rows()
        if rows:
            writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        write_text(history, buffer.getvalue())
        write_text(state, self.to_json())

    @classmethod
    def read(cls, history: Path, state: Path) -> SearchState | None:
        """What :meth:`write` left; None if the search has no generation behind it.

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
