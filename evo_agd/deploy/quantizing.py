"""From an FP32 ONNX file to its INT8 counterpart."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from evo_agd.deploy.compact import compact
from evo_agd.deploy.onnx_file import INPUT, as_input, quiet
from evo_agd.files import write_bytes
from evo_agd.train.images import Photo

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
STEP = 1 / 255  # of an 8-bit picture in 0..1
SIXTY_FOURTH = 1 / 64  # bilinear weights of an enlargement by 2 or 4 are multiples of it


class _Crops(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, lows: Sequence[Photo]) -> None:
        self.waiting = iter([{INPUT: as_input(low)} for low in lows])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self.waiting, None)


def _exact(graph: onnx.GraphProto) -> dict[str, list[dict[str, Any]]]:
    """Scales that lose nothing where calibration would find ones that do."""
    pictures = {INPUT}
    for node in graph.node:
        if node.op_type == "Pad" and node.input[0] in pictures:
            pictures.add(node.output[0])
    picture = {"scale": np.array(STEP, np.float32), "zero_point": np.array(0, np.uint8)}
    found = {name: [picture] for name in pictures}
    weights = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    for initializer in graph.initializer:
        if initializer.name not in weights:
            continue
        values = numpy_helper.to_array(initializer) / SIXTY_FOURTH
        if np.array_equal(values, np.rint(values)) and np.abs(values).max() <= 1 / SIXTY_FOURTH:
            scale = np.array(SIXTY_FOURTH, np.float32)
            found[initializer.name] = [{"scale": scale, "zero_point": np.array(0, np.int8)}]
    return found


def _ends(graph: onnx.GraphProto) -> list[str]:
    """Nodes of an integer form that nothing is gained by quantizing: around its convolutions.

    What pads the picture, and what comes behind the last convolution and the sum with the base.
    """
    found = [n.name for n in graph.node if n.op_type == "Pad"]
    phases = [n for n in graph.node if n.op_type == "DepthToSpace" and b"DCR" in _modes(n)]
    if not phases:
        return found
    before = {name for node in graph.node if node.op_type == "Conv" for name in node.input}
    behind = set(phases[-1].output)
    for node in graph.node:
        if behind.intersection(node.input):
            behind.update(node.output)
            found.append(node.name)
    if before & behind:
        raise ValueError("a convolution behind the last shuffle of phases")
    return [*found, *(node.name for node in phases)]


def _modes(node: onnx.NodeProto) -> list[bytes]:
    return [a.s for a in node.attribute if a.name == "mode"]


def quantize(
    source: Path,
    path: Path,
    calibration: Sequence[Photo],
    method: str,
    *,
    floating: Collection[str] = (),
) -> None:
    """Write the INT8 counterpart of an FP32 ONNX file.

    Quantize-dequantize pairs, weights per channel, activations per tensor with the ranges that
    the calibration inputs show. Weights take 7 of their 8 bits: on x86 processors without VNNI two
    products of 8 bits each saturate the 16-bit sums that they are added up in (a student of
    sr_x4_small lost 0.13 dB there, and 0.02 dB with 7 bits, which is the same on every processor).
    Biases stay FP32 in the file; ONNX Runtime makes integers of them when it loads it (from 1.21).

    Args:
        calibration: inputs (h, w, 3) of equal size.
        method: ``minmax``, ``entropy`` or ``percentile``.
        floating: names of nodes that stay in FP32.
    """
    with tempfile.TemporaryDirectory() as folder, quiet():
        temporary = Path(folder) / "int8.onnx"
        model = onnx.load(str(source))
        for index, node in enumerate(model.graph.node):
            node.name = (
                node.name or f"{node.op_type}.{index}"
            )  # what is left out is left out by name
        quantize_static(
            model,
            str(temporary),
            _Crops(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,
            calibrate_method=METHODS[method],
            nodes_to_exclude=[*floating, *_ends(model.graph)],
            extra_options={
                "QuantizeBias": False,
                "TensorQuantOverrides": _exact(model.graph),
            },
        )
        small = compact(onnx.load(str(temporary)))
    onnx.checker.check_model(small)
    write_bytes(path, small.SerializeToString())
