"""``benchmark throughput``: how fast candidates are scored, and what is left to gain.

Whole searches on a run's supernet, with one worker and with all, against

* **the plain way**: one process, FP32, all cores for one candidate after another, nothing shared,
  tensors as torch lays them out, figures as :func:`evo_agd.train.distillation.score` takes them;
* **the limit**: the rate of one large convolution of the space's widest features, in the memory
  layout and type that the search uses, on as many cores.

Everything takes turns, round after round, each with another seed, so that whatever else the machine
does meets all alike. The plain way is timed on a sample of the candidates that the search scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import ray
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from scipy.stats import kendalltau
from torch.nn import functional as F

from evo_agd.benchmarks.trained import pipeline_of
from evo_agd.errors import InputError
from evo_agd.evolve.candidates import Candidate
from evo_agd.evolve.cluster import cluster
from evo_agd.evolve.search import Search, Tick
from evo_agd.evolve.state import SearchState, Store, scored
from evo_agd.evolve.workers import Build, Workers
from evo_agd.nets.build import builder
from evo_agd.progress import bar
from evo_agd.run.directory import RunDirectory
from evo_agd.run.pipeline import Pipeline
from evo_agd.space.genes import Genome
from evo_agd.train.distillation import score
from evo_agd.train.loop import cores, mixed
from evo_agd.train.losses import DistillationLoss
from evo_agd.train.pairs import Pair
from evo_agd.train.sources import thinned

DRAW = 7  # random-stream key
SIDE = 256  # of the large convolution's input
REPEATS = 15  # of it


class _Plain:
    """A process that scores in the plain way; its memory allocator is as it comes."""

    def __init__(self, build: Build, weights: Any, pairs: Any, loss: DistillationLoss) -> None:
        self.net, self.decode = build()
        self.net.load_state_dict(weights)
        self.net.eval()
        self.pairs, self.loss = pairs, loss

    def evaluate(self, genomes: Sequence[Genome], threads: int) -> tuple[list[Any], float]:
        """Each one's figures, and the seconds that all took."""
        torch.set_num_threads(threads)
        began = perf_counter()
        found = []
        for genome in genomes:
            path = self.decode(genome)
            found.append(score(self._forward(path), self.pairs, loss=self.loss, bf16=False))
        return found, perf_counter() - began

    def _forward(self, path: Any) -> Any:
        def forward(low: torch.Tensor) -> torch.Tensor:
            # Inference mode would let the supernet take its short cuts.
            with torch.inference_mode(False), torch.no_grad():
                output: torch.Tensor = self.net(
                    low.clone(memory_format=torch.contiguous_format), path
                )
            return output

        return forward


class _Limit:
    """A process that does nothing but one large convolution."""

    def rate(self, channels: int, bf16: bool) -> float:
        """Multiply-accumulates per second of one thread."""
        torch.set_num_threads(1)
        x = torch.rand(1, channels, SIDE, SIDE).to(memory_format=torch.channels_last)
        weight = torch.rand(channels, channels, 3, 3).to(memory_format=torch.channels_last)
        taken = []
        with torch.inference_mode(), mixed(bf16):
            if bf16:
                x = x.bfloat16()
            for _ in range(REPEATS):
                began = perf_counter()
                F.conv2d(x, weight, padding=1)
                taken.append(perf_counter() - began)
        return channels**2 * 9 * SIDE**2 / median(taken)


@dataclass
class _Row:
    """Totals over the rounds of one way of scoring."""

    name: str
    workers: int
    candidates: int = 0
    seconds: float = 0.0
    macs: float = 0.0
    network: float = 0.0
    rounds: list[float] = field(default_factory=list)
    """Candidates per second of each round."""

    def add(self, candidates: int, seconds: float, macs: float, network: float = 0.0) -> None:
        """Another round."""
        self.candidates += candidates
        self.seconds += seconds
        self.macs += macs
        self.network += network
        self.rounds.append(candidates / seconds)


