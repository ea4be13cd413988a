from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from evo_agd.deploy.model_file import ModelFile, open_model, open_session
from evo_agd.deploy.onnx_file import export
from evo_agd.deploy.quantizing import quantize
from evo_agd.deploy.working_memory import UNKNOWN, Room, bytes_per_pixel
from evo_agd.errors import InputError
from evo_agd.nets.super_resolution import SRStudent
from evo_agd.space.super_resolution import Block, SRArchitecture
from tests.conftest import photograph


class Foreign(nn.Module):
    """Three convolutions that see 1 + 2 + 4 pixels far, from and to -1..1."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.InstanceNorm2d(6) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Conv2d(6, 6, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(6, 3, 3, padding=4, dilation=4),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def write_foreign(path: Path, net: nn.Module) -> Path:
    dynamic = {0: "n", 2: "h", 3: "w"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        torch.onnx.export(
            net.eval(), (torch.rand(1, 3, 24, 24),), path, dynamo=False, input_names=["x"],
            output_names=["y"], dynamic_axes={"x": dynamic, "y": dynamic},
        )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small x4 student without metadata."""
    path = tmp_path_factory.mktemp("student") / "net.onnx"
    torch.manual_seed(0)
    export(SRStudent(SRArchitecture(4, 4, (Block("fused", 3, 4),), "shuffle", 0)), path)
    return path


def with_metadata(source: Path, path: Path, **metadata: str) -> Path:
    model = onnx.load(source)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


def test_a_student_without_metadata_is_asked(student: Path) -> None:
    nature = open_model(student, 1).nature
    assert (nature.scale, nature.multiple, nature.smallest) == (4, 1, 8)
    assert not nature.whole and not nature.symmetric
    assert 1 <= nature.overlap <= 4


def test_int8_is_asked_too(student: Path, tmp_path: Path) -> None:
    exact = open_model(student, 1).nature
    quantize(student, tmp_path / "int8.onnx", [photograph(24, 24, s) for s in (0, 1)], "minmax")
    found = open_model(tmp_path / "int8.onnx", 1).nature
    assert (found.scale, found.multiple, found.whole) == (4, 1, False)
    assert found.overlap == exact.overlap


def test_metadata_is_believed(student: Path, tmp_path: Path) -> None:
    known = {"scale": "4", "overlap": "9", "multiple": "4", "whole": "1"}
    nature = open_model(with_metadata(student, tmp_path / "net.onnx", **known), 1).nature
    assert (nature.scale, nature.overlap, nature.multiple, nature.whole) == (4, 9, 4, True)
    assert nature.smallest == 8 and nature.padded(9) == 12 and nature.padded(1) == 8


@pytest.mark.parametrize(("key", "text"), [("scale", "0"), ("overlap", "-1"), ("multiple", "x")])
def test_bad_metadata_is_told(student: Path, tmp_path: Path, key: str, text: str) -> None:
    known = {"scale": "4", "overlap": "9", "multiple": "1", "whole": "0"} | {key: text}
    with pytest.raises(InputError, match=f"{key}: expected an integer of at least"):
        open_model(with_metadata(student, tmp_path / "net.onnx", **known), 1)


def test_a_network_from_elsewhere_is_asked(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "net.onnx", Foreign())
    model = open_model(path, 1)
    nature = model.nature
    assert (nature.scale, nature.overlap, nature.multiple) == (1, 7, 1)
    assert nature.symmetric and not nature.whole
    photo = photograph(20, 30, 1)
    with torch.no_grad():
        x = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None] / 255
        expected = (Foreign().eval()(2 * x - 1) / 2 + 0.5)[0].numpy()
    assert np.abs(model(photo) - expected).max() <= 1e-5
    assert not open_model(path, 1, "unit").nature.symmetric


@pytest.mark.parametrize("hidden", [False, True])
def test_instance_norm_looks_at_the_whole(tmp_path: Path, hidden: bool) -> None:
    class Hidden(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.amax(dim=(2, 3), keepdim=True) / 2

    path = write_foreign(tmp_path / "net.onnx", Hidden() if hidden else Foreign(norm=True))
    assert open_model(path, 1).nature.whole


def test_no_model_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_model(tmp_path / "none.onnx", 1)
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(InputError, match="an ONNX file that ONNX Runtime can load"):
        open_model(tmp_path / "text.onnx", 1)
    path = write_foreign(tmp_path / "half.onnx", nn.Sequential(nn.AvgPool2d(2)))
    with pytest.raises(InputError, match="an answer as large as the input"):
        open_model(path, 1)


def test_memory_is_that_of_the_largest_layer(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "net.onnx", Foreign())
    found = bytes_per_pixel(onnx.load(path))
    # 6 channels in, 6 out, and the output, with what is kept free beside them.
    assert 4 * (6 + 6 + 3) <= found <= 4 * (6 + 6 + 3 + 6) * 2
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert bytes_per_pixel(model) == UNKNOWN


def test_room_is_never_overrun_but_by_one() -> None:
    room = Room(10)
    with room.taken(4), room.taken(6):
        assert room.used == 10
    with room.taken(25):
        assert room.used == 25
    assert room.used == 0


def test_a_session_of_another_number_of_threads_answers_the_same(student: Path) -> None:
    nature = open_model(student, 1).nature
    one, two = (ModelFile(open_session(student, threads), nature) for threads in (1, 2))
    assert isinstance(one.session, onnxruntime.InferenceSession)
    photo = photograph(40, 50, 2)
    assert np.abs(one(photo) - two(photo)).max() <= 1e-6
