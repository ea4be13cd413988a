from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.numpy_helper import to_array
from torch import Tensor, nn
from torch.nn import functional as F

from evo_agd.benchmarks.counting import open_space
from evo_agd.config.load import shipped
from evo_agd.deploy.onnx_file import as_input, export, run, session
from evo_agd.deploy.quantizing import quantize
from evo_agd.nets.build import Space, Student, student_of
from evo_agd.nets.integer_form import integer_form
from evo_agd.space.super_resolution import SuperResolutionSpace
from evo_agd.space.translation import TranslationSpace
from evo_agd.train.pairs import Pair, to_photo, to_tensor
from evo_agd.train.quality import psnr, psnr_rgb
from evo_agd.train.simulated_int8 import SimulatedInt8, psnr_int8, rounded, rounded_weights
from tests.conftest import photograph

CALIBRATION = [photograph(24, 24, seed) for seed in range(4)]
LOW = photograph(24, 30, 9)


def drawn(space: Space, genome: Any, *, steps: int = 0) -> Student:
    """A student with weights and biases as after training, or after a little of it."""
    torch.manual_seed(0)
    net = student_of(space.decode(genome)).folded()
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.05)
    lows = to_tensor(CALIBRATION)
    wanted = F.interpolate(lows, scale_factor=net.scale, mode="bicubic") ** 1.2
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        (net(lows) - wanted).abs().mean().backward()
        optimizer.step()
    return net.eval()


def decibels(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a.astype(np.float64) - b) ** 2)))


def simulated(student: Student, x: Tensor) -> np.ndarray:
    int8, net = SimulatedInt8(), integer_form(student)
    net.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        with int8.calibrate():
            net(to_tensor(CALIBRATION))
        with int8.apply():
            output: np.ndarray = net(x).numpy()
    return output


def both(folder: Path, net: Student) -> tuple[np.ndarray, np.ndarray]:
    """What ONNX Runtime makes of LOW in FP32 and in INT8."""
    export(integer_form(net), folder / "fp32.onnx")
    quantize(folder / "fp32.onnx", folder / "int8.onnx", CALIBRATION, "minmax")
    feed = {"image": as_input(LOW)}
    outputs = [session(folder / f"{p}.onnx", 1).run(None, feed)[0] for p in ("fp32", "int8")]
    return outputs[0], outputs[1]


def translation() -> TranslationSpace:
    return TranslationSpace(
        input_size=(16, 16), layers=3, operators=("conv1x1", "conv3x3", "residual", "inverted"),
        full_widths=(8,), half_widths=(8,), quarter_widths=(8, 12),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("f24-r1x8-r3x16-s", 0),
        ("f24-i3x16-m3x24-r3x32-n6", 0),
        ("f24-i3x16-r1x8-t8", 8),
        ("f24-m3x24-i3x8-n12", 8),
        ("f24-r3x8-i3x32-m3x8-r1x24-t16", 8),
    ],
)
def test_it_is_what_onnx_runtime_computes(tmp_path: Path, name: str, steps: int) -> None:
    """Four dB closer to the quantized file than the exact network, 0.02 dB in PSNR to a picture."""
    space = open_space(shipped("sr_x4_small.yaml"))
    net = drawn(space, space.genome_of(name), steps=steps)
    exact, real = both(tmp_path, net)
    found = simulated(net, to_tensor([LOW]))
    assert decibels(exact, real) < 55  # there is something to simulate
    assert decibels(found, real) > decibels(exact, real) + 4
    picture = photograph(96, 120, 5)
    quality = [psnr_rgb(to_photo(torch.from_numpy(o)[0]), picture) for o in (found, real)]
    assert quality[0] == pytest.approx(quality[1], abs=0.02)


@pytest.mark.parametrize("index", range(3))
def test_translations_with_their_norms_too(tmp_path: Path, index: int) -> None:
    space = translation()
    net = drawn(space, space.random(np.random.default_rng(index)))
    exact, real = both(tmp_path, net)
    found = simulated(net, to_tensor([LOW]))
    assert decibels(found, real) > decibels(exact, real) + 3


@pytest.mark.parametrize("operator", ["separable", "gated", "reparameterised"])
@pytest.mark.parametrize("upsampler", ["shuffle_twice", "esrgan"])
def test_every_operator_of_ours(
    tmp_path: Path, tiny_space: SuperResolutionSpace, operator: str, upsampler: str
) -> None:
    space = tiny_space
    letter = {"separable": "b", "gated": "g", "reparameterised": "p"}[operator]
    tail = {"shuffle_twice": "t6", "esrgan": "e6"}[upsampler]
    net = drawn(space, space.genome_of(f"f8-{letter}3x8-{letter}3x8-{tail}"))
    exact, real = both(tmp_path, net)
    assert decibels(simulated(net, to_tensor([LOW])), real) > decibels(exact, real) + 3


