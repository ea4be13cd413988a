from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.numpy_helper import to_array

from evo_agd.config.settings import Quantization
from evo_agd.deploy import accuracy
from evo_agd.deploy.accuracy import convolutions, quantize_within, sensitivity
from evo_agd.deploy.memory import peak_megabytes
from evo_agd.deploy.onnx_file import as_input, export, metadata_of, session
from evo_agd.deploy.quantizing import quantize
from evo_agd.nets.build import Student
from evo_agd.nets.freezing import frozen
from evo_agd.nets.integer_form import integer_form
from evo_agd.nets.super_resolution import SRStudent
from evo_agd.nets.translation import TranslationStudent
from evo_agd.space.layers import Layer
from evo_agd.space.super_resolution import Block, SRArchitecture
from evo_agd.space.translation import TranslationArchitecture
from tests.conftest import photograph

CALIBRATION = [photograph(24, 24, seed) for seed in range(4)]
BLOCKS = (Block("residual", 3, 8), Block("fused", 3, 8), Block("inverted", 3, 8))


def student(tail: str) -> Student:
    torch.manual_seed(0)
    if tail == "frozen":
        layers = (Layer("residual", 12), Layer("inverted", 8))
        net = TranslationStudent(TranslationArchitecture((8, 12, 8), layers, (12, 8)))
        return frozen(net.eval(), torch.rand(4, 3, 32, 32)).eval()
    width = 0 if tail == "shuffle" else 6
    made = SRStudent(SRArchitecture(4, 8, BLOCKS, tail, width)).eval()
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.05)
    return made


def written(folder: Path, tail: str) -> Student:
    net = student(tail)
    export(net, folder / "fp32.onnx", metadata_of(net))
    export(integer_form(net), folder / "form.onnx", metadata_of(net))
    quantize(folder / "form.onnx", folder / "int8.onnx", CALIBRATION, "minmax")
    return net


def decibels(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a.astype(np.float64) - b) ** 2)))


TAILS = ["shuffle", "shuffle_twice", "nearest", "frozen"]


@pytest.mark.parametrize("tail", TAILS)
def test_int8_is_near_at_every_size_with_and_without_optimization(
    tmp_path: Path, tail: str
) -> None:
    net = written(tmp_path, tail)
    exact, rounded = (session(tmp_path / f"{n}.onnx", 1) for n in ("fp32", "int8"))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(str(tmp_path / "int8.onnx"), options)
    for batch, height, width in ((1, 12, 40), (2, 24, 20)):
        x = np.concatenate([as_input(photograph(height, width, 9 + i)) for i in range(batch)])
        (wanted,), (found,), (slow,) = (m.run(None, {"image": x}) for m in (exact, rounded, plain))
        with torch.no_grad():
            assert np.abs(net(torch.from_numpy(x)).numpy() - wanted).max() <= 1e-4
        assert found.shape == wanted.shape
        assert decibels(found, wanted) > 35
        assert decibels(found, slow) > 45


