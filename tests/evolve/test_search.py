from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_agd.config.settings import Bound, Evolution
from evo_agd.errors import InputError
from evo_agd.evolve.candidates import Candidate, front, violation, volume
from evo_agd.evolve.nsga2 import Nsga2
from evo_agd.evolve.nsga3 import Nsga3
from evo_agd.evolve.scoring import Scored
from evo_agd.evolve.search import Race, Search, candidate_of, check_constraints
from evo_agd.evolve.state import Lines, SearchState, Store
from evo_agd.evolve.variation import mutate
from evo_agd.space.genes import Genome
from evo_agd.space.super_resolution import SuperResolutionSpace
from tests.space.test_super_resolution import every_genome

OBJECTIVES = ("gmacs", "distillation_loss", "psnr")


class Oracle:
    """Scores that depend on the genome only; some genomes fail, where it is told so."""

    def __init__(
        self, space: SuperResolutionSpace, fails: Callable[[Genome], bool] = lambda genome: False
    ) -> None:
        self.space = space
        self.fails = fails
        self.asked: list[Genome] = []
        self.fully: list[Genome] = []
        self.waiting: list[tuple[Sequence[Genome], Race | None]] = []

    def figures(self, genome: Genome) -> dict[str, float]:
        cost = self.space.cost(genome)
        luck = random.Random(str(genome)).random()
        psnr = 30 + np.log(cost.gmacs * 1e3) + 0.3 * luck
        return {"distillation_loss": float(1 / psnr + 0.001 * luck), "psnr": float(psnr)}

    def submit(self, genomes: Sequence[Genome], *, race: Race | None = None) -> None:
        self.asked += genomes
        self.waiting.append((genomes, race))

    def collect(self, tick: Callable[[int], None] = lambda done: None) -> list[Scored]:
        genomes, race = self.waiting.pop(0)
        full = [
            Scored(None, 0.01, "NaN") if self.fails(g) else Scored(self.figures(g), 0.01)
            for g in genomes
        ]
        tick(len(full))
        if race is None:
            return full
        quick = [
            replace(r, figures=r.figures and {k: v + 0.01 for k, v in r.figures.items()})
            for r in full
        ]
        through = race(quick)
        self.fully += [genomes[i] for i in through]
        return [
            replace(r, figures=r.figures if i in through else None, quick=q.figures)
            for i, (r, q) in enumerate(zip(full, quick, strict=True))
        ]


def make(
    space: SuperResolutionSpace,
    oracle: Oracle,
    *,
    evaluations: int = 60,
    population: int = 13,
    seed: int = 0,
    constraints: dict[str, Bound] | None = None,
    objectives: Sequence[str] = OBJECTIVES,
    start: Sequence[Genome] = (),
    keep: Callable[[SearchState], None] = lambda state: None,
    **settings: object,
) -> Search:
    return Search(
        space,
        Evolution(population=population, evaluations=evaluations, **settings),  # type: ignore[arg-type]
        objectives,
        constraints or {},
        seed=seed,
        pool=oracle,
        start=start,
        keep=keep,
    )


def text(state: SearchState) -> str:
    return state.to_json() + Lines().text(state.candidates)


def test_the_same_seed_gives_the_same_search(tiny_space: SuperResolutionSpace) -> None:
    one, two = (make(tiny_space, Oracle(tiny_space)).run() for _ in range(2))
    assert text(one) == text(two)
    other = make(tiny_space, Oracle(tiny_space), seed=5).run()
    assert text(other) != text(one)


@pytest.mark.parametrize("racing", [None, 0.25])
@pytest.mark.parametrize("stop_after", [0, 1, 5])
def test_stopped_and_resumed_gives_the_same_front(
    tiny_space: SuperResolutionSpace, stop_after: int, racing: float | None, tmp_path: Path
) -> None:
    history, file = tmp_path / "history.csv", tmp_path / "state.json"
    kept: list[tuple[bytes, bytes]] = []

    def keep(state: SearchState) -> None:
        Store(history, file).write(state)
        kept.append((history.read_bytes(), file.read_bytes()))

    def fails(genome: Genome) -> bool:
        return sum(genome) % 5 == 0

    whole = make(tiny_space, Oracle(tiny_space, fails), keep=keep, racing=racing).run()
    # A kill may come between the two files: then the history is ahead.
    history.write_bytes(kept[stop_after + 1][0])
    file.write_bytes(kept[stop_after][1])
    state = SearchState.read(history, file)
    assert state is not None and len(state.pending) == 2
    resumed = make(tiny_space, Oracle(tiny_space, fails), racing=racing).run(state)
    assert text(resumed) == text(whole)


def test_a_damaged_state_is_told(tmp_path: Path, tiny_space: SuperResolutionSpace) -> None:
    history, file = tmp_path / "history.csv", tmp_path / "state.json"
    assert SearchState.read(history, file) is None
    make(tiny_space, Oracle(tiny_space), keep=Store(history, file).write).run()
    rows = history.read_text().splitlines(keepends=True)
    history.write_text("".join(rows[:10]))
    with pytest.raises(InputError, match=r"state\.json"):
        SearchState.read(history, file)


