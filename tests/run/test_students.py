from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_agd.config import load
from evo_agd.errors import InputError
from evo_agd.evolve.candidates import Candidate
from evo_agd.evolve.state import SearchState, Store
from evo_agd.files import write_json, write_text
from evo_agd.nets.build import space_of
from evo_agd.run.directory import RunDirectory
from evo_agd.run.students import (
    chosen,
    chosen_for_retraining,
    finished,
    front_entry,
    named_genomes,
    outstanding,
    race_of,
    settle,
)
from evo_agd.train.distillation import Score
from evo_agd.train.rungs import Notes

MEMBERS = st.lists(
    st.tuples(st.floats(0.1, 50), st.floats(20, 40)), min_size=1, max_size=40, unique=True
).map(lambda pairs: [{"id": str(i), "gmacs": g, "psnr": p} for i, (g, p) in enumerate(pairs)])


@given(MEMBERS, st.integers(1, 8))
def test_students_are_a_staircase_with_both_ends(members: list, count: int) -> None:
    chosen = chosen_for_retraining(members, count)
    assert 1 <= len(chosen) <= count
    assert [m["gmacs"] for m in chosen] == sorted(m["gmacs"] for m in chosen)
    assert all(a["psnr"] < b["psnr"] for a, b in pairwise(chosen))
    assert max(m["psnr"] for m in members) == chosen[-1]["psnr"]
    if count > 1:
        assert min(m["gmacs"] for m in members) == chosen[0]["gmacs"]


def test_a_gap_in_the_front_costs_no_student() -> None:
    costs = [0.6, 0.62, 0.7, 0.75, 0.8, 4.4]
    members = [{"id": str(i), "gmacs": g, "psnr": 20.0 + i} for i, g in enumerate(costs)]
    assert [len(chosen_for_retraining(members, n)) for n in range(1, 7)] == [1, 2, 3, 4, 5, 6]


def test_they_are_spread_over_the_logarithm_of_cost() -> None:
    members = [{"id": str(i), "gmacs": 2.0 ** (i / 10), "psnr": 20.0 + i} for i in range(41)]
    chosen = chosen_for_retraining(members, 5)
    assert [m["gmacs"] for m in chosen] == [1.0, 2.0, 4.0, 8.0, 16.0]


@pytest.fixture
def searched(tmp_path: Path) -> RunDirectory:
    """A search that scored a, b, c on the front, d behind it and e, which breaks a constraint."""
    run = RunDirectory(tmp_path)
    found = [
        Candidate(
            name,
            (place,),
            {"gmacs": float(place), "psnr": 20.0 + place, "distillation_loss": 0.1},
            float(name == "e"),
            0,
            0.0,
        )
        for place, name in enumerate("abcde", 1)
    ]
    Store(run.history, run.search_state).write(SearchState(candidates=found))
    write_json(run.front, [front_entry(c) for c in found[:3]])
    return run


def ids(members: list) -> list[str]:
    return [m["id"] for m in members]


def test_members_are_chosen_by_number_all_or_id(world: Path, searched: RunDirectory) -> None:
    def choice(*assignments: str) -> list[str]:
        return ids(chosen(searched, load(world / "tiny.yaml", assignments)))

    assert choice("students.count=1") == ["c"]
    assert choice("students.count=all") == ["a", "b", "c"]
    assert choice("students.ids=[d, a, d]", "students.count=1") == ["a", "d"]
    for name in ("e", "nobody"):
        with pytest.raises(InputError, match=rf"students\.ids.*found {name}"):
            choice(f"students.ids=[a, {name}]")


def test_ids_are_of_the_space_and_keep_the_constraints(world: Path) -> None:
    def named(*assignments: str) -> int:
        settings = load(world / "tiny.yaml", assignments)
        return len(named_genomes(settings, space_of(settings)))

    assert named("students.ids=[f4-r1x4-s, f8-r3x8-n6]") == 2
    with pytest.raises(InputError, match="f4-r1x5-s"):
        named("students.ids=[f4-r1x4-s, f4-r1x5-s]")
    with pytest.raises(InputError, match="keep the constraints, found f8-r3x8-n6"):
        named("students.ids=[f4-r1x4-s, f8-r3x8-n6]", "constraints.gmacs.max=0.2")


def test_what_became_of_members_is_kept(world: Path, searched: RunDirectory) -> None:
    def settings(*more: str) -> object:
        return load(world / "tiny.yaml", ["students.margin=0.5", *more])

    def train(name: str, *psnrs: float, weights: bool) -> None:
        notes = Notes(searched.retraining, name)
        notes.begin([2, 3])
        for step, psnr in zip((2, 3, 6), psnrs, strict=False):
            notes.add(step, Score(0.1, psnr))
        if weights:
            write_text(searched.retraining / name / "student.safetensors", "")

    first = settings("students.ids=[a, c]")
    members = outstanding(searched, first)
    assert ids(members) == ["a", "c"]
    train("a", 25.0, 26.0, 27.0, weights=True)
    train("c", 24.9, 25.0, 30.0, weights=True)  # its verdict came when it had gone on
    settle(searched, members, race_of(searched, first, members, []))
    outcomes = searched.read_outcomes()
    assert outcomes["c"]["stopped"] == {"step": 3, "by": "a", "psnr": 25.0, "psnr_by": 26.0}
    assert [s["step"] for s in outcomes["c"]["scores"]] == [2, 3]
    assert ids(finished(searched, first)) == ["a"] and not outstanding(searched, first)
    # Another one later: compared with those of before, which stay as they are.
    second = settings("students.count=all")
    members = outstanding(searched, second)
    assert ids(members) == ["b"]
    train("b", 24.0, weights=False)
    settle(searched, members, race_of(searched, second, members, []))
    outcomes = searched.read_outcomes()
    assert outcomes["b"]["stopped"]["by"] == "a" and list(outcomes) == ["a", "b", "c"]
    assert not outstanding(searched, second)
    assert ids(outstanding(searched, settings("students.count=all", "students.rungs=[]"))) == [
        "b",
        "c",
    ]
