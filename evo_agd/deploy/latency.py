"""Milliseconds of ONNX models, measured side by side."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from time import perf_counter

import numpy as np
import onnxruntime

WARM_UP = 3
ROUNDS = 15


def milliseconds(models: Mapping[str, onnxruntime.InferenceSession], size: int) -> dict[str, float]:
    """Median milliseconds of each model on one ``size`` x ``size`` input.

    The models take turns, so that whatever else the machine does meets all of them alike; ratios
    between them are steadier than the figures.
    """
    x = np.random.default_rng(0).random((1, 3, size, size), dtype=np.float32)
    taken: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(WARM_UP + ROUNDS):
        for name, model in models.items():
            feed = {model.get_inputs()[0].name: x}
            began = perf_counter()
            model.run(None, feed)
            if turn >= WARM_UP:
                taken[name].append(1000 * (perf_counter() - began))
    return {name: median(values) for name, values in taken.items()}
