from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from evo_agd.run.students import chosen_for_retraining

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
