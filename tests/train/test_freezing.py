from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from evo_agd.config.settings import TranslationTraining
from evo_agd.nets.translation import TranslationStudent
from evo_agd.space.layers import Layer
from evo_agd.space.translation import TranslationArchitecture
from evo_agd.train.freezing import frozen_student
from evo_agd.train.losses import DistillationLoss
from evo_agd.train.pairs import Pair
from tests.conftest import photograph

ARCHITECTURE = TranslationArchitecture((8, 8, 8), (Layer("residual", 8),), (8, 8))


def made(freeze: float, checkpoint: Path | None = None, fail_at: int = 99) -> TranslationStudent:
    torch.manual_seed(0)
    net = TranslationStudent(ARCHITECTURE)
    photos = [photograph(40, 48, seed) for seed in range(3)]
    pairs = [
        Pair(str(i), p, p[..., ::-1].copy(), p[..., ::-1].copy()) for i, p in enumerate(photos)
    ]
    settings = TranslationTraining(steps=20, batch=2, crop=16, learning_rate=0.01, freeze=freeze)

    def tick(step: int, note: str) -> None:
        if step == fail_at:
            raise KeyboardInterrupt

    return frozen_student(
        net, pairs, settings, label="x", loss=DistillationLoss({"teacher_l1": 1.0}), seed=0,
        bf16=False, checkpoint=checkpoint, tick=tick,
    )  # fmt: skip


def test_frozen_at_the_end_or_trained_on() -> None:
    plain, trained = made(0.0), made(0.4)
    for net in (plain, trained):
        assert net.architecture.frozen and net.stem_full.bias is not None
    assert not torch.equal(plain.stem_full.weight, trained.stem_full.weight)
    again = made(0.4)
    for key, value in trained.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


def test_a_part_of_the_steps_is_without_norms() -> None:
    assert TranslationTraining(steps=50, freeze=0.1).frozen_steps == 5
    assert TranslationTraining(steps=50, freeze=0).frozen_steps == 0
    assert TranslationTraining(steps=50, freeze=None).frozen_steps == 0
    with pytest.raises(ValueError, match=r"0\.4"):
        TranslationTraining(steps=50, freeze=0.5)


def test_it_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evo_agd.train.loop.CHECKPOINT_SECONDS", 0.0)
    whole = made(0.4)
    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        made(0.4, state, fail_at=5)
    assert state.exists()
    for key, value in made(0.4, state).state_dict().items():
        assert np.array_equal(value.numpy(), whole.state_dict()[key].numpy())
