"""Early stop: members that train side by side are compared at rungs, dominated ones dropped.

The rungs are those of ASHA (Li et al., MLSys 2020), with domination in the place of rank: members
are there for different costs, so that the worst of them by PSNR may be the one that is wanted. At a
rung a member is dropped where one that costs less is better by more than a margin.

Who is dropped does not depend on who reaches a rung first: :func:`verdict` decides nothing that a
score still to come could change.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from evo_agd.errors import InputError
from evo_agd.files import write_json
from evo_agd.train.distillation import Score
from evo_agd.train.pairs import Pair

Costs = Sequence[float]
Values = Sequence[float | None]
NEVER = float("-inf")  # the value of who took no part in a rung


@dataclass(frozen=True)
class Drop:
    """A member's end: at which rung, counted from 0, and the best of those that dominated it."""

    rung: int
    by: str


def cheaper(one: Costs, other: Costs) -> bool:
    """Whether ``one`` costs less than ``other``: more in nothing and less in something."""
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def verdict(
    costs: Mapping[str, Costs],
    values: Mapping[str, Values],
    rungs: int,
    margin: float,
    settled: AbstractSet[str] = frozenset(),
) -> dict[str, Drop]:
    """Who is dropped, as far as that is certain from what is known.

    Rung by rung, among those that have not been dropped at an earlier one: a member is dropped if
    one that costs less has a value higher by more than ``margin``. Where a value or an earlier
    verdict that matters is not there yet, there is no verdict. So the members found with some of
    the values are among those found with all of them; with all of them each has a verdict at every
    rung that it takes part in, and its ``by`` is one that is not dropped there itself.

    Args:
        values: PSNR in dB of each member at the first rungs, as far as it has come.
        settled: members that are never dropped and that all values of are known.
    """
    rivals = {m: [a for a in costs if cheaper(costs[a], costs[m])] for m in costs}
    dropped: dict[str, Drop] = {}
    unsure: set[str] = set()  # whether dropped at an earlier rung

    def at(member: str, rung: int) -> float | None:
        known = values.get(member, ())
        return known[rung] if rung < len(known) else None

    for rung in range(rungs):
        found: dict[str, Drop] = {}
        doubtful: set[str] = set()
        for member in costs.keys() - dropped.keys() - settled:
            own = at(member, rung)
            there = {a: at(a, rung) for a in rivals[member] if a not in dropped}
            known = {a: v for a, v in there.items() if v is not None}
            better = {a: v for a, v in known.items() if own is not None and v > own + margin}
            certain = [a for a in better if a not in unsure]
            if certain:
                found[member] = Drop(rung, max(certain, key=lambda a: (better[a], a)))
            elif there and (own is None or better or len(known) < len(there)):
                doubtful.add(member)
        dropped |= found
        unsure = (unsure | doubtful) - dropped.keys()
    return dropped


class Notes:
    """What a member scored while it was trained, by step, in a file that is written whole.

    Args:
        label: the member's.
    """

    def __init__(self, folder: Path, label: str) -> None:
        self.path = folder / f"{label}.rungs.json"

    def began_with(self, rungs: Sequence[int]) -> bool:
        """Whether the member's training has begun with these rungs."""
        return self.path.exists() and self._read()["rungs"] == list(rungs)

    def begin(self, rungs: Sequence[int]) -> None:
        """Forget everything."""
        write_json(self.path, {"rungs": list(rungs), "scores": []})

    def scores(self) -> dict[int, Score]:
        """The scores so far, none without a file."""
        raw = self._read()["scores"] if self.path.exists() else []
        return {int(s["step"]): Score(s["distillation_loss"], s["psnr"]) for s in raw}

    def add(self, step: int, score: Score) -> None:
        """Note one; after a kill it may be there already, and is the same."""
        raw = self._read()
        before = [s for s in raw["scores"] if s["step"] < step]
        write_json(self.path, raw | {"scores": [*before, {"step": step, **asdict(score)}]})

    def _read(self) -> dict[str, Any]:
        try:
            value: dict[str, Any] = json.loads(self.path.read_text())
        except (OSError, ValueError) as error:
            raise InputError(self.path, "the scores of this training", error) from error
        return value


@dataclass(frozen=True)
class Race:
    """Which trainings are compared, and when.

    Args:
        pictures: what is scored on, at each rung and at the end.
        costs: of all members by label; the same kinds in the same order.
        rungs: steps in ascending order; without any, everybody trains to the end.
        margin: in dB.
        settled: scores by step of members whose outcome is known from before.
    """

    pictures: Sequence[Pair]
    costs: Mapping[str, Costs]
    rungs: tuple[int, ...] = ()
    margin: float = 0.0
    settled: Mapping[str, Mapping[int, Score]] = field(default_factory=dict)

    def values(self, scores: Mapping[int, Score]) -> list[float]:
        """A member's PSNR at the first rungs, as far as it has come."""
        return [scores[step].psnr for step in self.rungs if step in scores]

    def dropped(self, values: Mapping[str, Values]) -> dict[str, Drop]:
        """The :func:`verdict` on members with these values."""
        known: dict[str, Values] = dict(values)
        for label, scores in self.settled.items():
            known[label] = [scores[s].psnr if s in scores else NEVER for s in self.rungs]
        settled = self.settled.keys()
        return verdict(self.costs, known, len(self.rungs), self.margin, settled)

    def outcome(self, labels: Collection[str], folder: Path) -> dict[str, Drop]:
        """Who is dropped among trainings whose scores are in ``folder``."""
        return self.dropped({m: self.values(Notes(folder, m).scores()) for m in labels})


class Dominated(FIFOScheduler):
    """Stops trials whose verdict is certain; they report their ``label`` and ``values``.

    Args:
        known: values of members whose trials do not report any more.
    """

    _supports_buffered_results = False  # a training waits at a rung for its verdict

    def __init__(self, race: Race, known: Mapping[str, Values] = MappingProxyType({})) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.race = race
        self.values = dict(known)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """STOP for who is dropped, whoever's values brought that about."""
        label = result["label"]
        self.values[label] = result["values"]
        return str(self.STOP if label in self.race.dropped(self.values) else self.CONTINUE)
