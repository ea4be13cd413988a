from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from evo_agd.config.settings import Quantization
from evo_agd.deploy import latency, students
from evo_agd.deploy.latency import measured_milliseconds, milliseconds
from evo_agd.deploy.measures import SuperResolutionMeasures
from evo_agd.deploy.onnx_file import as_input, export, run, session
from evo_agd.deploy.quantizing import quantize
from evo_agd.deploy.students import calibration_inputs, finish_student
from evo_agd.nets.super_resolution import SRStudent
from evo_agd.space.super_resolution import Block, SRArchitecture
from evo_agd.train.pairs import Pair
from evo_agd.train.quality import psnr_y
from tests.conftest import photograph

BLOCKS = (Block("residual", 3, 8), Block("fused", 3, 4), Block("inverted", 3, 8))


def student(upsampler: str) -> tuple[SRArchitecture, SRStudent]:
    torch.manual_seed(0)
    architecture = SRArchitecture(4, 8, BLOCKS, upsampler, 0 if upsampler == "shuffle" else 6)
    return architecture, SRStudent(architecture).eval()


@pytest.mark.parametrize("upsampler", ["shuffle", "shuffle_twice", "nearest"])
def test_onnx_agrees_with_torch_at_sizes_it_was_not_exported_at(
    tmp_path: Path, upsampler: str
) -> None:
    _, net = student(upsampler)
    export(net, tmp_path / "net.onnx")
    model = session(tmp_path / "net.onnx", 1)
    for batch, height, width in ((1, 8, 8), (3, 17, 40), (1, 64, 33)):
        x = torch.rand(batch, 3, height, width)
        with torch.no_grad():
            expected = net(x).numpy()
        (found,) = model.run(None, {"image": x.numpy()})
        assert found.shape == (batch, 3, 4 * height, 4 * width)
        assert np.abs(found - expected).max() <= 1e-4


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_int8_is_close_and_made_of_quantize_pairs(tmp_path: Path, method: str) -> None:
    _, net = student("nearest")
    export(net, tmp_path / "net.onnx")
    lows = [photograph(24, 24, seed) for seed in range(4)]
    quantize(tmp_path / "net.onnx", tmp_path / "int8.onnx", lows, method)
    low = photograph(30, 41, 9)
    exact = run(session(tmp_path / "net.onnx", 1), low)
    rounded = run(session(tmp_path / "int8.onnx", 1), low)
    assert rounded.shape == (120, 164, 3)
    assert psnr_y(rounded, exact, 4) > 30
    assert b"QuantizeLinear" in (tmp_path / "int8.onnx").read_bytes()


def test_a_student_folder_is_complete_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, net = student("shuffle_twice")
    high = photograph(64, 80, 2)
    pairs = [Pair("x", high[::4, ::4].copy(), high, high)]
    calibration = calibration_inputs(pairs, 3, 12, seed=0)
    assert {c.shape for c in calibration} == {(12, 12, 3)}

    def finish() -> dict[str, object]:
        return finish_student(
            tmp_path / "name", "name", net, calibration=calibration,
            inputs=[p.low for p in pairs], measures=SuperResolutionMeasures(pairs),
            settings=Quantization(latency_size=16), threads=1, known={"gmacs": 0.5},
        )  # fmt: skip

    def fail(*_: object) -> None:
        raise RuntimeError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(students, "milliseconds", fail)
        with pytest.raises(RuntimeError, match="killed here"):
            finish()
    assert not (tmp_path / "name").exists()
    metrics = finish()
    names = {p.name for p in (tmp_path / "name").iterdir()}
    assert names == {
        "architecture.yaml", "student.safetensors", "metrics.json",
        "student.onnx", "student.int8.onnx",
    }  # fmt: skip
    assert json.loads((tmp_path / "name" / "metrics.json").read_text()) == metrics
    assert metrics["gmacs"] == 0.5
    assert {"psnr", "psnr_int8", "fp32_mb", "int8_mb", "ms_fp32", "ms_int8"} <= set(metrics)


def test_latency_runs_every_model_in_turn() -> None:
    calls: list[str] = []

    class Model:
        def __init__(self, name: str) -> None:
            self.name = name

        def get_inputs(self) -> list[object]:
            return [type("Input", (), {"name": "image"})]

        def run(self, _: object, feed: dict[str, np.ndarray]) -> None:
            assert feed["image"].shape == (1, 3, 12, 12)
            calls.append(self.name)

    taken = milliseconds({"a": Model("a"), "b": Model("b")}, 12)  # type: ignore[dict-item]
    assert set(taken) == {"a", "b"} and min(taken.values()) >= 0
    assert calls[:4] == ["a", "b", "a", "b"] and calls.count("a") == calls.count("b")


@pytest.mark.parametrize("int8", [False, True])
def test_a_student_is_timed_as_it_is_deployed(monkeypatch: pytest.MonkeyPatch, int8: bool) -> None:
    _, net = student("shuffle")
    opened: list[bytes] = []

    def spy(path: Path, threads: int) -> object:
        opened.append(path.read_bytes())
        assert threads == 1
        return session(path, threads)

    monkeypatch.setattr(latency, "session", spy)
    taken = measured_milliseconds(net.folded(), size=(16, 24), int8=int8, seconds=0.0)
    assert 0 < taken < 10_000
    assert [b"QuantizeLinear" in content for content in opened] == [int8]


def test_one_thread_is_timed_by_its_processor_time() -> None:
    assert latency.clock(1) is time.thread_time and latency.clock(2) is time.perf_counter


def test_inputs_are_in_0_to_1() -> None:
    x = as_input(np.full((4, 5, 3), 255, np.uint8))
    assert x.shape == (1, 3, 4, 5) and x.dtype == np.float32 and (x == 1).all()
