"""Which members of a run are retrained, and what became of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from evo_agd.config import Settings
from evo_agd.config.settings import ANALYTIC
from evo_agd.errors import InputError
from evo_agd.evolve.candidates import Candidate, affordable
from evo_agd.evolve.state import SearchState, scored
from evo_agd.files import write_json
from evo_agd.nets.build import Space
from evo_agd.run.directory import RunDirectory
from evo_agd.space.genes import Genome
from evo_agd.train.distillation import Score
from evo_agd.train.pairs import Pair
from evo_agd.train.retraining import has_weights
from evo_agd.train.rungs import Notes, Race
from evo_agd.train.sources import thinned

Entry = dict[str, Any]
"""A member as ``front.json`` or ``students.json`` has it."""


def front_entry(candidate: Candidate) -> Entry:
    """A front member as ``front.json`` has it."""
    return {"id": candidate.id, "genome": list(candidate.genome), **candidate.values}


def named_genomes(settings: Settings, space: Space) -> list[Genome]:
    """The members that ``students.ids`` names, which the search is to begin with.

    Raises:
        InputError: an id that is none, or not of a member that keeps the constraints on cost.
    """
    found = []
    for name in settings.students.ids:
        try:
            genome = space.genome_of(name)
        except ValueError as error:
            expected = "ids of architectures of this space"
            raise InputError("students.ids", expected, f"{name} ({error})") from error
        if not affordable(genome, space, settings.constraints):
            raise InputError("students.ids", "members that keep the constraints", name)
        found.append(genome)
    return found


COSTS = ("latency_int8_ms", "latency_ms")
"""What members are spread over, before GMACs."""


def chosen_for_retraining(members: Sequence[Entry], count: int) -> list[Entry]:
    """Front members spread evenly over the logarithm of cost, best and cheapest included.

    Only members with a better PSNR than every cheaper one are of use to somebody who picks by cost.
    Cost is what was searched for: milliseconds where they are an objective, INT8's before others,
    else GMACs. (By GMACs the default front offered networks whose INT8 files were hardly faster
    than their FP32 ones, beside others as good that were.)
    """
    cost = next((name for name in COSTS if members and name in members[0]), "gmacs")
    stairs: list[Entry] = []
    for member in sorted(members, key=lambda m: (m[cost], -m["psnr"])):
        if not stairs or member["psnr"] > stairs[-1]["psnr"]:
            stairs.append(member)
    if len(stairs) <= count:
        return stairs
    if count == 1:
        return stairs[-1:]
    low, high = math.log(stairs[0][cost]), math.log(stairs[-1][cost])
    chosen, between = [stairs[0], stairs[-1]], stairs[1:-1]
    for position in range(1, count - 1):
        wanted = low + (high - low) * position / (count - 1)
        nearest = min(between, key=lambda m: abs(math.log(m[cost]) - wanted))
        between.remove(nearest)
        chosen.append(nearest)
    return sorted(chosen, key=lambda m: m[cost])


def chosen(run: RunDirectory, settings: Settings) -> list[Entry]:
    """The members that the settings ask for, cheapest first.

    Raises:
        InputError: the search is not done, or has not scored one that is named.
    """
    front, students = run.read_front(), settings.students
    if not students.ids:
        whole = students.count == "all"
        return front if whole else chosen_for_retraining(front, int(students.count))
    known = {m["id"]: m for m in front}
    if not known.keys() >= set(students.ids):
        state = SearchState.read(run.history, run.search_state)
        candidates = scored(state.candidates) if state else []
        known |= {c.id: front_entry(c) for c in candidates if not c.violation and c.id not in known}
    for name in students.ids:
        if name not in known:
            expected = "ids of the front, or of others that the search has scored and that keep "
            raise InputError("students.ids", f"{expected}the constraints", name)
    members = (known[name] for name in dict.fromkeys(students.ids))
    return sorted(members, key=lambda m: (m["gmacs"], m["id"]))


def outstanding(run: RunDirectory, settings: Settings) -> list[Entry]:
    """Chosen members without an outcome yet.

    Being stopped is one as long as there are rungs: without any, it is trained to the end.
    """
    known = run.read_outcomes()

    def settled(name: str) -> bool:
        if run.student(name).exists():
            return True
        if name not in known:
            return False
        if known[name]["stopped"]:
            return bool(settings.students.rungs)
        return has_weights(run.retraining, name)

    return [m for m in chosen(run, settings) if not settled(m["id"])]


def finished(run: RunDirectory, settings: Settings) -> list[Entry]:
    """All members that have been trained to the end, chosen ones or not, cheapest first."""
    known = {m["id"]: m for m in chosen(run, settings)} | run.read_outcomes()
    return sorted(
        (
            m
            for m in known.values()
            if not m.get("stopped")
            and (run.student(m["id"]).exists() or has_weights(run.retraining, m["id"]))
        ),
        key=lambda m: (m["gmacs"], m["id"]),
    )


def race_of(
    run: RunDirectory, settings: Settings, members: Sequence[Entry], validation: Sequence[Pair]
) -> Race:
    """How these members are compared with each other, and with those of before."""
    names = ["gmacs", *(o for o in settings.objectives if o in ANALYTIC and o != "gmacs")]
    now = {m["id"] for m in members}
    before = [m for name, m in run.read_outcomes().items() if name not in now]
    return Race(
        pictures=thinned(list(validation), settings.search.pictures),
        costs={m["id"]: [m[name] for name in names] for m in (*before, *members)},
        rungs=settings.students.rung_steps,
        margin=settings.students.margin,
        settled={m["id"]: _scores(m) for m in before},
    )


def _scores(entry: Entry) -> dict[int, Score]:
    return {s["step"]: Score(s["distillation_loss"], s["psnr"]) for s in entry["scores"]}


def settle(run: RunDirectory, members: Sequence[Entry], race: Race) -> None:
    """Write into ``students.json`` what became of members whose trainings have ended."""
    scores = {m["id"]: Notes(run.retraining, m["id"]).scores() for m in members}
    dropped = race.outcome(scores, run.retraining)
    known = run.read_outcomes()
    for member in members:
        name, drop = member["id"], dropped.get(member["id"])
        stopped: dict[str, Any] | None = None
        if drop is not None:
            step = race.rungs[drop.rung]
            rival = (scores.get(drop.by) or race.settled[drop.by])[step]
            stopped = {"step": step, "by": drop.by}
            stopped |= {"psnr": scores[name][step].psnr, "psnr_by": rival.psnr}
        listed = [
            {"step": step, "psnr": s.psnr, "distillation_loss": s.distillation_loss}
            for step, s in scores[name].items()
            # What a verdict that came late let it reach would depend on who was how fast.
            if stopped is None or step <= stopped["step"]
        ]
        known[name] = {**member, "scores": listed, "stopped": stopped}
    write_json(run.outcomes, sorted(known.values(), key=lambda m: (m["gmacs"], m["id"])))


def before_and_after(entry: Entry) -> dict[str, float]:
    """A trained member's figures in the supernet and retrained, on the pictures of the search."""
    found = {f"{name}_supernet": entry[name] for name in ("psnr", "distillation_loss")}
    if entry.get("scores"):
        last = entry["scores"][-1]
        found |= {f"{name}_retrained": last[name] for name in ("psnr", "distillation_loss")}
    return found
