"""The search beside others over a tiny space, whose scores a fake pool knows: no Ray."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from evo_agd.benchmarks import search as module
from evo_agd.benchmarks.enumeration import every_genome
from evo_agd.benchmarks.search import METHODS, Scores, compared, score_all, search
from evo_agd.config import load
from evo_agd.config.settings import Bound, Evolution
from evo_agd.errors import InputError
from evo_agd.evolve.candidates import cost_values, violation
from evo_agd.evolve.scoring import Scored
from evo_agd.nets.build import space_of
from evo_agd.run.directory import RunDirectory
from evo_agd.space.genes import Genome
from evo_agd.space.super_resolution import SuperResolutionSpace
from tests.conftest import ROOT

OBJECTIVES = ("gmacs", "distillation_loss", "psnr")
COUNT = 60


class Fake:
    """Scores by size and luck, and remembers what it was asked."""

    def __init__(self, space: SuperResolutionSpace, patience: int = 10**9) -> None:
        self.space = space
        self.patience = patience
        self.asked: list[Genome] = []
        self.waiting: deque[Sequence[Genome]] = deque()
        self.fails: set[Genome] = set()

    def submit(self, genomes: Sequence[Genome], *, race: object = None) -> None:
        self.waiting.append(genomes)

    def collect(self, tick: Callable[[int], None] = lambda done: None) -> list[Scored]:
        genomes = self.waiting.popleft()
        if len(self.asked) + len(genomes) > self.patience:
            raise KeyboardInterrupt
        self.asked += genomes
        return [self.score(g) for g in genomes]

    def score(self, genome: Genome) -> Scored:
        if genome in self.fails:
            return Scored(None, 0.0, "its worker died")
        luck = random.Random(str(genome)).random()
        psnr = 30 + float(np.log(self.space.cost(genome).gmacs * 1e3)) + 0.3 * luck
        return Scored({"distillation_loss": 1 / psnr, "psnr": psnr}, 0.0)


def pipeline_of(space: SuperResolutionSpace, limit: float | None = None) -> Any:
    """As much of a pipeline as a search needs, with a bound on the cost."""
    constraints = {} if limit is None else {"gmacs": Bound(max=limit)}
    evolution = Evolution(population=10, evaluations=COUNT)
    settings = SimpleNamespace(search=evolution, objectives=OBJECTIVES, constraints=constraints)
    return SimpleNamespace(space=space, settings=settings)


def scores_of(folder: Path, pool: Fake, ticks: list[int] | None = None) -> Scores:
    ticks = [] if ticks is None else ticks
    return Scores(RunDirectory(folder), pool, lambda done, note: ticks.append(done))


def test_rows_of_all_methods_and_a_summary_of_their_ratios(
    tiny_space: SuperResolutionSpace, tmp_path: Path
) -> None:
    pool = Fake(tiny_space)
    costs = sorted(tiny_space.cost(g).gmacs for g in every_genome(tiny_space))
    limit = costs[len(costs) // 2]
    pipeline = pipeline_of(tiny_space, limit)
    _, found = score_all(pipeline, scores_of(tmp_path, pool), seeds=2, count=COUNT, everyone=())
    for candidates in found.values():
        genomes = [c.genome for c in candidates]
        assert len(set(genomes)) == len(genomes) == COUNT
        for genome in genomes:
            assert tiny_space.canonical(genome) == genome
            assert not violation(
                cost_values(tiny_space.cost(genome)), pipeline.settings.constraints
            )
    assert len(set(pool.asked)) == len(pool.asked)  # nothing is scored twice
    *rows, summary = compared(found, (), OBJECTIVES, COUNT)
    assert {(r["method"], r["seed"]) for r in rows} == {(m, s) for m in METHODS for s in (0, 1)}
    for row in rows:
        curve = list(row["volumes"].values())
        assert list(row["volumes"]) == ["0.1", "0.2", "0.5", "1"]
        assert curve == sorted(curve) and curve[0] >= 0 and 0 < curve[-1] <= 1
    means = {m: np.mean([r["volumes"]["1"] for r in rows if r["method"] == m]) for m in METHODS}
    assert summary["to_random"] == pytest.approx(means["evolution"] / means["random"])
    assert summary["to_pymoo"] == pytest.approx(means["evolution"] / means["pymoo"])
    json.dumps([*rows, summary], allow_nan=False)
    console = Console(record=True, width=120)
    module._show(console, [*rows, summary])
    assert "100% of 60 evaluations" in console.export_text()


def test_the_same_seed_scores_the_same(tiny_space: SuperResolutionSpace, tmp_path: Path) -> None:
    def once() -> dict[Any, list[Genome]]:
        scores = scores_of(tmp_path, Fake(tiny_space))
        _, found = score_all(pipeline_of(tiny_space), scores, seeds=2, count=COUNT, everyone=())
        return {key: [c.genome for c in candidates] for key, candidates in found.items()}

    first = once()
    assert first == once()
    assert all(first[method, 0] != first[method, 1] for method in METHODS)


def test_a_share_of_the_true_front_is_1_for_who_scored_everything(
    tiny_space: SuperResolutionSpace, tmp_path: Path
) -> None:
    scores = scores_of(tmp_path, Fake(tiny_space))
    everyone = every_genome(tiny_space)
    truth, found = score_all(
        pipeline_of(tiny_space), scores, seeds=1, count=COUNT, everyone=everyone
    )
    assert [c.genome for c in truth] == everyone
    found = {**found, ("random", 0): [*truth]}
    *rows, summary = compared(found, truth, OBJECTIVES, COUNT)
    assert summary["members"] == len(everyone)
    assert all(0 <= v <= 1 for row in rows for v in row["volumes"].values())
    volume = module.Volume([module._front(truth, OBJECTIVES)], OBJECTIVES)
    assert volume(truth) == volume(truth[::-1]) > volume(truth[:5])


def test_a_benchmark_that_was_stopped_goes_on(
    tiny_space: SuperResolutionSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STORE", 50)
    everyone, pipeline = every_genome(tiny_space)[:200], pipeline_of(tiny_space)
    stopped = Fake(tiny_space, patience=120)
    with pytest.raises(KeyboardInterrupt):
        score_all(pipeline, scores_of(tmp_path, stopped), seeds=1, count=5, everyone=everyone)
    assert stopped.asked == everyone[:100]
    ticks: list[int] = []
    other = Fake(tiny_space)
    other.fails = {everyone[150]}
    scores = scores_of(tmp_path, other, ticks)
    assert ticks == [100]
    truth, _ = score_all(pipeline, scores, seeds=1, count=5, everyone=everyone)
    assert other.asked[:100] == everyone[100:]
    assert [c.genome for c in truth if c.failed] == [everyone[150]]
    for c in truth:
        figures = Fake(tiny_space).score(c.genome).figures
        assert c.failed or figures.items() <= c.values.items()
    scores.store()
    last = Fake(tiny_space)  # what failed is tried again, and nothing else
    score_all(pipeline, scores_of(tmp_path, last), seeds=1, count=5, everyone=everyone)
    assert last.asked == [everyone[150]]


@pytest.mark.parametrize("content", ["{", "[1]", '{"a b": {}}', '{"0 1": 3}'])
def test_damaged_scores_are_refused(
    tiny_space: SuperResolutionSpace, tmp_path: Path, content: str
) -> None:
    (tmp_path / "benchmark").mkdir()
    (tmp_path / "benchmark" / "scores.json").write_text(content)
    with pytest.raises(InputError, match=r"scores\.json"):
        scores_of(tmp_path, Fake(tiny_space))


def test_constraints_that_nothing_keeps_are_told(
    tiny_space: SuperResolutionSpace, tmp_path: Path
) -> None:
    pipeline = pipeline_of(tiny_space)
    pipeline.settings.constraints = {"psnr": Bound(min=99)}
    scores = scores_of(tmp_path, Fake(tiny_space))
    _, found = score_all(pipeline, scores, seeds=1, count=12, everyone=())
    with pytest.raises(InputError, match="constraints"):
        compared(found, (), OBJECTIVES, 12)


def test_without_pymoo_it_is_refused_before_anything_is_scored(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    (tmp_path / "config.yaml").write_text((world / "tiny.yaml").read_text())
    run = RunDirectory(tmp_path)
    with pytest.raises(InputError, match="pip install pymoo") as refused:
        search(run, Console(), seeds=1, evaluations=4, enumerated=False)
    assert "\n" not in str(refused.value)


def test_every_member_once(tiny_space: SuperResolutionSpace) -> None:
    shipped = space_of(load(ROOT / "search_spaces" / "sr_x4_enumerable.yaml"))
    assert 4096 <= shipped.count() <= 6000
    for space in (tiny_space, shipped):
        found = every_genome(space)
        assert len(found) == len(set(found)) == space.count()
        assert all(space.canonical(g) == g for g in found)


def test_a_space_that_is_too_large_is_refused() -> None:
    large = space_of(load(ROOT / "search_spaces" / "sr_x4_small.yaml"))
    with pytest.raises(InputError, match=r"--enumerate: expected .*20,000") as refused:
        every_genome(large)
    assert "\n" not in str(refused.value)
