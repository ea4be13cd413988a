from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.numpy_helper import to_array
from torch import nn

from evo_agd.benchmarks.counting import open_space
from evo_agd.config.load import shipped
from evo_agd.deploy.onnx_file import export
from evo_agd.deploy.quantizing import quantize
from evo_agd.nets.build import student_of
from tests.conftest import photograph


def parts(folder: Path, space_file: str, name: str) -> tuple[float, list[list[np.ndarray]], int]:
    """Analytic megabytes of a member; weights, scales (and bias) of each convolution; the file."""
    space = open_space(shipped(space_file))
    genome = space.genome_of(name)
    net = student_of(space.decode(genome)).folded()
    for key, parameter in net.named_parameters():
        if key.endswith("bias"):  # zeros would be left out
            nn.init.normal_(parameter)
    export(net, folder / "net.onnx")
    lows = [photograph(16, 16, seed) for seed in range(2)]
    quantize(folder / "net.onnx", folder / "int8.onnx", lows, "minmax")
    graph = onnx.load(folder / "int8.onnx").graph
    stored = {t.name: to_array(t) for t in graph.initializer}
    made = {output: node for node in graph.node for output in node.output}
    found = []
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            given = [*made[node.input[1]].input[:2], *node.input[2:]]
            found.append([stored[value] for value in given])
    return space.cost(genome).int8_memory_mb, found, (folder / "int8.onnx").stat().st_size


@pytest.mark.parametrize(
    "name", ["f24-r3x16-i3x8-n12", "f24-m3x32-r1x8-r3x32-t16", "f24-r3x24-i3x32-s"]
)
def test_it_is_what_the_convolutions_of_a_student_hold(tmp_path: Path, name: str) -> None:
    """To the byte; nodes and names are a fifth of the file, and more of the smallest."""
    megabytes, convolutions, size = parts(tmp_path, "sr_x4_small.yaml", name)
    assert all(len(values) == 3 for values in convolutions)
    held = sum(value.nbytes for values in convolutions for value in values)
    assert megabytes * 1e6 == pytest.approx(held)
    assert held < size < held + 500 * len(convolutions) + 2500


def test_a_translations_too_with_its_transposed_convolutions(tmp_path: Path) -> None:
    space = open_space(shipped("agd_cyclegan.yaml"))
    name = space.id_of(space.smallest()[0])
    megabytes, convolutions, _ = parts(tmp_path, "agd_cyclegan.yaml", name)
    held = sum(value.nbytes for values in convolutions for value in values[:2])
    assert held == pytest.approx(megabytes * 1e6, abs=12)  # the last one has a bias
    assert all(values[1].ndim == 1 for values in convolutions)
