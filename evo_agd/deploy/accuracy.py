"""INT8 no worse than a limit: which layers cause the loss, and which of them stay in FP32."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx

from evo_agd.config.settings import Quantization
from evo_agd.deploy.onnx_file import INPUT, as_input, session
from evo_agd.deploy.quantizing import quantize
from evo_agd.train.images import Photo

LOOKED_AT = 4  # calibration inputs that the sensitivity pass compares outputs of
MOST = 0.5  # of the convolutions that may stay in FP32; with more there is little left of INT8

log = logging.getLogger(__name__)


def convolutions(path: Path) -> list[str]:
    """Names of the nodes that take nearly all of the time, in the order in which they run."""
    graph = onnx.load(str(path)).graph
    return [node.name for node in graph.node if node.op_type in ("Conv", "ConvTranspose")]


def sensitivity(source: Path, calibration: Sequence[Photo], method: str) -> dict[str, float]:
    """Mean squared error of the output when one convolution alone is quantized, by its name.

    Args:
        source: an FP32 file.
        calibration: inputs (h, w, 3) of equal size.
    """
    names = convolutions(source)
    inputs = [as_input(photo) for photo in calibration[:LOOKED_AT]]
    exact = session(source, 1)
    wanted = [exact.run(None, {INPUT: x})[0] for x in inputs]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.onnx"
        for name in names:
            others = [other for other in names if other != name]
            quantize(source, path, calibration, method, floating=others)
            model = session(path, 1)
            errors = [
                np.mean((model.run(None, {INPUT: x})[0] - y) ** 2, dtype=np.float64)
                for x, y in zip(inputs, wanted, strict=True)
            ]
            found[name] = float(np.mean(errors))
    return found


def quantize_within(
    source: Path,
    path: Path,
    calibration: Sequence[Photo],
    settings: Quantization,
    drop: Callable[[Path], float],
) -> list[int]:
    """Write the INT8 counterpart of a file, with as many layers in FP32 as the limit calls for.

    The most sensitive convolutions are left out one after another until the loss is within
    ``settings.max_drop``; where half of them do not do it, all are quantized, and the log says so.

    Args:
        drop: what a file loses, in dB on the validation pictures.

    Returns:
        Which convolutions stay in FP32, counted from the input.
    """
    quantize(source, path, calibration, settings.method)
    lost = first = drop(path)
    if lost <= settings.max_drop:
        return []
    log.info("INT8 loses %.2f dB, more than %.2f: looking for the layers", lost, settings.max_drop)
    names = convolutions(source)
    errors = sensitivity(source, calibration, settings.method)
    kept: list[str] = []
    for name in sorted(names, key=lambda n: -errors[n])[: int(MOST * len(names))]:
        kept.append(name)
        quantize(source, path, calibration, settings.method, floating=kept)
        lost = drop(path)
        if lost <= settings.max_drop:
            return sorted(names.index(name) for name in kept)
    log.warning(
        "INT8 loses %.2f dB, and still %.2f with half of the convolutions in FP32; the limit is "
        "%.2f. A translation wants frozen norms (students.freeze), others more calibration inputs",
        first, lost, settings.max_drop,
    )  # fmt: skip
    quantize(source, path, calibration, settings.method)
    return []
