from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from evo_agd.train import loop
from evo_agd.train.loop import DivergedError, Schedule, fit


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 3, padding=1))


def losses_of(net: nn.Module) -> loop.Losses:
    def loss(step: int, part: int) -> Tensor:
        x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(10 * step + part))
        return (net(x) - x).abs().mean()

    return lambda step: [partial(loss, step, part) for part in range(3)]


class KilledError(Exception):
    pass


@pytest.mark.parametrize("at", [1, 7, 19])
def test_killed_and_resumed_is_the_same_to_the_bit(
    tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = Schedule(20, 1e-2, ema=0.9)
    whole = network()
    fit(whole, losses_of(whole), schedule)

    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)

    def die(step: int, note: str) -> None:
        if step == at:
            raise KilledError

    first = network()
    with pytest.raises(KilledError):
        fit(first, losses_of(first), schedule, checkpoint=tmp_path / "state", tick=die)
    second = network()
    fit(second, losses_of(second), schedule, checkpoint=tmp_path / "state")
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_it_learns() -> None:
    net = network()
    losses = losses_of(net)
    before = float(losses(99)[0]().detach())
    fit(net, losses, Schedule(80, 1e-2, ema=0.9))
    assert float(losses(99)[0]().detach()) < 0.6 * before


def test_a_loss_that_is_no_number_stops_it() -> None:
    net = network()

    def loss(step: int) -> Tensor:
        return next(net.parameters()).sum() * float("nan" if step == 2 else 1)

    with pytest.raises(DivergedError, match="step 2"):
        fit(net, lambda step: [partial(loss, step)], Schedule(5, 1e-3))


@pytest.mark.parametrize("workers", [2, 3])
def test_the_number_of_workers_does_not_matter(workers: int) -> None:
    alone, together = network(), network()
    fit(alone, losses_of(alone), Schedule(12, 1e-2))
    fit(together, losses_of(together), Schedule(12, 1e-2), workers=workers)
    for a, b in zip(alone.parameters(), together.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_learning_rate_rises_and_falls() -> None:
    schedule = Schedule(100, 1.0)
    rates = [schedule.rate(s) for s in range(100)]
    assert max(rates) == pytest.approx(1.0)
    assert rates[0] == pytest.approx(0.1) and rates[-1] < 0.02


def test_wide_layers_learn_more_slowly() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(32, 4, 5))
    shares = {g["share"]: len(g["params"]) for g in loop._groups(net)}
    assert shares == {1.0: 3, loop.FAN_IN / 800: 1}
