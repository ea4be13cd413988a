from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from evo_agd.benchmarks.int8 import WARM_UP, alternating, forms_of, ratios
from evo_agd.deploy.onnx_file import export
from evo_agd.deploy.quantizing import quantize
from evo_agd.deploy.students import FP32, INT8
from evo_agd.nets.integer_form import integer_form
from evo_agd.nets.students import write_student
from evo_agd.nets.super_resolution import SRStudent
from evo_agd.space.super_resolution import Block, SRArchitecture
from tests.conftest import photograph


def test_forms_take_turns_and_ratios_are_of_rounds() -> None:
    calls: list[str] = []
    taken = alternating({n: lambda n=n: calls.append(n) for n in "ab"}, 4)  # type: ignore[misc]
    assert calls == ["a", "b"] * (WARM_UP + 4)
    assert {name: len(values) for name, values in taken.items()} == {"a": 4, "b": 4}
    # A machine that is three times slower in the last rounds changes no ratio.
    found = ratios({"ort_fp32": [4, 4, 12, 12], "ort_int8": [2, 2, 6, 6]})
    assert found == {"ort_fp32_to_int8": pytest.approx(2.0)}


def test_every_form_computes_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    architecture = SRArchitecture(4, 8, (Block("residual", 3, 8),), "shuffle", 0)
    net = SRStudent(architecture).eval()
    write_student(tmp_path, "name", net)
    export(net, tmp_path / FP32)
    export(integer_form(net), tmp_path / "form.onnx")
    lows = [photograph(16, 16, seed) for seed in range(2)]
    quantize(tmp_path / "form.onnx", tmp_path / INT8, lows, "minmax")
    outputs = {}
    for name, call in forms_of(tmp_path, 16, 1).items():
        found = call()
        array = found[0] if isinstance(found, list) else found
        outputs[name] = np.asarray(array.float() if isinstance(array, torch.Tensor) else array)
    tolerance = {"ort_int8": 0.2, "torch_bf16": 0.1}
    for name, output in outputs.items():
        assert output.shape == (1, 3, 64, 64)
        distance = np.abs(output - outputs["torch_fp32"]).max()
        assert distance <= tolerance.get(name, 1e-4), name
