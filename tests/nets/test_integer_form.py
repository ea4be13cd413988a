from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from evo_agd.nets.freezing import frozen
from evo_agd.nets.integer_form import (
    SRIntegerForm,
    TranslationIntegerForm,
    behind_shuffle,
    bilinear_weights,
    integer_form,
    phases_to_pixels,
    transposed_as_convolution,
)
from evo_agd.nets.super_resolution import SRStudent, enlarge
from evo_agd.nets.translation import TranslationStudent
from evo_agd.space.layers import Layer
from evo_agd.space.super_resolution import Block, SRArchitecture
from evo_agd.space.translation import TranslationArchitecture

LAYERS = tuple(Layer(o, w) for o, w in (("conv1x1", 8), ("residual", 12), ("inverted", 8)))


def perturbed(net: nn.Module, by: float) -> None:
    """As after training: biases that are not 0."""
    for parameter in net.parameters():
        parameter.data += by * torch.randn_like(parameter)


def translation() -> TranslationStudent:
    torch.manual_seed(0)
    net = TranslationStudent(TranslationArchitecture((8, 12, 8), LAYERS, (12, 8))).eval()
    perturbed(net, 0.02)
    return net


@given(st.sampled_from([3, 5, 7]), st.integers(3, 9), st.integers(3, 9))
@settings(max_examples=20, deadline=None)
def test_a_convolution_behind_a_shuffle_is_one_in_front_of_it(
    kernel: int, height: int, width: int
) -> None:
    weight, x = torch.randn(2, 3, kernel, kernel), torch.randn(1, 12, height, width)
    expected = F.conv2d(F.pixel_shuffle(x, 2), weight, padding=kernel // 2)
    wide = behind_shuffle(weight).flatten(3, 5).flatten(0, 2)
    found = F.pixel_shuffle(F.conv2d(x, wide, padding=wide.shape[-1] // 2), 2)
    assert torch.allclose(found, expected, atol=1e-5)


@given(st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_a_transposed_convolution_is_a_plain_one_with_phases(height: int, width: int) -> None:
    weight, x = torch.randn(3, 2, 3, 3), torch.randn(2, 3, height, width)
    expected = F.conv_transpose2d(x, weight, stride=2, padding=1, output_padding=1)
    wide = transposed_as_convolution(weight).flatten(0, 2)
    found = F.pixel_shuffle(F.conv2d(F.pad(x, (0, 1, 0, 1)), wide), 2)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("scale", [2, 4])
def test_bilinear_enlargement_is_a_convolution_with_exact_weights(scale: int) -> None:
    weights = bilinear_weights(scale)
    assert torch.equal(64 * weights, (64 * weights).round()) and weights.max() < 1
    x = torch.rand(1, 1, 7, 5)
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    found = F.pixel_shuffle(F.conv2d(padded, weights.flatten(0, 1)[:, None]), scale)
    assert torch.allclose(found, enlarge(x, scale), atol=1e-6)


def test_phases_come_first() -> None:
    """All channels of a phase together, rows of phases before columns."""
    x = torch.arange(12.0).view(1, 12, 1, 1)
    y = phases_to_pixels(x, 2)
    assert y.shape == (1, 3, 2, 2)
    assert y[0, :, 0, 1].tolist() == [3, 4, 5] and y[0, :, 1, 0].tolist() == [6, 7, 8]


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize(("tail", "width"), [("shuffle", 0), ("shuffle_twice", 6)])
def test_a_student_with_shuffles_gives_the_same(scale: int, tail: str, width: int) -> None:
    torch.manual_seed(0)
    blocks = (Block("residual", 3, 8), Block("inverted", 3, 8))
    net = SRStudent(SRArchitecture(scale, 8, blocks, tail, width)).eval()
    perturbed(net, 0.1)
    form = integer_form(net)
    assert isinstance(form, SRIntegerForm)
    x = torch.rand(2, 3, 9, 14)
    with torch.no_grad():
        assert torch.allclose(form(x), net(x), atol=1e-5)


def test_others_stay_what_they_are() -> None:
    net = SRStudent(SRArchitecture(4, 8, (Block("residual", 3, 8),), "nearest", 6))
    assert integer_form(net) is net
    normed = translation()
    assert integer_form(normed) is normed


def test_a_frozen_translation_gives_the_same() -> None:
    net = frozen(translation(), torch.rand(3, 3, 32, 32)).eval()
    form = integer_form(net)
    assert isinstance(form, TranslationIntegerForm)
    x = torch.rand(2, 3, 20, 28)
    with torch.no_grad():
        expected = net.double()(x.double())
        assert torch.allclose(integer_form(net)(x.double()), expected, atol=1e-9)
    assert expected.std() > 0.01


def test_freezing_keeps_what_the_pictures_showed() -> None:
    """On one picture the statistics are its own; the network with norms is left as it is."""
    net = translation()
    picture = torch.rand(1, 3, 32, 24)
    with torch.no_grad():
        expected = net(picture)
        child = frozen(net, picture).eval()
        assert torch.allclose(child(picture), expected, atol=1e-4)
        assert torch.equal(net(picture), expected)
        # With all the same statistics a brighter picture is not what it would be with norms.
        assert not torch.allclose(child(picture * 0.5), net(picture * 0.5), atol=1e-3)
    assert child.architecture.frozen and not net.architecture.frozen
    assert not net.training