@pytest.mark.parametrize("tail", ["shuffle", "shuffle_twice", "frozen"])
def test_all_convolutions_run_on_integers_and_no_pixel_moves_as_a_float(
    tmp_path: Path, tail: str
) -> None:
    written(tmp_path, tail)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(tmp_path / "int8.onnx"), options)
    kinds = Counter(n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert kinds["QLinearConv"] >= 7
    assert not {"Conv", "FusedConv", "ConvTranspose", "Resize", "DepthToSpace"} & kinds.keys()
    assert kinds["DequantizeLinear"] == 1


@pytest.mark.parametrize("tail", TAILS)
def test_openvino_gives_the_same(tmp_path: Path, tail: str) -> None:
    openvino = pytest.importorskip("openvino")
    written(tmp_path, tail)
    x = as_input(photograph(20, 28, 9))
    core = openvino.Core()
    for name, least in (("fp32", 70), ("int8", 35)):
        path = tmp_path / f"{name}.onnx"
        (expected,) = session(path, 1).run(None, {"image": x})
        hint = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = core.compile_model(core.read_model(path), "CPU", hint)
        assert decibels(compiled(x)[0], expected) > least


def test_a_file_says_what_somebody_who_has_only_it_needs_to_know(tmp_path: Path) -> None:
    net = written(tmp_path, "shuffle_twice")
    for name in ("fp32", "int8"):
        known = session(tmp_path / f"{name}.onnx", 1).get_modelmeta().custom_metadata_map
        assert known == metadata_of(net)
        assert known["scale"] == "4" and known["multiple"] == "1" and known["whole"] == "0"
    normed = TranslationStudent(TranslationArchitecture((8, 8, 8), (Layer("conv3x3", 8),), (8, 8)))
    assert metadata_of(normed)["whole"] == "1" and metadata_of(normed)["multiple"] == "4"


@pytest.mark.parametrize("tail", ["shuffle_twice", "frozen", "nearest"])
def test_a_tile_with_the_overlap_that_is_named_shows_no_seam(tail: str) -> None:
    net = student(tail)
    known = {key: int(value) for key, value in metadata_of(net).items()}
    overlap = -(-known["overlap"] // known["multiple"]) * known["multiple"]
    x = torch.rand(1, 3, 16, 2 * overlap + 32)
    with torch.no_grad():
        whole, part = net(x), net(x[..., : 2 * overlap])
    inside = overlap * known["scale"]
    assert torch.allclose(whole[..., :inside], part[..., :inside], atol=1e-5)


def test_what_travels_is_small(tmp_path: Path) -> None:
    """A byte a weight; phases, colours and names are not stored four, three or forty times."""
    net = written(tmp_path, "shuffle_twice")
    weights = sum(p.numel() for p in net.parameters())
    form = sum(p.numel() for p in integer_form(net).parameters())
    assert form > 3 * weights
    assert (tmp_path / "int8.onnx").stat().st_size < weights + 9000
    stored = onnx.load(tmp_path / "int8.onnx").graph.initializer
    int8 = sum(to_array(t).size for t in stored if to_array(t).dtype == np.int8)
    assert int8 < weights + 200


def test_pictures_and_the_base_lose_nothing(tmp_path: Path) -> None:
    written(tmp_path, "shuffle")
    graph = onnx.load(tmp_path / "int8.onnx").graph
    stored = {t.name: to_array(t) for t in graph.initializer}
    first = next(n for n in graph.node if n.input and n.input[0] == "image")
    assert first.op_type == "QuantizeLinear"
    assert stored[first.input[1]] == np.float32(1 / 255)
    assert any(v.shape == () and v == np.float32(1 / 64) for v in stored.values())


def test_the_layers_that_cause_a_loss_stay_in_fp32(tmp_path: Path) -> None:
    """One with a huge weight for an input that is always 0: all its others are rounded away."""
    export(integer_form(student("shuffle")), tmp_path / "form.onnx")
    model = onnx.load(tmp_path / "form.onnx")
    names = convolutions(tmp_path / "form.onnx")
    before, culprit = (next(n for n in model.graph.node if n.name == name) for name in names[3:5])

    def edit(name: str, index: object, value: float) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == name)
        values = to_array(tensor).copy()
        values[index] = value
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))

    edit(before.input[1], 0, 0.0)
    edit(before.input[2], 0, 0.0)
    edit(culprit.input[1], (slice(None), 0), 1000.0)
    onnx.save(model, tmp_path / "form.onnx")
    errors = sensitivity(tmp_path / "form.onnx", CALIBRATION, "minmax")
    assert set(errors) == set(names)
    x = as_input(photograph(24, 24, 9))
    (wanted,) = session(tmp_path / "form.onnx", 1).run(None, {"image": x})

    def drop(path: Path) -> float:
        (found,) = session(path, 1).run(None, {"image": x})
        return 60 - decibels(found, wanted)

    assert max(errors, key=lambda n: errors[n]) == culprit.name
    quantize(tmp_path / "form.onnx", tmp_path / "plain.onnx", CALIBRATION, "minmax")
    limit = drop(tmp_path / "plain.onnx") - 1
    kept = quantize_within(
        tmp_path / "form.onnx", tmp_path / "int8.onnx", CALIBRATION,
        Quantization(max_drop=limit), drop,
    )  # fmt: skip
    assert kept == [4]
    assert drop(tmp_path / "int8.onnx") <= limit


def test_a_limit_that_nothing_keeps_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(integer_form(student("shuffle")), tmp_path / "form.onnx")
    monkeypatch.setattr(accuracy, "MOST", 0.2)
    caplog.set_level("WARNING", logger=accuracy.__name__)
    kept = quantize_within(
        tmp_path / "form.onnx", tmp_path / "int8.onnx", CALIBRATION, Quantization(), lambda _: 1.0
    )
    assert kept == [] and "1.00 dB" in caplog.text
    assert session(tmp_path / "int8.onnx", 1)


def test_peak_memory_grows_with_the_picture(tmp_path: Path) -> None:
    export(student("shuffle"), tmp_path / "net.onnx")
    small, large = (peak_megabytes(tmp_path / "net.onnx", side, 1) for side in (16, 256))
    # 8 to 48 channels of 4 bytes a pixel, and 3 * 16 of the enlarged picture.
    assert 0 <= small < large and large - small > 256 * 256 * 3 * 16 * 4 / 1e6
    with pytest.raises(RuntimeError, match="does not run"):
        peak_megabytes(tmp_path / "none.onnx", 16, 1)
