from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo_agd.evolve.candidates import Candidate
from evo_agd.evolve.nsga2 import Nsga2
from evo_agd.evolve.nsga3 import Nsga3, algorithm, reference_points
from evo_agd.evolve.variation import CROSSOVERS, blend, cross, mutate
from evo_agd.space.genes import Gene, Genome
from evo_agd.space.super_resolution import SuperResolutionSpace

SPACE = SuperResolutionSpace(
    scale=4, input_size=(32, 32), features=(4, 8), depth=(1, 2, 3),
    operators=("residual", "fused", "inverted"), kernels=(1, 3, 5), widths=(4, 8, 12, 16),
    upsamplers=("shuffle", "nearest"), upsampler_widths=(4, 6, 8),
)  # fmt: skip
DEPTH = next(i for i, gene in enumerate(SPACE.genes) if gene.name == "depth")
SECOND_BLOCK = [i for i, gene in enumerate(SPACE.genes) if gene.name.startswith("block1.")]
SETS = ["uniform", "one_point", "two_point"]

members = st.integers(0, 2**32 - 1).map(lambda seed: SPACE.random(np.random.default_rng(seed)))
seeds = st.integers(0, 2**32 - 1)
names = st.sampled_from(sorted(CROSSOVERS))
quick = settings(deadline=None)


def is_canonical(genome: Genome) -> bool:
    active = SPACE.active(genome)
    off = [value for value, on in zip(genome, active, strict=True) if not on]
    return SPACE.canonical(genome) == genome and not any(off)


@given(members, members, names, seeds)
@quick
def test_children_are_canonical_and_the_same_for_a_seed(
    a: Genome, b: Genome, name: str, seed: int
) -> None:
    one, two = (cross(a, b, SPACE, CROSSOVERS[name], np.random.default_rng(seed)) for _ in range(2))
    assert one == two and is_canonical(one)


@given(members, members, names, seeds)
@quick
def test_a_child_has_what_has_an_effect_in_a_parent(
    a: Genome, b: Genome, name: str, seed: int
) -> None:
    child = cross(a, b, SPACE, CROSSOVERS[name], np.random.default_rng(seed))
    flags = zip(SPACE.active(child), SPACE.active(a), SPACE.active(b), strict=True)
    for i, (on, in_a, in_b) in enumerate(flags):
        choices = {parent[i] for parent, has in ((a, in_a), (b, in_b)) if has}
        named = isinstance(SPACE.genes[i].choices[0], str)
        if on and choices and (name in SETS or named or len(choices) == 1):
            assert child[i] in choices


@given(members, names, seeds)
@quick
def test_a_parent_crossed_with_itself_is_itself(a: Genome, name: str, seed: int) -> None:
    assert cross(a, a, SPACE, CROSSOVERS[name], np.random.default_rng(seed)) == a


@pytest.mark.parametrize("name", sorted(CROSSOVERS))
@pytest.mark.parametrize("genes", [1, 2, 3, 9])
def test_crossovers_reach_both_parents_in_every_gene(name: str, genes: int) -> None:
    rng = np.random.default_rng(0)
    a, b = (0,) * genes, (1,) * genes
    decisions = [Gene(str(i), (4, 8)) for i in range(genes)]
    pairs = [(a, b), (b, a)] * 100
    children = {CROSSOVERS[name](*pair, decisions, rng) for pair in pairs}
    if genes > 1:
        assert all({child[i] for child in children} == {0, 1} for i in range(genes))
    assert all(len(child) == genes for child in children)


def test_a_blend_stays_in_bounds_and_mostly_near_its_parents() -> None:
    rng = np.random.default_rng(0)
    genes = [Gene("width", tuple(range(100))), Gene("kind", ("a", "b", "c"))]
    children = [blend((40, 0), (60, 2), genes, rng) for _ in range(3000)]
    widths = np.array([width for width, _ in children])
    assert {kind for _, kind in children} == {0, 2}
    assert len(set(widths.tolist())) > 20 and 0 <= widths.min() < 40 and 60 < widths.max() < 100
    distance = np.minimum(abs(widths - 40), abs(widths - 60))
    assert np.median(distance) <= 2 and abs(widths.mean() - 50) < 1


@given(members, st.floats(0, 1), seeds)
@quick
def test_mutants_are_new_canonical_and_the_same_for_a_seed(
    genome: Genome, chance: float, seed: int
) -> None:
    one, two = (mutate(genome, SPACE, chance, np.random.default_rng(seed)) for _ in range(2))
    assert one == two != genome and is_canonical(one)


def test_mutation_may_leave_a_genome_alone_where_it_is_told_so() -> None:
    rng = np.random.default_rng(0)
    genome = SPACE.random(rng)
    assert mutate(genome, SPACE, 0.0, rng, always=False) == genome
    assert mutate(genome, SPACE, 1.0, rng, always=False) != genome


def test_every_neighbour_is_a_mutation_away_and_the_nearest_are_likeliest() -> None:
    rng = np.random.default_rng(0)
    genome = SPACE.encode(SPACE.parse("f4-r3x4-r3x4-n4"))
    widths = [mutate(genome, SPACE, 0.0, rng)[SECOND_BLOCK[2]] for _ in range(4000)]
    counts = np.bincount(widths, minlength=4)
    assert counts[0] > counts[1] > counts[2] > counts[3] > 0


