"""Several trainings at once, the dominated ones stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from safetensors.torch import load_file

from evo_agd.config.settings import StudentTraining
from evo_agd.errors import InputError
from evo_agd.evolve.cluster import cluster
from evo_agd.space.super_resolution import SuperResolutionSpace
from evo_agd.train import retraining
from evo_agd.train.losses import DistillationLoss
from evo_agd.train.pairs import Pair
from evo_agd.train.retraining import Member, has_weights, retrain
from evo_agd.train.rungs import Notes, Race
from tests.conftest import photograph

SETTINGS = StudentTraining(steps=8, batch=1, crop=8, learning_rate=0.01, rungs=(0.25, 0.5))
NAMES = ("f4-r1x4-s", "f4-r1x8-s", "f4-m3x8-s")


def pictures() -> list[Pair]:
    high = photograph(64, 64, 0)
    return [Pair("x", high[::4, ::4].copy(), high, high)]


@pytest.fixture(scope="module")
def two_cores() -> Iterator[None]:
    with cluster(None, 2):
        yield


@pytest.fixture(scope="module")
def alone(
    tiny_space: SuperResolutionSpace, tmp_path_factory: pytest.TempPathFactory, two_cores: None
) -> Path:
    """Where nobody is compared with anybody, since all cost the same."""
    folder = tmp_path_factory.mktemp("alone")
    trained(tiny_space, folder, Race(pictures(), dict.fromkeys(NAMES, (1.0,)), (2, 4)))
    return folder


def same(name: str, *folders: Path) -> bool:
    found = [load_file(folder / name / "student.safetensors") for folder in folders]
    return all((a == b).all() for a, b in zip(*(f.values() for f in found), strict=True))


def trained(space: SuperResolutionSpace, folder: Path, race: Race | None, **more: Any) -> None:
    members = [Member(name, space.parse(name)) for name in NAMES]
    retrain(
        members,
        folder,
        pictures(),
        SETTINGS,
        loss=DistillationLoss({"truth_l1": 1.0}),
        seed=0,
        bf16=False,
        race=race,
        **more,
    )


def test_the_dominated_are_stopped_and_the_others_trained_as_alone(
    tiny_space: SuperResolutionSpace, tmp_path: Path, alone: Path
) -> None:
    together = tmp_path
    scores = {name: Notes(alone, name).scores() for name in NAMES}
    assert all(list(s) == [2, 4, 8] and has_weights(alone, n) for n, s in scores.items())
    # As if the better they were, the cheaper: all but the best at the first rung are dominated.
    best, *others = sorted(NAMES, key=lambda n: -scores[n][2].psnr)
    costs = {name: (float(place),) for place, name in enumerate((best, *others))}
    race = Race(pictures(), costs, (2, 4))
    trained(tiny_space, together, race)
    outcome = race.outcome(NAMES, together)
    assert outcome.keys() == set(others) and {d.by for d in outcome.values()} == {best}
    assert {d.rung for d in outcome.values()} == {0}
    assert same(best, alone, together)
    assert Notes(together, best).scores() == scores[best]
    before = sorted(together.iterdir())
    trained(tiny_space, together, race)  # nothing is done again
    assert sorted(together.iterdir()) == before
    # Other rungs: those that are not stopped are trained again, since their scores are missing.
    trained(tiny_space, together, Race(pictures(), costs, (6,)))
    assert list(Notes(together, best).scores()) == [6, 8]


def test_a_worker_that_is_killed_costs_nothing(
    tiny_space: SuperResolutionSpace,
    tmp_path: Path,
    alone: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed: set[str] = set()
    listen = retraining._Watch.on_trial_result

    def kill_once(self: Any, iteration: int, trials: Any, trial: Any, result: dict) -> None:
        if not killed:
            killed.add(result["label"])
            os.kill(result["pid"], signal.SIGKILL)
        listen(self, iteration, trials, trial, result)

    monkeypatch.setattr(retraining._Watch, "on_trial_result", kill_once)
    trained(tiny_space, tmp_path, Race(pictures(), dict.fromkeys(NAMES, (1.0,)), (2, 4)))
    assert len(killed) == 1
    for name in NAMES:
        assert same(name, alone, tmp_path)
        assert Notes(tmp_path, name).scores() == Notes(alone, name).scores()


def test_gpus_that_are_not_there_are_told(
    tiny_space: SuperResolutionSpace, tmp_path: Path, two_cores: None
) -> None:
    if ray.cluster_resources().get("GPU"):
        pytest.skip("there is a GPU here")
    with pytest.raises(InputError, match=r"compute\.gpus_per_student"):
        trained(tiny_space, tmp_path, None, gpus=0.5)
