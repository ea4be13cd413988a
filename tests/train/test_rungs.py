from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo_agd.errors import InputError
from evo_agd.train.distillation import Score
from evo_agd.train.rungs import Notes, Race, cheaper, verdict

MARGIN = 1.0


@st.composite
def races(draw: st.DrawFn) -> tuple[dict, dict, int]:
    """Costs (two kinds, few levels, so that there are ties), all values, and how many rungs."""
    size, rungs = draw(st.integers(1, 7)), draw(st.integers(0, 3))
    names = [chr(ord("a") + i) for i in range(size)]
    cost = st.tuples(st.integers(0, 3), st.integers(0, 2))
    values = st.lists(st.integers(0, 6), min_size=rungs, max_size=rungs)
    return {n: draw(cost) for n in names}, {n: draw(values) for n in names}, rungs


@given(races(), st.randoms(use_true_random=False), st.booleans())
@settings(max_examples=400)
def test_any_order_of_arrival_drops_the_same(race: tuple, random: object, lazy: bool) -> None:
    costs, values, rungs = race
    whole = verdict(costs, values, rungs, MARGIN)
    known: dict[str, list[float]] = {n: [] for n in costs}
    running = set(costs)
    while running:
        name = random.choice(sorted(running))
        so_far = verdict(costs, known, rungs, MARGIN)
        assert so_far.keys() <= whole.keys()
        # A stop reaches a training at its next report, or even later.
        if len(known[name]) == rungs or (name in so_far and not (lazy and random.random() < 0.5)):
            running.remove(name)
        else:
            known[name].append(values[name][len(known[name])])
    assert verdict(costs, known, rungs, MARGIN) == whole


@given(races())
@settings(max_examples=400)
def test_who_is_dropped_was_dominated_by_one_that_goes_on(race: tuple) -> None:
    costs, values, rungs = race
    dropped = verdict(costs, values, rungs, MARGIN)
    for name, drop in dropped.items():
        assert cheaper(costs[drop.by], costs[name])
        assert values[drop.by][drop.rung] > values[name][drop.rung] + MARGIN
        assert drop.by not in dropped or dropped[drop.by].rung > drop.rung
    for name in costs.keys() - dropped.keys():
        for rung in range(rungs):
            there = [a for a in costs if a not in dropped or dropped[a].rung >= rung]
            assert not any(
                cheaper(costs[a], costs[name]) and values[a][rung] > values[name][rung] + MARGIN
                for a in there
            )
    least = [n for n in costs if not any(cheaper(c, costs[n]) for c in costs.values())]
    assert least and not dropped.keys() & set(least)


def test_what_is_settled_is_not_dropped_any_more_but_drops_others() -> None:
    costs = {"old": (1,), "older": (2,), "new": (3,)}
    scores = {"old": {10: Score(0.1, 30.0)}, "older": {10: Score(0.1, 20.0)}}
    race = Race([], costs, (10, 20), MARGIN, settled=scores)
    dropped = race.dropped({"new": [28.0]})
    assert dropped.keys() == {"new"} and dropped["new"].by == "old"
    assert not race.dropped({"new": [29.5, 1.0]})  # nobody of before has a score at 20


def test_a_value_that_is_not_there_yet_leaves_it_open() -> None:
    costs = {"a": (1,), "b": (2,), "c": (3,)}
    # b may be dropped by a at the first rung: then its second value drops nobody.
    open_still = {"b": [30.0, 40.0], "c": [30.0, 30.0]}
    assert not verdict(costs, open_still, 2, MARGIN)
    assert verdict(costs, open_still | {"a": [25.0]}, 2, MARGIN).keys() == {"c"}
    assert verdict(costs, open_still | {"a": [35.0, 30.0]}, 2, MARGIN).keys() == {"b", "c"}


def test_notes_are_kept_and_begun_again_with_other_rungs(tmp_path: Path) -> None:
    notes = Notes(tmp_path, "a")
    assert notes.scores() == {} and not notes.began_with([2, 4])
    notes.begin([2, 4])
    for step, psnr in zip((2, 4, 4), count(30), strict=False):
        notes.add(step, Score(0.1, float(psnr)))
    assert notes.began_with([2, 4]) and not notes.began_with([2])
    assert notes.scores() == {2: Score(0.1, 30.0), 4: Score(0.1, 32.0)}
    notes.path.write_text("[")
    with pytest.raises(InputError, match=r"a\.rungs\.json"):
        notes.scores()
