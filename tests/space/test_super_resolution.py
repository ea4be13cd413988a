from __future__ import annotations

import itertools

import numpy as np
import pytest
import thop
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from evo_agd.config import load
from evo_agd.nets.build import space_of
from evo_agd.nets.super_resolution import SRStudent
from evo_agd.space.genes import Genome
from evo_agd.space.super_resolution import SuperResolutionSpace

DEFAULT = space_of(load())


def genomes(space: SuperResolutionSpace) -> st.SearchStrategy[Genome]:
    return st.tuples(*(st.integers(0, len(g.choices) - 1) for g in space.genes))


def every_genome(space: SuperResolutionSpace) -> set[Genome]:
    raw = itertools.product(*(range(len(g.choices)) for g in space.genes))
    return {space.canonical(g) for g in raw}


@given(genomes(DEFAULT))
def test_canonical_is_idempotent_and_keeps_the_network(genome: Genome) -> None:
    canonical = DEFAULT.canonical(genome)
    assert DEFAULT.canonical(canonical) == canonical
    assert DEFAULT.decode(genome) == DEFAULT.decode(canonical)


@given(genomes(DEFAULT))
def test_ids_round_trip(genome: Genome) -> None:
    name = DEFAULT.id_of(genome)
    assert DEFAULT.genome_of(name) == DEFAULT.canonical(genome)
    assert DEFAULT.id_of(DEFAULT.genome_of(name)) == name


def test_genomes_and_networks_correspond_one_to_one(tiny_space: SuperResolutionSpace) -> None:
    members = every_genome(tiny_space)
    assert len({tiny_space.decode(g) for g in members}) == len(members) == tiny_space.count()


def test_the_default_space_is_large() -> None:
    assert DEFAULT.count() >= 10**6


@given(genomes(DEFAULT))
@settings(max_examples=15, deadline=None)
def test_cost_is_what_two_counters_find_on_the_built_network(genome: Genome) -> None:
    height, width = 16, 24
    space = space_of(load(None, [f"input_size=[{height}, {width}]"]))
    net = SRStudent(space.decode(genome)).folded()
    x = torch.zeros(1, 3, height, width)
    with FlopCounterMode(display=False) as counter:
        net(x)
    cost = space.cost(genome)
    assert counter.get_total_flops() == 2 * round(cost.gmacs * 1e9)
    assert sum(p.numel() for p in net.parameters()) == cost.params
    assert cost.memory_mb == pytest.approx(4e-6 * cost.params)


def test_cost_is_what_thop_finds(tiny_space: SuperResolutionSpace) -> None:
    def conv(module: torch.nn.Module, inputs: tuple[torch.Tensor], _: torch.Tensor) -> None:
        # thop knows nn.Conv2d by its class; the elastic convolution is counted by the same rule.
        weight = module.weight
        module.total_ops += weight.numel() * inputs[0].shape[-1] * inputs[0].shape[-2]

    from evo_agd.nets.elastic import ElasticConv

    for genome in sorted(every_genome(tiny_space))[::397]:
        net = SRStudent(tiny_space.decode(genome)).folded()
        macs, _ = thop.profile(
            net,
            (torch.zeros(1, 3, *tiny_space.input_size),),
            custom_ops={ElasticConv: conv},
            verbose=False,
        )
        assert macs == round(tiny_space.cost(genome).gmacs * 1e9)


@pytest.mark.parametrize("figure", ["gmacs", "params"])
def test_the_extremes_are_among_smallest_and_anchors(
    tiny_space: SuperResolutionSpace, figure: str
) -> None:
    costs = {g: getattr(tiny_space.cost(g), figure) for g in every_genome(tiny_space)}
    assert min(costs.values()) in [costs[g] for g in tiny_space.smallest()]
    assert max(costs.values()) in [costs[g] for g in tiny_space.anchors()]


def test_stratified_draws_share_out_every_choice() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        drawn = [DEFAULT.decode(g) for g in DEFAULT.stratified(rng, 3)]
        assert len({a.upsampler for a in drawn}) == 3
        assert len({len(a.blocks) for a in drawn}) == 3


@pytest.mark.parametrize(
    "name", ["", "f24", "f24-r3x16", "f24-x3x16-s", "f24-r3x16-s8", "f24-r3x16-n", "r3x16-n8"]
)
def test_what_is_no_id_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not an architecture id"):
        DEFAULT.parse(name)


def test_a_foreign_architecture_is_not_a_member(tiny_space: SuperResolutionSpace) -> None:
    with pytest.raises(ValueError, match="not in"):
        tiny_space.genome_of("f24-r3x16-n8")


def test_wrong_genomes_are_refused(tiny_space: SuperResolutionSpace) -> None:
    with pytest.raises(ValueError, match="genes"):
        tiny_space.canonical((0, 1))
    with pytest.raises(ValueError, match="features"):
        tiny_space.canonical((9,) + (0,) * (len(tiny_space.genes) - 1))
