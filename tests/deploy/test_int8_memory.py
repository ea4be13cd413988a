from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.numpy_helper import to_array
from torch import nn

from evo_agd.benchmarks.counting import open_space
from evo_agd.config.load import shipped
from evo_agd.deploy.onnx_file import export, quantize
from evo_agd.nets.build import student_of
from tests.conftest import photograph


def initializers(folder: Path, space_file: str, name: str) -> tuple[float, dict[str, np.ndarray]]:
    """The analytic megabytes of a member, and what its INT8 file holds by name."""
    space = open_space(shipped(space_file))
    genome = space.genome_of(name)
    net = student_of(space.decode(genome)).folded()
    for key, parameter in net.named_parameters():
        if key.endswith("bias"):  # zeros would be left out
            nn.init.normal_(parameter)
    export(net, folder / "net.onnx")
    lows = [photograph(16, 16, seed) for seed in range(2)]
    quantize(folder / "net.onnx", folder / "int8.onnx", lows, "minmax")
    stored = onnx.load(folder / "int8.onnx").graph.initializer
    return space.cost(genome).int8_memory_mb, {t.name: to_array(t) for t in stored}


def weight_names(stored: dict[str, np.ndarray]) -> list[str]:
    return [n for n, value in stored.items() if value.dtype == np.int8 and value.ndim == 4]


@pytest.mark.parametrize(
    "name", ["f24-r3x16-i3x8-n12", "f24-m3x32-r1x8-r3x32-t16", "f24-r3x24-i3x32-s"]
)
def test_it_is_what_the_convolutions_of_a_student_hold(tmp_path: Path, name: str) -> None:
    """To the byte; everything in the file, zero points and the biases' scales too, is 25 % more."""
    megabytes, stored = initializers(tmp_path, "sr_x4_small.yaml", name)
    weights = weight_names(stored)
    scales = [stored[n.removesuffix("_quantized") + "_scale"] for n in weights]
    bias = [v for n, v in stored.items() if v.dtype == np.int32 and not n.endswith("zero_point")]
    held = [*(stored[n] for n in weights), *scales, *bias]
    assert len(weights) == len(bias)
    assert megabytes * 1e6 == pytest.approx(sum(v.nbytes for v in held))
    everything = sum(v.nbytes for v in stored.values())
    assert megabytes * 1e6 < everything < 1.25 * megabytes * 1e6


def test_a_translations_too_with_its_transposed_convolutions(tmp_path: Path) -> None:
    space = open_space(shipped("agd_cyclegan.yaml"))
    name = space.id_of(space.smallest()[0])
    megabytes, stored = initializers(tmp_path, "agd_cyclegan.yaml", name)
    weights = weight_names(stored)
    scales = [stored[n.removesuffix("_quantized") + "_scale"] for n in weights]
    held = sum(v.nbytes for v in [*(stored[n] for n in weights), *scales])
    assert held == pytest.approx(megabytes * 1e6, abs=12)  # the last one has a bias
    assert {s.shape for s in scales if s.ndim == 0} == set()
