"""Scored architectures: their objectives, their constraints, and the front among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from moocore import hypervolume, is_nondominated
from numpy.typing import NDArray

from evo_agd.config.settings import MAXIMISED, Bound
from evo_agd.space.cost import Cost
from evo_agd.space.genes import Genome, SearchSpace


@dataclass(frozen=True)
class Candidate:
    """One evaluated architecture.

    Args:
        values: all objectives and figures of cost, by name.
        violation: how far outside the constraints it is, 0 when feasible.
    """

    id: str
    genome: Genome
    values: Mapping[str, float]
    violation: float
    generation: int
    seconds: float
    failed: str = ""
    """Why it has no figures, if it has none."""
    raced_out: bool = False
    """Scored on less than everything, and dominated there."""


def cost_values(cost: Cost) -> dict[str, float]:
    """The analytic objectives by name."""
    values = {
        "gmacs": cost.gmacs,
        "params": cost.params,
        "memory_mb": cost.memory_mb,
        "int8_memory_mb": cost.int8_memory_mb,
        "latency_ms": cost.latency_ms,
        "latency_int8_ms": cost.latency_int8_ms,
    }
    return {name: value for name, value in values.items() if value is not None}


def violation(values: Mapping[str, float], constraints: Mapping[Any, Bound]) -> float:
    """Sum of relative violations over the constraints on values that are known; 0 is feasible."""
    total = 0.0
    for name, bound in constraints.items():
        if name in values:
            limit = max(abs(bound.max or 0.0), abs(bound.min or 0.0)) or 1.0
            total += bound.violation(values[name]) / limit
    return total


def affordable(genome: Genome, space: SearchSpace[Any], constraints: Mapping[Any, Bound]) -> bool:
    """Whether a genome keeps the constraints on cost, which are known without scoring."""
    return violation(cost_values(space.cost(genome)), constraints) == 0.0


def minimised(candidates: Sequence[Candidate], objectives: Sequence[str]) -> NDArray[np.float64]:
    """Objectives as a matrix (candidates, objectives) in which less is better."""
    return np.array(
        [[-c.values[o] if o in MAXIMISED else c.values[o] for o in objectives] for c in candidates],
        dtype=np.float64,
    ).reshape(len(candidates), len(objectives))


def front(candidates: Sequence[Candidate], objectives: Sequence[str]) -> list[Candidate]:
    """The feasible candidates that no other feasible one dominates, cheapest first."""
    feasible = [c for c in candidates if c.violation == 0.0]
    if not feasible:
        return []
    keep = is_nondominated(minimised(feasible, objectives))
    members = [c for c, kept in zip(feasible, keep, strict=True) if kept]
    return sorted(members, key=lambda c: (c.values["gmacs"], c.id))


def reference_point(
    candidates: Sequence[Candidate], objectives: Sequence[str]
) -> NDArray[np.float64]:
    """Where hypervolume is measured from: a tenth of the spread beyond the worst of each."""
    points = minimised(candidates, objectives)
    worst: NDArray[np.float64] = points.max(axis=0)
    spread = np.maximum(worst - points.min(axis=0), 1e-9)
    return worst + 0.1 * spread


def volume(
    candidates: Sequence[Candidate],
    objectives: Sequence[str],
    reference: NDArray[np.float64],
    ideal: NDArray[np.float64],
) -> float:
    """Hypervolume of the feasible candidates, each objective scaled so that the box
    between ``ideal`` and ``reference`` has volume 1."""
    feasible = [c for c in candidates if c.violation == 0.0]
    if not feasible:
        return 0.0
    scaled = (minimised(feasible, objectives) - ideal) / (reference - ideal)
    return float(hypervolume(scaled, ref=np.ones(len(objectives))))
