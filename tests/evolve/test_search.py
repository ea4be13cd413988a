from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_agd.config.settings import Bound, Evolution
from evo_agd.errors import InputError
from evo_agd.evolve.candidates import Candidate, front, violation
from evo_agd.evolve.nsga2 import Nsga2, mutate
from evo_agd.evolve.search import Search, SearchState, check_constraints
from evo_agd.space.genes import Genome
from evo_agd.space.super_resolution import SuperResolutionSpace
from tests.space.test_super_resolution import every_genome

OBJECTIVES = ("gmacs", "distillation_loss", "psnr")


class Oracle:
    """Scores that depend on the genome only, returned in whatever order."""

    def __init__(self, space: SuperResolutionSpace, order: int = 0) -> None:
        self.space = space
        self.order = order
        self.asked: list[Genome] = []

    def figures(self, genome: Genome) -> dict[str, float]:
        cost = self.space.cost(genome)
        luck = random.Random(str(genome)).random()
        psnr = 30 + np.log(cost.gmacs * 1e3) + 0.3 * luck
        return {"distillation_loss": 1 / psnr + 0.001 * luck, "psnr": float(psnr)}

    def __call__(
        self, genomes: Sequence[Genome], /
    ) -> Iterator[tuple[int, dict[str, float], float]]:
        self.asked += genomes
        indices = list(range(len(genomes)))
        random.Random(self.order).shuffle(indices)
        for index in indices:
            yield index, self.figures(genomes[index]), 0.01


def make(
    space: SuperResolutionSpace,
    oracle: Oracle,
    *,
    evaluations: int = 60,
    population: int = 13,
    seed: int = 0,
    constraints: dict[str, Bound] | None = None,
    **others: object,
) -> Search:
    return Search(
        space,
        Evolution(population=population, evaluations=evaluations),
        OBJECTIVES,
        constraints or {},
        seed=seed,
        score=oracle,
        **others,  # type: ignore[arg-type]
    )


def test_the_order_of_results_does_not_matter(tiny_space: SuperResolutionSpace) -> None:
    one = make(tiny_space, Oracle(tiny_space, 1)).run()
    two = make(tiny_space, Oracle(tiny_space, 2)).run()
    assert one.to_json() == two.to_json()
    other = make(tiny_space, Oracle(tiny_space, 1), seed=5).run()
    assert other.to_json() != one.to_json()


@pytest.mark.parametrize("stop_after", [1, 2, 4])
def test_stopped_and_resumed_gives_the_same_front(
    tiny_space: SuperResolutionSpace, stop_after: int
) -> None:
    kept: list[str] = []
    whole = make(tiny_space, Oracle(tiny_space), keep=lambda s: kept.append(s.to_json())).run()
    state = SearchState.from_json(kept[stop_after - 1])
    resumed = make(tiny_space, Oracle(tiny_space)).run(state)
    assert resumed.to_json() == whole.to_json()


@pytest.mark.parametrize("population", [2, 5, 13, 40])
def test_no_architecture_is_scored_twice_whatever_the_population(
    tiny_space: SuperResolutionSpace, population: int
) -> None:
    oracle = Oracle(tiny_space)
    state = make(tiny_space, oracle, population=population).run()
    assert len(state.candidates) == 60 == len(set(oracle.asked))
    assert all(tiny_space.canonical(g) == g for g in oracle.asked)


def test_hypervolume_never_falls(tiny_space: SuperResolutionSpace) -> None:
    volumes = [v for _, v in make(tiny_space, Oracle(tiny_space)).run().volumes]
    assert volumes == sorted(volumes) and volumes[-1] > volumes[0] > 0


def test_evolution_beats_chance_on_the_same_budget(tiny_space: SuperResolutionSpace) -> None:
    gains = []
    for seed in range(5):
        oracle = Oracle(tiny_space)
        state = make(tiny_space, oracle, seed=seed, evaluations=150, population=20).run()
        chance = make(tiny_space, oracle, seed=seed, evaluations=150, population=150).run()
        assert state.box is not None
        box = tuple(np.array(p) for p in state.box)
        from evo_agd.evolve.candidates import volume

        gains.append(
            volume(state.candidates, OBJECTIVES, *box) - volume(chance.candidates, OBJECTIVES, *box)
        )
    assert np.mean(gains) > 0