def test_a_mean_psnr_is_that_of_the_exported_file(tmp_path: Path) -> None:
    space = open_space(shipped("sr_x4_small.yaml"))
    net = drawn(space, space.genome_of("f24-m3x16-r3x8-t8"), steps=8)
    both(tmp_path, net)
    model = session(tmp_path / "int8.onnx", 1)
    highs = [photograph(96, 120, seed) for seed in (6, 7)]
    pairs = [Pair(str(i), high[::4, ::4].copy(), high, high) for i, high in enumerate(highs)]
    real = np.mean([psnr(run(model, np.asarray(p.low)), p) for p in pairs])
    assert psnr_int8(net, pairs, CALIBRATION) == pytest.approx(float(real), abs=0.02)


def test_weights_are_those_of_the_file(tmp_path: Path) -> None:
    """Transposed convolutions have a scale for each output channel too, along another axis."""
    space = translation()
    net = drawn(space, space.random(np.random.default_rng(0)))
    both(tmp_path, net)
    graph = onnx.load(tmp_path / "int8.onnx").graph
    stored = {t.name: to_array(t) for t in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    axes = {"Conv": 0, "ConvTranspose": 1}
    convolutions = [node for node in graph.node if node.op_type in axes]
    assert {node.op_type for node in convolutions} == set(axes)
    ours = [p.detach() for p in net.parameters() if p.dim() == 4]
    assert len(ours) == len(convolutions)
    for node in convolutions:
        axis = axes[node.op_type]
        weight, scale = (stored[name] for name in made[node.input[1]].input[:2])
        # One for all where a 64th is exact, as of weights that begin as the identity.
        assert scale.shape == (weight.shape[axis],) or scale == np.float32(1 / 64)
        scale = np.broadcast_to(scale, weight.shape[axis])
        expected = weight * scale.reshape([-1 if d == axis else 1 for d in range(4)])
        alike = [rounded_weights(w, axis).numpy() for w in ours if w.shape == weight.shape]
        assert min(float(np.abs(w - expected).max()) for w in alike) < 1e-6


def test_zero_is_exact_and_the_range_is_cut() -> None:
    x = torch.tensor([-3.0, -1.0, 0.0, 0.5, 9.0])
    found = rounded(x, -1.0, 4.0)
    assert found[2] == 0 and found[3] == pytest.approx(0.5, abs=2.6 / 255)
    assert found[0] == found[1] == pytest.approx(-1.0, abs=2.6 / 255)
    assert found[4] == pytest.approx(4.0, abs=2.6 / 255)
    assert (rounded(torch.zeros(3), 0.0, 0.0) == 0).all()
    assert torch.equal(rounded(found, -1.0, 4.0), found)
    assert torch.equal(rounded_weights(torch.zeros(2, 1, 3, 3), 0), torch.zeros(2, 1, 3, 3))


def test_calibrating_changes_nothing_and_can_be_gone_on_with() -> None:
    space = open_space(shipped("sr_x4_small.yaml"))
    net = drawn(space, space.genome_of("f24-r3x8-m3x8-n6"))
    x = to_tensor([LOW])
    int8 = SimulatedInt8()
    with torch.no_grad():
        exact = net(x)
        with int8.calibrate():
            assert torch.allclose(net(x), exact, atol=1e-6)
        before = list(int8.ranges)
        with int8.calibrate():
            net(to_tensor(CALIBRATION))
        with int8.apply():
            first = net(x)
        with int8.apply():
            assert torch.equal(net(x), first) and not torch.equal(first, exact)
        assert torch.equal(net(x), exact)
    for (low, high), (a, b) in zip(before, int8.ranges, strict=True):
        assert a <= low <= high <= b


def test_autocast_and_inference_mode_make_no_difference() -> None:
    space = open_space(shipped("sr_x4_small.yaml"))
    net = drawn(space, space.genome_of("f24-r3x8-m3x8-n6"))
    plain = simulated(net, to_tensor([LOW]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.array_equal(simulated(net, to_tensor([LOW])), plain)


def test_another_network_is_told() -> None:
    space = open_space(shipped("sr_x4_small.yaml"))
    small = drawn(space, space.genome_of("f24-r3x8-m3x8-s"))
    large = drawn(space, space.genome_of("f24-r3x8-m3x8-r1x8-s"))
    x, int8 = to_tensor([LOW]), SimulatedInt8()
    with pytest.raises(ValueError, match="more than the 0 tensors"), int8.apply():
        small(x)
    with int8.calibrate():
        small(x)
    with pytest.raises(ValueError, match="another network"), int8.calibrate():
        large(x)
    with pytest.raises(ValueError, match="tensors of calibration"), int8.apply():
        large(x)
    with pytest.raises(ValueError, match="in calibration"), int8.apply():
        pass
