"""Crossovers and the mutation over integer genomes.

Everything draws from the generator that it is given. A gene without effect is 0 in a canonical
genome, which says nothing about what its owner is good at: :func:`cross` and :func:`mutate` look
past it, so that a block which comes to life has choices of its own, not the first of each list.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from types import MappingProxyType
from typing import Any

import numpy as np

from evo_agd.space.genes import Gene, Genome, SearchSpace

Crossover = Callable[[Genome, Genome, Sequence[Gene], np.random.Generator], Genome]
"""Takes both parents, their genes and the generator; what it returns need not be canonical."""

SPREAD = 1.0  # distribution index of the simulated binary crossover
REACH = 1.5  # how fast the chance of a mutation's step falls with its length


def uniform(a: Genome, b: Genome, genes: Sequence[Gene], rng: np.random.Generator) -> Genome:
    """Each gene from either parent with equal chance (Syswerda, ICGA 1989)."""
    draws = rng.random(len(genes)).tolist()
    return tuple(x if u < 0.5 else y for x, y, u in zip(a, b, draws, strict=True))


def one_point(a: Genome, b: Genome, genes: Sequence[Gene], rng: np.random.Generator) -> Genome:
    """The front of one parent and the rest of the other."""
    cut = int(rng.integers(1, max(2, len(genes))))
    return a[:cut] + b[cut:]


def two_point(a: Genome, b: Genome, genes: Sequence[Gene], rng: np.random.Generator) -> Genome:
    """One parent with a stretch of the other, anywhere and of any length."""
    ends = rng.integers(0, len(genes) + 1, 2).tolist()
    start, stop = min(ends), max(ends)
    return a[:start] + b[start:stop] + a[stop:]


def blend(a: Genome, b: Genome, genes: Sequence[Gene], rng: np.random.Generator) -> Genome:
    """Simulated binary crossover (Deb and Agrawal, Complex Systems 9, 1995), rounded to choices.

    A number comes from around either parent, the farther off the farther apart the two are; half of
    the genes are only taken from either, and all those whose choices are names. The spread is wide:
    with the usual index of 15 less of ZDT's fronts was found (``tests/evolve/test_outsiders.py``).
    """
    child = []
    draws = rng.random((len(genes), 3)).tolist()
    for x, y, gene, (side, mixed, u) in zip(a, b, genes, draws, strict=True):
        if side < 0.5:
            x, y = y, x
        if x != y and mixed < 0.5 and not isinstance(gene.choices[0], str):
            # Between the parents for u < 1/2, beyond them above.
            spread = (2 * u if u <= 0.5 else 1 / (2 - 2 * u)) ** (1 / (SPREAD + 1))
            x = round(((1 + spread) * x + (1 - spread) * y) / 2)
            x = min(max(x, 0), len(gene.choices) - 1)
        child.append(x)
    return tuple(child)


CROSSOVERS: Mapping[str, Crossover] = MappingProxyType(
    {"uniform": uniform, "one_point": one_point, "two_point": two_point, "blend": blend}
)


def _anywhere(genes: Sequence[Gene], rng: np.random.Generator) -> list[int]:
    """A choice of every gene, uniform."""
    draws = rng.random(len(genes)).tolist()
    return [int(u * len(gene.choices)) for u, gene in zip(draws, genes, strict=True)]


def cross(
    a: Genome,
    b: Genome,
    space: SearchSpace[Any],
    crossover: Crossover,
    rng: np.random.Generator,
) -> Genome:
    """The canonical child of two canonical parents.

    A gene that has an effect in one parent only is taken from this one, a gene that has none in
    either is drawn at random; both matter only if the gene has an effect in the child.
    """
    has_a, has_b = space.active(a), space.active(b)
    if not (all(has_a) and all(has_b)):
        drawn = _anywhere(space.genes, rng)
        full_a, full_b = [], []
        for x, y, in_a, in_b, other in zip(a, b, has_a, has_b, drawn, strict=True):
            full_a.append(x if in_a else y if in_b else other)
            full_b.append(y if in_b else x if in_a else other)
        a, b = tuple(full_a), tuple(full_b)
    return space.canonical(crossover(a, b, space.genes, rng))


@lru_cache(maxsize=4096)
def _steps(value: int, count: int) -> tuple[list[int], list[float]]:
    """The other choices of a number, and their cumulative chances."""
    others = [v for v in range(count) if v != value]
    chances = list(accumulate(abs(v - value) ** -REACH for v in others))
    return others, [c / chances[-1] for c in chances]


def mutate(
    genome: Genome,
    space: SearchSpace[Any],
    chance: float,
    rng: np.random.Generator,
    *,
    always: bool = True,
) -> Genome:
    """A canonical genome in which each gene that has an effect changes with this chance.

    A number takes a step of length d with a chance in proportion to d ** -1.5: most are to a
    neighbour, and every choice can be reached at once (heavy-tailed as in Doerr et al., GECCO
    2017). A name changes to any other. What the change brings to life is drawn at random.

    Args:
        always: change one gene at least, where any with an effect has a second choice.
    """
    genes, active = space.genes, space.active(genome)
    movable = [i for i, on in enumerate(active) if on and len(genes[i].choices) > 1]
    draws = rng.random(len(movable)).tolist()
    chosen = [i for i, u in zip(movable, draws, strict=True) if u < chance]
    if always and movable and not chosen:
        chosen = [movable[int(rng.integers(len(movable)))]]
    if not chosen:
        return genome
    drawn = _anywhere(genes, rng)
    values = [v if on else other for v, on, other in zip(genome, active, drawn, strict=True)]
    for i, u in zip(chosen, rng.random(len(chosen)).tolist(), strict=True):
        count = len(genes[i].choices)
        if isinstance(genes[i].choices[0], str):
            values[i] = (values[i] + 1 + int(u * (count - 1))) % count
        else:
            others, chances = _steps(values[i], count)
            values[i] = others[bisect(chances, u)]
    return space.canonical(tuple(values))