def test_a_small_space_is_used_up_and_its_true_front_found() -> None:
    space = SuperResolutionSpace(
        scale=4, input_size=(32, 32), features=(4,), depth=(1,), operators=("residual", "fused"),
        kernels=(1, 3), widths=(4, 8), upsamplers=("shuffle", "nearest"), upsampler_widths=(4, 6),
    )  # fmt: skip
    oracle = Oracle(space)
    search = make(space, oracle, evaluations=500, population=8)
    state = search.run()
    assert {c.genome for c in state.candidates} == every_genome(space)
    everything = [
        Candidate(
            space.id_of(g), g, {"gmacs": space.cost(g).gmacs, **oracle.figures(g)}, 0.0, 0, 0.0
        )
        for g in every_genome(space)
    ]
    assert [c.id for c in search.front(state)] == [c.id for c in front(everything, OBJECTIVES)]


def test_what_costs_too_much_is_never_scored(tiny_space: SuperResolutionSpace) -> None:
    limit = 2 * min(tiny_space.cost(g).gmacs for g in tiny_space.smallest())
    oracle = Oracle(tiny_space)
    make(tiny_space, oracle, constraints={"gmacs": Bound(max=limit)}).run()
    assert len(oracle.asked) > 10
    assert max(tiny_space.cost(g).gmacs for g in oracle.asked) <= limit


def test_infeasible_constraints_are_told_before_and_after(
    tiny_space: SuperResolutionSpace,
) -> None:
    with pytest.raises(InputError, match=r"constraints\.gmacs\.max.*at least"):
        check_constraints(tiny_space, {"gmacs": Bound(max=1e-9)})
    with pytest.raises(InputError, match=r"constraints\.params\.min.*at most"):
        check_constraints(tiny_space, {"params": Bound(min=1e9)})
    fewest = min(tiny_space.cost(g).params for g in tiny_space.smallest())
    check_constraints(tiny_space, {"params": Bound(max=fewest)})
    search = make(tiny_space, Oracle(tiny_space), constraints={"psnr": Bound(min=99)})
    with pytest.raises(InputError, match="none among 60"):
        search.front(search.run())


def candidate(name: str, gmacs: float, psnr: float, broken: float = 0.0) -> Candidate:
    values = {"gmacs": gmacs, "psnr": psnr, "distillation_loss": 1.0}
    return Candidate(name, (0,), values, broken, 0, 0.0)


def test_selection_prefers_feasible_then_less_broken(tiny_space: SuperResolutionSpace) -> None:
    nsga2 = Nsga2(tiny_space, ("gmacs", "psnr"), crossover_chance=0.9, mutation_chance=0.1)
    pool = [
        candidate("bad", 1, 40, 0.5),
        candidate("worse", 0.5, 50, 0.9),
        candidate("good", 9, 20),
        candidate("dominated", 10, 19),
    ]
    assert [c.id for c in nsga2.select(pool, 3)] == ["good", "dominated", "bad"]
    assert [level for level, _ in nsga2.ranks(pool)] == [2, 3, 0, 1]


def test_violations_add_up() -> None:
    bounds = {"gmacs": Bound(max=2), "psnr": Bound(min=30)}
    assert violation({"gmacs": 1, "psnr": 31}, bounds) == 0
    assert violation({"gmacs": 3, "psnr": 27}, bounds) == pytest.approx(0.5 + 0.1)
    assert violation({"gmacs": 3}, bounds) == pytest.approx(0.5)


@given(st.integers(0, 10_000))
def test_mutation_changes_the_network(seed: int) -> None:
    space = SuperResolutionSpace(
        scale=4, input_size=(32, 32), features=(4, 8), depth=(1, 2, 3),
        operators=("residual", "fused", "inverted"), kernels=(1, 3), widths=(4, 8),
        upsamplers=("shuffle", "nearest"), upsampler_widths=(4, 6),
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    genome = space.random(rng)
    changed = mutate(genome, space, 0.1, rng)
    assert changed != genome and space.canonical(changed) == changed
