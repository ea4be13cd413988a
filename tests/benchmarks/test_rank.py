from __future__ import annotations

import numpy as np
import pytest

from evo_agd.benchmarks.rank import agreement


def test_perfect_scores() -> None:
    alone = np.array([[20.0, 20.2], [22.0, 22.2], [21.0, 21.2]])
    found = agreement([1.0, 3.0, 2.0], [5.0, 3.0, 4.0], alone)
    assert found.tau_score == found.rho_score == pytest.approx(1.0)
    assert found.tau_gmacs == pytest.approx(-1.0)
    assert found.tau_seeds == pytest.approx(1.0)
    assert found.spread_architectures == pytest.approx(1.0)
    assert found.spread_seeds == pytest.approx(np.sqrt(0.02))
    assert found.mean_gap == pytest.approx(21.1 - 2.0)


def test_one_seed_says_nothing_about_seeds() -> None:
    found = agreement([1.0, 2.0], [1.0, 2.0], np.array([[1.0], [2.0]]))
    assert found.tau_seeds is None and found.spread_seeds is None
