from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo_agd.config import load
from evo_agd.nets.build import Space, space_of
from evo_agd.space.cells import CellSpace
from evo_agd.space.translation import TranslationSpace
from tests.conftest import ROOT

CELLS = space_of(load(ROOT / "search_spaces/agd_esrgan_x4.yaml"))
TRANSLATION = space_of(load(ROOT / "search_spaces/agd_cyclegan.yaml"))
OPERATORS = ("conv1x1", "conv3x3", "residual", "inverted")
TINY: list[Space] = [
    CellSpace(
        scale=4, input_size=(8, 8), features=8, cells=2, layers=2,
        operators=OPERATORS, widths=(4, 8),
    ),
    TranslationSpace(
        input_size=(8, 8), layers=2, operators=OPERATORS,
        full_widths=(4, 6), half_widths=(4,), quarter_widths=(4, 8),
    ),
]  # fmt: skip


@pytest.mark.parametrize("space", [CELLS, TRANSLATION], ids=["cells", "translation"])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_ids_round_trip(space: Space, data: st.DataObject) -> None:
    genome = data.draw(st.tuples(*(st.integers(0, len(g.choices) - 1) for g in space.genes)))
    name = space.id_of(genome)
    assert space.genome_of(name) == genome and space.id_of(space.genome_of(name)) == name
    assert len(name) < 200 and "/" not in name  # it names a folder


@pytest.mark.parametrize("space", TINY, ids=["cells", "translation"])
def test_small_spaces_are_what_they_count(space: Space) -> None:
    raw = itertools.product(*(range(len(g.choices)) for g in space.genes))
    members = {space.decode(g): space.cost(g) for g in raw}
    assert len(members) == space.count()
    for figure in ("gmacs", "params"):
        costs = [getattr(c, figure) for c in members.values()]
        assert min(costs) in [getattr(space.cost(g), figure) for g in space.smallest()]
        assert max(costs) in [getattr(space.cost(g), figure) for g in space.anchors()]


def test_agds_widths_are_twelfths_by_eights() -> None:
    def by_eights(value: float) -> int:
        return int(value + 4) // 8 * 8

    def widths(base: int) -> tuple[int, ...]:
        return tuple(by_eights(base * twelfths / 12) for twelfths in (4, 6, 8, 10, 12))

    assert isinstance(CELLS, CellSpace) and isinstance(TRANSLATION, TranslationSpace)
    assert CELLS.widths == TRANSLATION.full_widths == widths(64)
    assert TRANSLATION.half_widths == widths(128)
    assert TRANSLATION.quarter_widths == widths(256)


def test_the_fixed_tail_of_agds_skeleton_costs_88_8_gmacs() -> None:
    layers = CELLS.layers(CELLS.decode(CELLS.smallest()[0]))  # type: ignore[arg-type]
    tail = sum(layer.macs(256, 256) for layer in layers[-4:])
    assert tail / 1e9 == pytest.approx(88.8, abs=0.05)
    assert [layer.zoom for layer in layers[-4:]] == [2, 4, 4, 4]


def test_the_largest_residual_member_is_cyclegans_generator() -> None:
    name = "64.128.256-" + "r256-" * 9 + "128.64"
    genome = TRANSLATION.genome_of(name)
    layers = TRANSLATION.layers(TRANSLATION.decode(genome))  # type: ignore[arg-type]
    published = sum(layer.published_macs(256, 256) for layer in layers) / 1e9
    assert published == pytest.approx(56.80, abs=0.005)
    assert TRANSLATION.cost(genome).gmacs == pytest.approx(49.55, abs=0.005)


@pytest.mark.parametrize("name", ["", "c64", "24.40.88", "24.40.88-x88-40.24", "c64-c24,c64"])
def test_what_is_no_id_is_refused(name: str) -> None:
    for space in (CELLS, TRANSLATION):
        with pytest.raises(ValueError, match="not an architecture id"):
            space.parse(name)


def test_a_foreign_architecture_is_not_a_member() -> None:
    with pytest.raises(ValueError):
        CELLS.genome_of("c64-c24.c64")
    with pytest.raises(ValueError):
        TRANSLATION.genome_of("24.40.88-c88-40.24")


@given(seed=st.integers(0, 1000), limit=st.floats(2, 30))
@settings(max_examples=30, deadline=None)
def test_lowered_members_fit_and_keep_their_operators(seed: int, limit: float) -> None:
    rng = np.random.default_rng(seed)
    genome = TRANSLATION.random(rng)
    lowered = TRANSLATION.lowered(genome, lambda g: TRANSLATION.cost(g).gmacs <= limit, rng)
    if lowered is None:
        numbers = tuple(
            0 if isinstance(g.choices[0], int) else v
            for g, v in zip(TRANSLATION.genes, genome, strict=True)
        )
        assert TRANSLATION.cost(numbers).gmacs > limit
        return
    assert TRANSLATION.cost(lowered).gmacs <= limit
    for gene, before, after in zip(TRANSLATION.genes, genome, lowered, strict=True):
        assert after == before if isinstance(gene.choices[0], str) else after <= before