@pytest.mark.parametrize("population", [2, 5, 13, 40])
def test_no_architecture_is_scored_twice_whatever_the_population(
    tiny_space: SuperResolutionSpace, population: int
) -> None:
    oracle = Oracle(tiny_space)
    state = make(tiny_space, oracle, population=population).run()
    assert len(state.candidates) == 60 == len(set(oracle.asked)) == len(oracle.asked)
    assert len(state.population) == min(population, 60) == len(set(state.population))
    assert all(tiny_space.canonical(g) == g for g in oracle.asked)


def test_hypervolume_never_falls(tiny_space: SuperResolutionSpace) -> None:
    volumes = [v for _, v in make(tiny_space, Oracle(tiny_space)).run().volumes]
    assert volumes == sorted(volumes) and volumes[-1] > volumes[0] > 0


def test_evolution_beats_chance_on_the_same_budget(tiny_space: SuperResolutionSpace) -> None:
    gains = []
    for seed in range(5):
        oracle, rng = Oracle(tiny_space), np.random.default_rng(seed)
        state = make(tiny_space, oracle, seed=seed, evaluations=150, population=20).run()
        drawn: dict[Genome, None] = {}
        while len(drawn) < 150:
            drawn[tiny_space.random(rng)] = None
        chance = [candidate_of(g, Scored(oracle.figures(g), 0.0), tiny_space, {}, 0) for g in drawn]
        assert state.box is not None
        box = tuple(np.array(p) for p in state.box)
        found = (volume(part, OBJECTIVES, *box) for part in (state.candidates, chance))
        gains.append(next(found) / next(found))
    assert min(gains) > 1.01


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
    search = make(tiny_space, Oracle(tiny_space, lambda genome: True))
    with pytest.raises(InputError, match="all failed: NaN"):
        search.front(search.run())


def test_both_extremes_are_there(tiny_space: SuperResolutionSpace) -> None:
    costs = [tiny_space.cost(g).gmacs for g in every_genome(tiny_space)]
    state = make(tiny_space, Oracle(tiny_space), evaluations=4).run()
    found = [c.values["gmacs"] for c in state.candidates]
    assert min(found) == min(costs) and max(found) == max(costs)
    limit = {"gmacs": Bound(max=float(np.median(costs)))}
    state = make(tiny_space, Oracle(tiny_space), evaluations=4, constraints=limit).run()
    found = [c.values["gmacs"] for c in state.candidates]
    assert min(found) == min(costs) and 0.6 * limit["gmacs"].max < max(found)


def test_a_warm_start_is_scored_first(tiny_space: SuperResolutionSpace) -> None:
    rng = np.random.default_rng(7)
    start = [tiny_space.random(rng) for _ in range(3)]
    oracle = Oracle(tiny_space)
    make(tiny_space, oracle, start=start).run()
    assert oracle.asked[2:5] == start


def test_what_fails_is_recorded_and_never_chosen(tiny_space: SuperResolutionSpace) -> None:
    search = make(tiny_space, Oracle(tiny_space, lambda genome: genome[1] == 0))
    state = search.run()
    failed = {c.id for c in state.candidates if c.failed}
    assert failed and not failed & set(state.population)
    assert not failed & {c.id for c in search.front(state)}
    assert {c.failed for c in state.candidates if c.id in failed} == {"NaN"}


def test_it_stops_when_the_hypervolume_stands_still(tiny_space: SuperResolutionSpace) -> None:
    state = make(tiny_space, Oracle(tiny_space), evaluations=2000, patience=6).run()
    assert len(state.candidates) < 2000
    sizes = [v for _, v in state.volumes]
    assert sizes[-1] < sizes[-7] * 1.001


def test_a_race_scores_few_on_everything_and_loses_none_of_the_front(
    tiny_space: SuperResolutionSpace,
) -> None:
    oracle = Oracle(tiny_space)
    objectives = ("gmacs", "psnr")
    search = make(tiny_space, oracle, racing=0.25, evaluations=150, objectives=objectives)
    state = search.run()
    out = [c for c in state.candidates if c.raced_out]
    assert len(oracle.fully) + len(out) == 150 and len(oracle.fully) < 110
    # These quick scores order as the full ones do, so nobody on the front was left behind.
    rest = [replace(c, values=c.values | oracle.figures(c.genome)) for c in state.candidates]
    assert [c.id for c in search.front(state)] == [c.id for c in front(rest, objectives)]


def test_many_objectives_are_searched_too(tiny_space: SuperResolutionSpace) -> None:
    objectives = ("gmacs", "params", "distillation_loss", "psnr")
    search = make(tiny_space, Oracle(tiny_space), objectives=objectives)
    assert isinstance(search.algorithm, Nsga3)
    assert len(search.front(search.run())) > 5


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
