"""From a torch network to an ONNX file with dynamic height and width, in FP32 and in INT8."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from evo_agd.files import write_bytes
from evo_agd.nets.build import Student
from evo_agd.train.images import Photo

INPUT = "image"
OUTPUTS = {1: "translated"}  # by scale; else "upscaled"
OPSET = 18
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter and the quantizer talk on stdout and in warnings; a user cannot act on it."""
    level = logging.root.level
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        logging.root.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.root.setLevel(level)


def export(net: Student, path: Path) -> None:
    """Write ``net`` (image to image, RGB in 0..1) as ONNX with any batch, height and width.

    The output is called ``upscaled``, that of a translation ``translated``; a translation's sides
    have to be divisible by 4.
    """
    net.eval().float().to(memory_format=torch.contiguous_format)
    example = torch.rand(2, 3, 24, 32)
    dynamic = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=8)}
    dynamic[3] = torch.export.Dim("width", min=8)
    with _quiet():
        program = torch.onnx.export(
            net,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUTS.get(net.scale, "upscaled")],
            dynamic_shapes=(dynamic,),
        )
    assert program is not None
    model = program.model_proto
    # The exporter writes stack traces beside every node and value: most of a small file.
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    write_bytes(path, model.SerializeToString())


class _Crops(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, lows: Sequence[Photo]) -> None:
        self.waiting = iter([{INPUT: as_input(low)} for low in lows])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self.waiting, None)


def as_input(low: Photo) -> NDArray[np.float32]:
    """An image as a (1, 3, h, w) array in 0..1."""
    return np.ascontiguousarray(low.transpose(2, 0, 1)[None], dtype=np.float32) / np.float32(255)


def quantize(source: Path, path: Path, calibration: Sequence[Photo], method: str) -> None:
    """Write the INT8 counterpart of an FP32 ONNX file.

    Quantize-dequantize pairs, weights per channel, activations per tensor with the ranges that
    the calibration inputs show. Weights take 7 of their 8 bits: on x86 processors without VNNI two
    products of 8 bits each saturate the 16-bit sums that they are added up in (a student of
    sr_x4_small lost 0.13 dB there, and 0.02 dB with 7 bits, which is the same on every processor).

    Args:
        calibration: inputs (h, w, 3) of equal size.
        method: ``minmax``, ``entropy`` or ``percentile``.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet():
        temporary = Path(folder) / "int8.onnx"
        quantize_static(
            str(source),
            str(temporary),
            _Crops(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,
            calibrate_method=METHODS[method],
        )
        content = temporary.read_bytes()
    onnx.checker.check_model(onnx.load_from_string(content))
    write_bytes(path, content)


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        str(path), sess_options=options, providers=["CPUExecutionProvider"]
    )


def run(model: onnxruntime.InferenceSession, low: Photo) -> Photo:
    """The output of an ONNX model for one image, as an 8-bit image."""
    (output,) = model.run(None, {model.get_inputs()[0].name: as_input(low)})
    array: Photo = np.rint(np.clip(output[0], 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    return array