def drawn(breed: Callable[[np.random.Generator], Genome]) -> list[set[int]]:
    """The values of the second block's genes among children that have one."""
    rng = np.random.default_rng(0)
    children = [breed(rng) for _ in range(2000)]
    deep = [child for child in children if SPACE.depth[child[DEPTH]] > 1]
    assert len(deep) > 20
    return [{child[i] for child in deep} for i in SECOND_BLOCK]


EVERYTHING = [set(range(len(SPACE.genes[i].choices))) for i in SECOND_BLOCK]


def test_blocks_that_a_mutation_adds_are_any() -> None:
    shallow = SPACE.encode(SPACE.parse("f4-r3x4-s"))
    assert drawn(lambda rng: mutate(shallow, SPACE, 0.05, rng)) == EVERYTHING


@pytest.mark.parametrize("name", sorted(CROSSOVERS))
def test_a_block_that_one_parent_has_comes_from_it(name: str) -> None:
    shallow = SPACE.encode(SPACE.parse("f4-r3x4-s"))
    deep = SPACE.encode(SPACE.parse("f4-r3x4-i5x16-s"))
    found = drawn(lambda rng: cross(shallow, deep, SPACE, CROSSOVERS[name], rng))
    assert found == [{deep[i]} for i in SECOND_BLOCK]


class Switched(SuperResolutionSpace):
    """A space in which a child has a gene that neither parent has: a width behind two switches."""

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        return (Gene("left", (0, 1)), Gene("right", (0, 1)), Gene("width", (4, 8, 16)))

    def active(self, genome: Genome) -> tuple[bool, ...]:
        return (True, True, genome[0] == genome[1] == 1)


def test_what_neither_parent_has_is_drawn() -> None:
    space = Switched.__new__(Switched)
    rng = np.random.default_rng(0)
    children = [cross((1, 0, 0), (0, 1, 0), space, CROSSOVERS["uniform"], rng) for _ in range(300)]
    assert {child[2] for child in children if child[:2] == (1, 1)} == {0, 1, 2}
    assert {child[2] for child in children if child[:2] != (1, 1)} == {0}


OBJECTIVES = ("gmacs", "params", "distillation_loss", "psnr")


def population(count: int, seed: int = 0, broken: float = 0.0) -> list[Candidate]:
    """Random candidates, this share of them infeasible."""
    rng = np.random.default_rng(seed)
    return [
        Candidate(
            str(i),
            SPACE.random(rng),
            dict(zip(OBJECTIVES, rng.random(4).round(1).tolist(), strict=True)),
            float(rng.integers(1, 4)) if rng.random() < broken else 0.0,
            0,
            0.0,
        )
        for i in range(count)
    ]


def make(count: int, size: int) -> Nsga2:
    return algorithm(
        SPACE,
        OBJECTIVES[:count],
        population=size,
        crossover_chance=0.9,
        mutation_chance=0.1,
        crossovers=tuple(CROSSOVERS),
    )


def test_four_objectives_are_many() -> None:
    assert [type(make(n, 8)) for n in (2, 3, 4)] == [Nsga2, Nsga2, Nsga3]


@pytest.mark.parametrize("objectives", [2, 3, 4])
@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("broken", [0.0, 0.5, 1.0])
def test_any_population_selects_and_breeds(objectives: int, size: int, broken: float) -> None:
    evolution = make(objectives, size)
    pool = population(2 * size, broken=broken)
    chosen = evolution.select(pool, size)
    assert len({c.id for c in chosen}) == size == len(chosen)
    assert len(evolution.select(pool, 10 * size)) == 2 * size
    assert evolution.select(pool, 0) == evolution.select([], size) == []
    assert evolution.ranks([]) == []
    left = [c.violation for c in pool if c not in chosen]
    assert max(c.violation for c in chosen) <= min(left)
    children = [
        evolution.child(chosen, evolution.ranks(chosen), np.random.default_rng(seed))
        for seed in range(20)
    ]
    assert all(map(is_canonical, children)) and len(set(children)) > 1


@given(seeds.map(lambda s: s % 1000), st.integers(1, 30))
@settings(deadline=None, max_examples=30)
def test_nsga3_is_a_function_of_its_arguments(seed: int, count: int) -> None:
    pool = population(40, seed, broken=0.2)
    np.random.seed(seed)
    one = make(4, 20).select(pool, count)
    after = np.random.random()
    np.random.seed(seed)
    untouched = np.random.random()
    two = make(4, 20).select(pool, count)
    assert one == two and after == untouched


def test_nsga3_does_not_depend_on_units() -> None:
    pool = population(40)
    scale = {"gmacs": 1e-6, "params": 1e7, "distillation_loss": 1e-3, "psnr": 1.0}
    other = [
        Candidate(c.id, c.genome, {k: 30 + v * scale[k] for k, v in c.values.items()}, 0.0, 0, 0.0)
        for c in pool
    ]
    ids = [[c.id for c in make(4, 20).select(p, 20)] for p in (pool, other)]
    assert len(set(ids[0]) & set(ids[1])) >= 18


@pytest.mark.parametrize("objectives", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("size", [1, 8, 48, 100])
def test_directions_are_about_as_many_as_the_population(objectives: int, size: int) -> None:
    points = reference_points(objectives, size)
    assert points.shape[1] == objectives and np.allclose(points.sum(1), 1) and points.min() >= 0
    assert len(np.unique(points.round(9), axis=0)) == len(points)
    assert 0.6 * size <= len(points) <= max(size, objectives)
