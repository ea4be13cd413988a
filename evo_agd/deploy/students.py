"""From a trained network to a finished student folder with its measured figures."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evo_agd.config.settings import Quantization
from evo_agd.deploy.latency import milliseconds
from evo_agd.deploy.onnx_file import export, quantize, run, session
from evo_agd.files import write_json
from evo_agd.nets.students import write_student
from evo_agd.nets.super_resolution import SRStudent
from evo_agd.space.super_resolution import SRArchitecture
from evo_agd.train.images import Photo, upscale
from evo_agd.train.pairs import Pair
from evo_agd.train.quality import psnr_y

CALIBRATION = 3  # random-stream key
METRICS, FP32, INT8 = "metrics.json", "student.onnx", "student.int8.onnx"


def mean_psnr(outputs: Sequence[Photo], pairs: Sequence[Pair], scale: int) -> float:
    """Mean Y-PSNR in dB of outputs against the truth."""
    return float(np.mean([psnr_y(o, p.high, scale) for o, p in zip(outputs, pairs, strict=True)]))


def calibration_inputs(pairs: Sequence[Pair], count: int, side: int, seed: int) -> list[Photo]:
    """Square input crops of one size from training photographs, spread over all of them."""
    rng = np.random.default_rng([seed, CALIBRATION])
    size = min(side, *(edge for pair in pairs for edge in pair.low.shape[:2]))
    crops = []
    for index in range(count):
        low = pairs[index % len(pairs)].low
        top = int(rng.integers(low.shape[0] - size + 1))
        left = int(rng.integers(low.shape[1] - size + 1))
        crops.append(low[top : top + size, left : left + size])
    return crops


def finish_student(
    folder: Path,
    name: str,
    architecture: SRArchitecture,
    net: SRStudent,
    *,
    calibration: Sequence[Photo],
    validation: Sequence[Pair],
    settings: Quantization,
    threads: int,
    known: Mapping[str, Any],
) -> dict[str, Any]:
    """Export, quantize and measure one student; the folder appears when all of it is done.

    Args:
        known: figures that go into ``metrics.json`` as they are (cost, supernet score).

    Returns:
        The figures in ``metrics.json``.
    """
    scale = architecture.scale
    half_done = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(half_done, ignore_errors=True)
    write_student(half_done, name, architecture, net)
    export(net, half_done / FP32)
    quantize(half_done / FP32, half_done / INT8, calibration, settings.method)
    models = {
        "fp32": session(half_done / FP32, threads),
        "int8": session(half_done / INT8, threads),
    }
    outputs = {kind: [run(m, p.low) for p in validation] for kind, m in models.items()}
    taken = milliseconds(models, settings.latency_size)
    metrics = {
        **known,
        "psnr": mean_psnr(outputs["fp32"], validation, scale),
        "psnr_int8": mean_psnr(outputs["int8"], validation, scale),
        "psnr_bicubic": mean_psnr([upscale(p.low, scale) for p in validation], validation, scale),
        "psnr_teacher": mean_psnr([p.teacher for p in validation], validation, scale),
        "fp32_mb": (half_done / FP32).stat().st_size / 1e6,
        "int8_mb": (half_done / INT8).stat().st_size / 1e6,
        "ms_fp32": taken["fp32"],
        "ms_int8": taken["int8"],
        "ms_size": settings.latency_size,
        "ms_threads": threads,
    }
    write_json(half_done / METRICS, metrics)
    shutil.rmtree(folder, ignore_errors=True)
    half_done.rename(folder)
    return metrics