def throughput(
    run: RunDirectory,
    console: Console,
    *,
    evaluations: int,
    sample: int,
    rounds: int,
) -> list[dict[str, Any]]:
    """Measure; prints the table and returns its rows.

    Args:
        evaluations: of each search.
        sample: candidates of each search that are scored in the plain way too.

    Raises:
        InputError: the run's supernet is not trained, or it scores on GPUs.
    """
    pipeline = pipeline_of(run, console)
    settings = pipeline.settings
    if settings.compute.gpus_per_worker:
        raise InputError("compute.gpus_per_worker", "0: this measures processors", "a GPU's share")
    evolution = settings.search.model_copy(update={"evaluations": evaluations, "patience": None})
    train, validation = pipeline.teach(run)
    weights = load_file(run.supernet)
    pairs = thinned(list(validation), settings.search.pictures)
    pixels = sum(p.low.shape[0] * p.low.shape[1] for p in pairs)
    share = pixels / (settings.input_size[0] * settings.input_size[1])
    widest = _widest(pipeline)
    count = pipeline.workers
    ways = [_Row("search", n) for n in sorted({1, count})]
    plain = [_Row("plain", n) for n in sorted({1, cores()})]
    limits: list[float] = []
    agreed: list[tuple[list[float], list[float]]] = []
    exact: list[tuple[list[float], list[float]]] = []

    def macs(candidates: Sequence[Candidate]) -> float:
        return 1e9 * share * sum(c.values["gmacs"] for c in candidates)

    folder = run.path / "benchmark"
    total = rounds * (evaluations * len(ways) + sample * len(plain))
    with cluster(None, count + 3), bar(console, "throughput", total) as tick:
        pools = {
            way.workers: _pool(pipeline, weights, train, validation, way.workers) for way in ways
        }
        alone: Any = ray.remote(num_cpus=0)(_Plain).remote(
            builder(settings), weights, pairs, pipeline.loss
        )
        limit: Any = ray.remote(num_cpus=0)(_Limit).remote()
        ray.get(alone.evaluate.remote([], 1))
        done = 0
        for number in range(rounds):
            state = SearchState()
            for way in ways[:: 1 if number % 2 else -1]:
                pool = pools[way.workers]
                search = Search(
                    pipeline.space,
                    evolution,
                    settings.objectives,
                    settings.constraints,
                    seed=settings.seed + number,
                    pool=pool,
                    start=pipeline.start,
                    keep=Store(folder / "history.csv", folder / "state.json"),
                    tick=partial(_tick_behind, tick, done),
                )
                network = pool.network_seconds
                began = perf_counter()
                state = search.run()
                seconds = perf_counter() - began
                done += len(state.candidates)
                found = scored(state.candidates)
                network = (pool.network_seconds - network) / way.workers
                way.add(len(state.candidates), seconds, macs(found), network)
            rng = np.random.default_rng([settings.seed, DRAW, number])
            found = scored(state.candidates)
            chosen = [found[i] for i in rng.permutation(len(found))[:sample]]
            for way in plain:
                figures, seconds = ray.get(
                    alone.evaluate.remote([c.genome for c in chosen], way.workers)
                )
                way.add(len(chosen), seconds, macs(chosen))
                done += len(chosen)
                tick(done, "the plain way")
            for name, into in (("psnr", agreed), ("distillation_loss", exact)):
                into.append(([c.values[name] for c in chosen], [getattr(f, name) for f in figures]))
            limits.append(ray.get(limit.rate.remote(widest, pipeline.bf16)))
        for pool in pools.values():
            pool.close()
    rate = median(limits)
    rows = [_figures(way, plain[-1], rate) for way in (*plain, *ways)]
    taus = {
        f"tau_{name}": float(np.mean([kendalltau(a, b).statistic for a, b in parts]))
        for name, parts in (("psnr", agreed), ("distillation_loss", exact))
    }
    summary = {
        "summary": f"{evaluations} evaluations, {rounds} rounds, {cores()} cores, "
        f"{settings.compute.precision}",
        "limit_gmacs_per_second_and_core": rate / 1e9,
        "channels_of_the_limit": widest,
        "scaling": rows[-1]["candidates_per_second"] / rows[len(plain)]["candidates_per_second"],
        **taus,
    }
    _show(console, rows, summary)
    return [*rows, summary]


def _tick_behind(tick: Tick, before: int, done: int, note: str) -> None:
    tick(before + done, note)


def _pool(
    pipeline: Pipeline, weights: Any, train: list[Pair], validation: list[Pair], count: int
) -> Workers:
    """So many workers, warm."""
    pool = pipeline.pool(weights, train, validation, count=count)
    rng = np.random.default_rng([pipeline.settings.seed, DRAW])
    pool.submit([pipeline.space.random(rng) for _ in range(4 * count)])
    pool.collect()
    return pool


def _widest(pipeline: Pipeline) -> int:
    """Channels of the widest features at input resolution or above, over the largest members."""
    layers = [
        layer
        for genome in pipeline.space.anchors()
        for layer in pipeline.space.layers(pipeline.space.decode(genome))  # type: ignore[arg-type]
    ]
    return max(layer.c_in for layer in layers)


def _figures(way: _Row, plain: _Row, rate: float) -> dict[str, Any]:
    per_second = way.candidates / way.seconds
    outside = 1 - way.network / way.seconds if way.network else None
    return {
        "way": way.name,
        "workers": way.workers,
        "candidates": way.candidates,
        "seconds": way.seconds,
        "candidates_per_second": per_second,
        "candidates_per_second_rounds": way.rounds,
        "useful_gmacs_per_second": way.macs / way.seconds / 1e9,
        "share_of_limit": way.macs / way.seconds / (rate * way.workers),
        "times_plain": per_second / (plain.candidates / plain.seconds),
        "outside_network": outside,
    }


def _show(console: Console, rows: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    table = Table(title=f"throughput: {summary['summary']}")
    table.add_column("way")
    for heading in ("cores", "candidates/s", "GMACs/s", "of the limit", "x plain", "not network"):
        table.add_column(heading, justify="right")
    for row in rows:
        outside = row["outside_network"]
        table.add_row(
            row["way"],
            str(row["workers"]),
            f"{row['candidates_per_second']:.1f}",
            f"{row['useful_gmacs_per_second']:.1f}",
            f"{row['share_of_limit']:.0%}",
            f"{row['times_plain']:.2f}",
            "" if outside is None else f"{outside:.1%}",
        )
    console.print(table)
    console.print(
        f"limit: {summary['limit_gmacs_per_second_and_core']:.1f} GMACs/s a core "
        f"({summary['channels_of_the_limit']} channels, 3x3)"
    )
    console.print(
        f"all workers are {summary['scaling']:.2f} times as fast as one; Kendall's tau with the "
        f"plain way's scores: PSNR {summary['tau_psnr']:.4f}, distillation loss "
        f"{summary['tau_distillation_loss']:.4f}"
    )
