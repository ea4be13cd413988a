"""Every shipped search space: loads, counts, cuts, trains, exports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from evo_agd.config import Settings, load
from evo_agd.deploy.onnx_file import export, session
from evo_agd.nets.build import space_of, student_of, supernet_of
from evo_agd.train.distillation import supernet_losses
from evo_agd.train.loop import Schedule, fit
from evo_agd.train.losses import DistillationLoss
from evo_agd.train.pairs import CropSampler, Pair
from tests.conftest import ROOT, photograph

SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))
MEMBERS = 50


@pytest.fixture(params=SPACES, ids=lambda path: path.stem)
def space_file(request: pytest.FixtureRequest) -> Path:
    return request.param


def small(path: Path) -> Settings:
    """The settings with a small input, which costs are linear in."""
    return load(path, ["input_size=[16, 24]"])


def test_all_spaces_of_the_paper_and_ours_are_there() -> None:
    names = {path.stem for path in SPACES}
    assert names >= {"agd_esrgan_x4", "agd_cyclegan", "esrgan_x4", "sr_x4_small"}
    assert names >= {"horse2zebra", "zebra2horse", "summer2winter", "winter2summer"}


def test_it_loads_with_each_budget(space_file: Path) -> None:
    settings = load(space_file)
    if settings.budget is not None:
        assert settings.budget == "small"
        full = load(space_file, ["budget=full"])
        assert full.supernet.steps > 10 * settings.supernet.steps
        assert full.genes == settings.genes


def test_analytic_cost_is_what_a_counter_finds_on_the_built_network(space_file: Path) -> None:
    settings = small(space_file)
    space, rng = space_of(settings), np.random.default_rng(0)
    x = torch.zeros(1, 3, *settings.input_size)
    for _ in range(MEMBERS):
        genome = space.random(rng)
        assert space.genome_of(space.id_of(genome)) == genome
        net = student_of(space.decode(genome)).folded()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(x)
        cost = space.cost(genome)
        assert counter.get_total_flops() == 2 * round(cost.gmacs * 1e9)
        assert sum(p.numel() for p in net.parameters()) == cost.params


def test_a_cut_student_is_its_path(space_file: Path) -> None:
    settings = small(space_file)
    space, net, rng = space_of(settings), supernet_of(settings), np.random.default_rng(1)
    with torch.no_grad():
        for parameter in net.parameters():  # biases too: zeros would hide a wrong slice
            parameter.add_(0.02 * torch.randn_like(parameter))
        x = torch.rand(1, 3, 16, 20)
        for _ in range(5):
            path = space.decode(space.random(rng))
            student = net.cut(path)  # type: ignore[arg-type]
            expected = net(x, path)
            assert (student(x) - expected).abs().max() <= 1e-6
            folded = student.folded()(x)
            assert (folded - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max())


def test_it_trains_two_steps(space_file: Path) -> None:
    settings = small(space_file)
    space, net = space_of(settings), supernet_of(settings)
    high = photograph(16 * settings.scale, 20 * settings.scale, 0)
    low = high[:: settings.scale, :: settings.scale].copy()
    loss = DistillationLoss({"teacher_l1": 1.0})
    losses = supernet_losses(
        lambda x, genome: net(x, space.decode(genome)),  # type: ignore[arg-type]
        space,
        CropSampler([Pair("x", low, high, high)], 1, 16, 0, upright=settings.scale == 1),
        warm_up=1,
        paths=1,
        anchored=1,
        loss=loss,
        bf16=False,
        fits=lambda genome, limit: space.cost(genome).gmacs <= 10 * limit,
    )
    before = {k: v.clone() for k, v in net.state_dict().items()}
    fit(net, losses, Schedule(2, 1e-3))
    after = net.state_dict()
    assert any(not torch.equal(v, after[k]) for k, v in before.items())
    assert all(torch.isfinite(v).all() for v in after.values())


def test_a_member_exports(space_file: Path, tmp_path: Path) -> None:
    space = space_of(small(space_file))
    genome = space.lowered(
        space.random(np.random.default_rng(2)), lambda g: sum(g) < 12, np.random.default_rng(2)
    )
    net = student_of(space.decode(genome or space.smallest()[0])).folded().eval()
    export(net, tmp_path / "net.onnx")
    model = session(tmp_path / "net.onnx", 1)
    assert model.get_outputs()[0].name == ("translated" if net.scale == 1 else "upscaled")
    x = torch.rand(2, 3, 20, 28)
    with torch.no_grad():
        expected = net(x).numpy()
    (found,) = model.run(None, {"image": x.numpy()})
    assert found.shape == expected.shape == (2, 3, 20 * net.scale, 28 * net.scale)
    assert np.abs(found - expected).max() <= 1e-4
