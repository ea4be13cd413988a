from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from torch import nn

from evo_agd.config import load
from evo_agd.errors import InputError
from evo_agd.evolve.cluster import cluster
from evo_agd.evolve.scoring import Scored
from evo_agd.evolve.workers import Resources, Workers
from evo_agd.nets.build import Space, builder, space_of, supernet_of
from evo_agd.space.genes import Genome
from evo_agd.train.distillation import score
from evo_agd.train.losses import DistillationLoss
from evo_agd.train.pairs import Pair, middle
from tests.conftest import photograph


@dataclass
class World:
    space: Space
    settings: Any
    weights: dict[str, torch.Tensor]
    pairs: list[Pair]
    loss: DistillationLoss
    genomes: list[Genome]

    def pool(self, count: int = 2, **others: Any) -> Workers:
        arguments = {"build": builder(self.settings), "weights": self.weights} | others
        return Workers(
            count,
            validation=self.pairs,
            loss=self.loss,
            resources=Resources(bf16=False, prefix_mb=5.0, gpus=others.pop("gpus", 0.0)),
            order=self.space.reading_order,
            work=lambda genome: self.space.cost(genome).gmacs,
            **{k: v for k, v in arguments.items() if k != "gpus"},
        )


@pytest.fixture(scope="module")
def small(world: Path) -> Iterator[World]:
    settings = load(world / "tiny.yaml")
    space, net = space_of(settings), supernet_of(settings)
    pairs = []
    for index, side in enumerate((48, 64)):
        high = photograph(side, 64, index)
        pairs.append(Pair("x", high[::4, ::4].copy(), high, photograph(side, 64, 7)))
    rng = np.random.default_rng(0)
    genomes = list({space.random(rng): None for _ in range(40)})[:24]
    loss = DistillationLoss({"teacher_l1": 1.0})
    with cluster(None, 4):  # of cores as Ray counts them, for two pools at once
        yield World(space, settings, net.state_dict(), pairs, loss, genomes)


@pytest.fixture(scope="module")
def pool(small: World) -> Iterator[Workers]:
    """Two workers for all tests: starting some takes seconds."""
    race = [middle(p, 0.25, least=4) for p in small.pairs]
    assert [p.low.shape for p in race] == [(6, 8, 3), (8, 8, 3)]
    assert race[0].teacher.shape == (24, 32, 3)
    pool = small.pool(race=race)
    yield pool
    pool.close()


def figures(found: Sequence[Scored]) -> list[dict[str, float] | None]:
    return [scored.figures for scored in found]


def test_workers_agree_with_this_process_whatever_their_number(small: World, pool: Workers) -> None:
    one = small.pool(1)
    found = []
    for workers in (one, pool):
        workers.submit(small.genomes)
        found.append(figures(workers.collect()))
    one.close()
    assert found[0] == found[1]
    net = supernet_of(small.settings)
    for genome, mine in zip(small.genomes, found[0], strict=True):
        path = small.space.decode(genome)
        here = score(lambda x, p=path: net(x, p), small.pairs, loss=small.loss, bf16=False)
        assert mine is not None
        assert mine["psnr"] == pytest.approx(here.psnr, abs=1e-3)
        assert mine["distillation_loss"] == pytest.approx(here.distillation_loss, rel=1e-4)


def test_killed_workers_cost_nothing_but_time(small: World, pool: Workers) -> None:
    pool.submit(small.genomes)
    undisturbed = figures(pool.collect())
    for moment in (1, 15):
        killed = []

        def kill(done: int, moment: int = moment, killed: list[int] = killed) -> None:
            if done >= moment and not killed:
                actor = pool.actors[moment % 2]
                killed.append(ray.get(actor.pid.remote()))
                os.kill(killed[0], signal.SIGKILL)

        pool.submit(small.genomes)
        pool.submit(small.genomes[::-1])
        assert figures(pool.collect(kill)) == undisturbed and killed
        assert figures(pool.collect()) == undisturbed[::-1]


def test_submissions_are_answered_in_order(small: World, pool: Workers) -> None:
    pool.submit(small.genomes[:3])
    pool.submit(small.genomes[3:4])
    pool.submit(small.genomes[4:])
    found = [figures(pool.collect()) for _ in range(3)]
    assert [len(part) for part in found] == [3, 1, 20]
    pool.submit(small.genomes)
    assert figures(pool.collect()) == [f for part in found for f in part]


class Deadly(nn.Module):
    """A supernet that takes its process with it where a path has an upsampler of this width."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def steps(self, path: Any) -> Any:
        if path.upsampler_width == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.net.steps(path)  # type: ignore[operator]

    def load_state_dict(self, *arguments: Any, **named: Any) -> Any:
        return self.net.load_state_dict(*arguments, **named)


@dataclass
class DeadlyBuilder:
    build: Any

    def __call__(self) -> Any:
        net, decode = self.build()
        return Deadly(net), decode


def test_a_deadly_candidate_fails_and_its_neighbours_do_not(small: World) -> None:
    decode = small.space.decode
    good, bad = (
        [g for g in small.genomes if (decode(g).upsampler_width == 6) == deadly]  # type: ignore[union-attr]
        for deadly in (False, True)
    )
    chosen = [*good[:3], bad[0], *good[3:7]]
    pool = small.pool(build=DeadlyBuilder(builder(small.settings)))
    pool.submit(chosen)
    found = pool.collect()
    assert [scored.figures is None for scored in found] == [False] * 3 + [True] + [False] * 4
    assert found[3].error == "its worker died"
    pool.close()


def nothing() -> Any:
    raise ModuleNotFoundError("No module named 'evo_agd'")


def test_workers_that_never_start_are_told(small: World) -> None:
    pool = small.pool(1, build=nothing)
    pool.submit(small.genomes[:2])
    with pytest.raises(RuntimeError, match=r"no worker starts: .*No module named 'evo_agd'"):
        pool.collect()
    pool.close()


def test_a_race_is_run_on_the_middle_and_the_rest_on_everything(
    small: World, pool: Workers
) -> None:
    pool.submit(small.genomes)
    full = figures(pool.collect())
    seen: list[Sequence[Scored]] = []

    def through(quick: Sequence[Scored]) -> list[int]:
        seen.append(quick)
        return [2, 5]

    pool.submit(small.genomes, race=through)
    found = pool.collect()
    assert [i for i, scored in enumerate(found) if scored.figures is not None] == [2, 5]
    assert [found[i].figures for i in (2, 5)] == [full[i] for i in (2, 5)]
    assert [scored.quick for scored in found] == figures(seen[0]) != full
    pool.submit(small.genomes[:3], race=lambda quick: [])
    assert figures(pool.collect()) == [None] * 3


def test_gpus_that_are_not_there_are_told_in_one_line(small: World) -> None:
    with pytest.raises(InputError, match=r"gpus_per_worker: expected nodes with 0\.5 of a GPU"):
        small.pool(gpus=0.5)
