"""Every member of a space that is small enough, and what a search of it may be measured by."""

from __future__ import annotations

from typing import Any

from evo_agd.errors import InputError
from evo_agd.space.genes import Genome, SearchSpace

MOST = 20_000  # members, about half an hour of scoring on two cores


def every_genome(space: SearchSpace[Any]) -> list[Genome]:
    """All canonical genomes, each once, in ascending order.

    Raises:
        InputError: there are more than :data:`MOST`.
    """
    if space.count() > MOST:
        expected = f"a space of at most {MOST:,} members to enumerate"
        raise InputError("--enumerate", expected, f"{space.count():,}")
    # One gene that has an effect at a time, from the smallest members on: the plain product of all
    # genes counts every member once for each value of those that have none.
    found: set[Genome] = set(space.smallest())
    pending = sorted(found)
    while pending:
        genome = pending.pop()
        for index, active in enumerate(space.active(genome)):
            for value in range(len(space.genes[index].choices) if active else 0):
                other = space.canonical((*genome[:index], value, *genome[index + 1 :]))
                if other not in found:
                    found.add(other)
                    pending.append(other)
    return sorted(found)
