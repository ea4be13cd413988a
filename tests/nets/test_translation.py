from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from evo_agd.nets.build import empty_supernet, student_of
from evo_agd.nets.layers import ElasticLayer
from evo_agd.nets.norm import normalise
from evo_agd.space.layers import LAYER_OPERATORS, Layer
from evo_agd.space.translation import TranslationSpace
from tests.conftest import photograph

SPACE = TranslationSpace(
    input_size=(64, 64),
    layers=2,
    operators=tuple(LAYER_OPERATORS),
    full_widths=(8, 12),
    half_widths=(24, 28),
    quarter_widths=(48, 56),
)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_norm_and_its_gradient_are_torchs(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    x = (3 * torch.randn(2, 5, 9, 7) + 1).to(memory_format=layout).requires_grad_()
    weight = torch.randn(2, 5, 9, 7)
    ours, theirs = normalise(x), F.instance_norm(x)
    assert (ours - theirs).abs().max() <= 1e-5
    (found,) = torch.autograd.grad((ours * weight).sum(), x)
    (expected,) = torch.autograd.grad((theirs * weight).sum(), x)
    assert (found - expected).abs().max() <= 1e-5
    with torch.no_grad():
        assert (normalise(x) - theirs).abs().max() <= 1e-5


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("operator", list(LAYER_OPERATORS))
@pytest.mark.parametrize(("c_in", "width"), [(6, 6), (6, 4), (4, 6), (8, 8)])
def test_a_layer_cut_out_equals_its_path(operator: str, c_in: int, width: int, norm: bool) -> None:
    torch.manual_seed(1)
    elastic = ElasticLayer(8, [Layer(o, w) for o in LAYER_OPERATORS for w in (4, 6, 8)], norm=norm)
    with torch.no_grad():
        for parameter in elastic.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        x, choice = torch.rand(2, c_in, 9, 11), Layer(operator, width)
        student = elastic.cut(choice, c_in)
        assert (student(x) - elastic(x, choice)).abs().max() <= 1e-6
        held = sum(p.numel() for p in student.parameters())
        assert held < sum(p.numel() for p in elastic.parameters())


def test_a_channel_means_the_same_behind_every_operator_at_first() -> None:
    torch.manual_seed(2)
    x = torch.rand(1, 8, 24, 24)
    x = F.avg_pool2d(x, 5, 1, 2)  # something smooth
    for operator in LAYER_OPERATORS:
        layer = ElasticLayer(8, [Layer(operator, 8)], norm=False)
        with torch.no_grad():
            y = layer(x)
        for channel in range(8):
            pair = torch.stack([x[0, channel].flatten(), y[0, channel].flatten()])
            assert torch.corrcoef(pair)[0, 1] > 0.8, operator


@pytest.mark.parametrize("operator", list(LAYER_OPERATORS))
def test_an_untrained_network_shows_its_input(operator: str) -> None:
    torch.manual_seed(3)
    letter = LAYER_OPERATORS[operator]
    net = student_of(SPACE.parse(f"12.28.56-{letter}56-{letter}56-28.12"))
    photo = photograph(64, 64, 1)
    x = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        y = net(x)
    grey = torch.stack([x.mean(dim=1).flatten(), y.mean(dim=1).flatten()])
    assert torch.corrcoef(grey)[0, 1] > 0.7
    assert y.min() >= 0 and y.max() <= 1


def test_widths_below_what_the_picture_takes_are_no_error() -> None:
    space = TranslationSpace(
        input_size=(16, 16), layers=1, operators=("conv3x3",),
        full_widths=(2,), half_widths=(3,), quarter_widths=(5,),
    )  # fmt: skip
    net = empty_supernet(space)
    with torch.no_grad():
        y = net(torch.rand(1, 3, 16, 20), space.decode((0,) * len(space.genes)))  # type: ignore[arg-type]
    assert y.shape == (1, 3, 16, 20) and bool(np.isfinite(y.numpy()).all())
