from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from torch import nn

from evo_agd.config import load
from evo_agd.evolve.scoring import Scorer
from evo_agd.nets.build import space_of, supernet_of
from evo_agd.space.genes import Genome
from evo_agd.train.distillation import score
from evo_agd.train.losses import DistillationLoss
from evo_agd.train.pairs import Pair
from tests.conftest import photograph

LOSS = DistillationLoss({"teacher_l1": 1.0})
NAMES = ("sr_x4_small", "agd_esrgan_x4", "agd_cyclegan")


def world(name: str) -> tuple[Any, nn.Module, list[Pair]]:
    """A shipped space with few, small pictures."""
    settings = load(Path(f"{name}.yaml"))
    pairs = []
    for index, (height, width) in enumerate(((24, 32), (32, 28))):
        high = photograph(height * settings.scale, width * settings.scale, index)
        low = high[:: settings.scale, :: settings.scale].copy()
        pairs.append(Pair("x", low, high, high[::-1].copy()))
    return space_of(settings), supernet_of(settings).eval(), pairs


def families(space: Any, count: int, seed: int = 0) -> list[Genome]:
    """Members of which many begin alike."""
    rng = np.random.default_rng(seed)
    first = space.random(rng)
    found = {first: None}
    while len(found) < count:
        values = list(first)
        for place in rng.integers(len(values) // 2, len(values), 3):
            values[place] = int(rng.integers(len(space.genes[place].choices)))
        found[space.canonical(tuple(values))] = None
    return list(found)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shared_changes_no_bit(name: str) -> None:
    space, net, pairs = world(name)
    genomes = families(space, 8)
    alone = Scorer(net, space.decode, pairs, loss=LOSS, bf16=False, prefix_mb=1e-6)
    expected = [alone.score([g])[0].figures for g in genomes]
    assert alone.steps_saved == 0
    for limit in (0.2, 500.0):
        scorer = Scorer(net, space.decode, pairs, loss=LOSS, bf16=False, prefix_mb=limit)
        assert [s.figures for s in scorer.score(genomes)] == expected
        assert [s.figures for s in scorer.score(genomes[::-1])] == expected[::-1]
        assert scorer.kept.size <= limit * 1e6
    assert scorer.steps_saved > scorer.steps_run / 4
    for genome, figures in zip(genomes[:3], expected, strict=False):
        path = space.decode(genome)
        here = score(lambda x, p=path: net(x, p), pairs, loss=LOSS, bf16=False)
        assert figures is not None
        assert figures["psnr"] == pytest.approx(here.psnr, abs=1e-4)
        assert figures["distillation_loss"] == pytest.approx(here.distillation_loss, rel=1e-5)


@pytest.mark.parametrize("upsampler", ["nearest", "esrgan", "shuffle", "shuffle_twice"])
@pytest.mark.parametrize("scale", [2, 4])
def test_the_short_cuts_of_inference_are_the_same(upsampler: str, scale: int) -> None:
    from evo_agd.nets.upsamplers import UPSAMPLER_CLASSES

    torch.manual_seed(0)
    tail = UPSAMPLER_CLASSES[upsampler](10, 12, scale)
    for parameter in tail.parameters():
        nn.init.normal_(parameter, std=0.2)
    x = torch.randn(2, 10, 9, 14)
    for width in (6, 8, 12):
        with torch.no_grad():
            plain = tail(x, width)
        with torch.inference_mode():
            quick = tail(x, width)
        torch.testing.assert_close(quick, plain, rtol=0, atol=2e-5)


class Trapped(nn.Module):
    """A supernet whose last step goes wrong for wide upsamplers."""

    def __init__(self, net: Any, what: str) -> None:
        super().__init__()
        self.net, self.what = net, what

    def steps(self, path: Any) -> Any:
        steps = self.net.steps(path)
        if path.upsampler_width != 12:
            return steps

        def spring(state: Any) -> Any:
            if self.what == "memory":
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return (steps[-1].run(state)[0] * float("nan"),)

        return [*steps[:-1], steps[-1]._replace(run=spring)]


@pytest.mark.parametrize(("what", "reason"), [("nan", "is nan"), ("memory", "can't allocate")])
def test_what_goes_wrong_is_told_and_spares_the_others(what: str, reason: str) -> None:
    space, net, pairs = world("sr_x4_small")
    rng = np.random.default_rng(0)
    genomes = [space.random(rng) for _ in range(10)]
    bad = [space.decode(g).upsampler_width == 12 for g in genomes]
    assert 0 < sum(bad) < 10
    scorer = Scorer(Trapped(net, what), space.decode, pairs, loss=LOSS, bf16=False, prefix_mb=50.0)
    for scored, is_bad in zip(scorer.score(genomes), bad, strict=True):
        assert (scored.figures is None) == is_bad == (reason in scored.error)


def test_further_figures_are_of_the_member_itself() -> None:
    space, net, pairs = world("sr_x4_small")
    rng = np.random.default_rng(0)
    genomes = [space.random(rng) for _ in range(3)]

    def weights(student: nn.Module) -> float:
        return float(sum(p.numel() for p in student.parameters()))

    scorer = Scorer(
        net,
        space.decode,
        pairs,
        loss=LOSS,
        bf16=False,
        prefix_mb=50.0,
        extras={"weights": weights},
    )
    for genome, scored in zip(genomes, scorer.score(genomes), strict=True):
        assert scored.figures is not None
        assert scored.figures["weights"] == space.cost(genome).params


def test_bf16_keeps_the_order_of_scores() -> None:
    """On a supernet whose members differ as those of a trained one do, by hundredths of dB."""
    space, net, pairs = world("sr_x4_small")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
    rng = np.random.default_rng(1)
    genomes = [space.random(rng) for _ in range(24)]
    psnr = {}
    for bf16 in (False, True):
        scorer = Scorer(net, space.decode, pairs, loss=LOSS, bf16=bf16, prefix_mb=50.0)
        psnr[bf16] = [s.figures["psnr"] for s in scorer.score(genomes) if s.figures]
    assert kendalltau(psnr[False], psnr[True]).statistic > 0.97
