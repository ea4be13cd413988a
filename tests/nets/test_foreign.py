from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from torch import Tensor, nn

from evo_agd.errors import InputError
from evo_agd.nets.teachers import load_teacher
from tests.conftest import photograph


def picture(height: int, width: int) -> Tensor:
    return torch.from_numpy(photograph(height, width, 1)).permute(2, 0, 1)[None] / 255


def enlarging(scale: int = 2) -> nn.Module:
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 3 * scale**2, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), last, nn.PixelShuffle(scale)).eval()


def params_of(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def write_conv(
    path: Path,
    given: tuple[object, ...] = ("n", 3, "h", "w"),
    answer: tuple[object, ...] = ("n", 3, "h", "w"),
    inputs: int = 1,
    outputs: int = 1,
) -> np.ndarray:
    """A 3x3 convolution of its first input as ONNX; its weights."""
    rng = np.random.default_rng(0)
    c_in, c_out = (v if isinstance(v, int) else 3 for v in (given[1], answer[1]))
    weight = rng.uniform(-0.2, 0.2, (c_out, c_in, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["in0", "weight"], [f"out{i}"], pads=[1, 1, 1, 1])
        for i in range(outputs)
    ]
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info(f"in{i}", TensorProto.FLOAT, given) for i in range(inputs)],
        [
            helper.make_tensor_value_info(f"out{i}", TensorProto.FLOAT, answer)
            for i in range(outputs)
        ],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return weight


def test_an_exported_network_answers_as_before(tmp_path: Path) -> None:
    net, path = enlarging(), tmp_path / "enlarging.onnx"
    axes = {0: "n", 2: "h", 3: "w"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (torch.rand(2, 3, 12, 16),),
            path,
            dynamo=False,
            input_names=["picture"],
            output_names=["larger"],
            dynamic_axes={"picture": axes, "larger": axes},
        )
    teacher = load_teacher(str(path), 2)
    assert teacher.architecture == "ONNX (enlarging)" and teacher.tiled
    assert teacher.params == params_of(net)
    x = picture(13, 11).repeat(2, 1, 1, 1)
    with torch.inference_mode():
        assert torch.allclose(teacher.net(x), net(x), atol=1e-4)
    with pytest.raises(InputError, match="scale 4, found scale 2"):
        load_teacher(str(path), 4)


def test_weights_beside_an_onnx_file_are_part_of_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "outside.onnx"
    write_conv(path)
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="outside.data", size_threshold=0)
    before = load_teacher(str(path), 1)
    assert before.params == 81
    data = bytearray((tmp_path / "outside.data").read_bytes())
    data[2] ^= 1
    (tmp_path / "outside.data").write_bytes(data)
    assert load_teacher(str(path), 1).digest != before.digest


def test_an_int8_file_counts_its_weights_and_answers_nearly_as_before(tmp_path: Path) -> None:
    class Crops(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.waiting = iter([{"in0": picture(16, 16).numpy()}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.waiting, None)

    float_path, int8_path = tmp_path / "float.onnx", tmp_path / "student.int8.onnx"
    write_conv(float_path)
    quantize_static(
        str(float_path),
        str(int8_path),
        Crops(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,  # of 8-bit weights the sums saturate on processors without VNNI
    )
    teacher = load_teacher(str(int8_path), 1)
    assert teacher.params == 81
    x = picture(16, 16)
    expected = load_teacher(str(float_path), 1, value_range="unit").net(x)
    answer = load_teacher(str(int8_path), 1, value_range="unit").net(x)
    assert (answer - expected).abs().max() < 0.05


def test_horse2zebra_is_accepted_as_it_is(shared: Path) -> None:
    path = shared / "weights/horse2zebra_gan_compression.onnx"
    teacher = load_teacher(str(path), 1)
    assert teacher.architecture == "ONNX (horse2zebra_gan_compression)"
    assert teacher.params == 356_867 and len(teacher.digest) == 16 and not teacher.tiled
    low = photograph(37, 50, 3)
    answer = teacher.answer(low, 1)
    assert answer.shape == (37, 50, 3)
    # Had -1..1 been taken for 0..1, half of the picture would be clipped to black.
    assert (answer == 0).mean() < 0.05 and answer.mean() > 50
    assert teacher.answer(photograph(8, 9, 3), 1).shape == (8, 9, 3)
    unit = load_teacher(str(path), 1, value_range="unit")
    assert np.abs(unit.answer(low, 1).astype(int) - answer).mean() > 20


def test_onnx_files_that_are_no_teacher_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"

    def refused(match: str, **kinds: object) -> None:
        write_conv(path, **kinds)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=match):
            load_teacher(str(path), 1)

    refused(r"RGB to RGB.*found input .*\(n, 1, h, w\)", given=("n", 1, "h", "w"))
    refused(r"RGB to RGB.*found output .*\(n, 2, h, w\)", answer=("n", 2, "h", "w"))
    refused(r"RGB to RGB.*found 3 to 2 channels|output", answer=("n", 2, "h", "w"))
    refused("dynamic height and width, found 64x48", given=("n", 3, 64, 48))
    refused("one input, found 2: in0, in1", inputs=2)
    refused("one output, found 2: out0, out1", outputs=2)
    for content in (b"", b"this is not a network"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"net\.onnx: expected an ONNX file"):
            load_teacher(str(path), 1)


def test_a_batch_of_one_built_into_a_file_does_no_harm(tmp_path: Path) -> None:
    write_conv(tmp_path / "one.onnx", given=(1, 3, "h", "w"), answer=(1, 3, "h", "w"))
    teacher = load_teacher(str(tmp_path / "one.onnx"), 1)
    x = torch.cat([picture(9, 10), 1 - picture(9, 10)])
    assert torch.equal(teacher.net(x)[1:], teacher.net(x[1:]))


@pytest.mark.parametrize("name", ["script.pt", "script.pth", "script.weird"])
def test_torchscript_answers_as_before(tmp_path: Path, name: str) -> None:
    net = enlarging()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(net, torch.rand(1, 3, 16, 16)), tmp_path / name)
    teacher = load_teacher(str(tmp_path / name), 2)
    assert (teacher.architecture, teacher.params) == ("TorchScript", params_of(net))
    x = picture(13, 11)
    with torch.inference_mode():
        assert torch.allclose(teacher.net(x), net(x), atol=1e-4)


CODE = """
import torch
from beside import scale

def make():
    torch.manual_seed(0)
    return torch.nn.Upsample(scale_factor=scale)

def conv():
    torch.manual_seed(0)
    return torch.nn.Conv2d(3, 3, 3, padding=1)

def seeded():
    torch.manual_seed(1)
    return torch.nn.Conv2d(3, 3, 3, padding=1)

def plain():
    return lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3)

def nothing():
    return None

def fails():
    raise RuntimeError("no\\nweights here")

def flat():
    return lambda x: x.flatten(1)

def pair():
    return lambda x: (x, x)

def grey():
    return torch.nn.Conv2d(1, 1, 3)
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "my_unet.py").write_text(CODE)
    (tmp_path / "beside.py").write_text("scale = 2")
    return tmp_path / "my_unet.py"


def test_a_function_in_a_file_is_called(code: Path) -> None:
    teacher = load_teacher(f"{code}:make", 2)
    assert teacher.architecture == "my_unet.py:make" and teacher.params == 0
    x = picture(9, 10)
    expected = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(teacher.net(x), expected)
    assert torch.equal(load_teacher(f"{code}:plain", 2).net(x), expected)
    assert load_teacher(f"{code}:conv", 1).params == 84


def test_a_function_in_a_module_of_the_current_directory_is_called(
    code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = code.parent / "teachers_of_mine"
    package.mkdir()
    (package / "net.py").write_text("from torch.nn import Identity as make")
    monkeypatch.chdir(code.parent)
    assert load_teacher("teachers_of_mine.net:make", 1).architecture == "teachers_of_mine.net:make"
    assert load_teacher("my_unet.py:make", 2).architecture == "my_unet.py:make"


def test_other_weights_of_one_function_have_another_digest(code: Path) -> None:
    names = ("conv", "conv", "seeded", "make")
    one, again, *others = (
        load_teacher(f"{code}:{n}", 2 if n == "make" else 1).digest for n in names
    )
    assert one == again and len({one, *others}) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "a function absent"),
        ("nothing", "callable from tensor to tensor, found NoneType"),
        ("fails", "found RuntimeError: no weights here$"),
        ("flat", "a picture .* found shape"),
        ("pair", "one tensor, found tuple"),
        ("grey", "RGB to RGB.* found 1 to 1 channels"),
        ("make", "scale 1, found scale 2"),
    ],
)
def test_functions_that_give_no_teacher_are_refused(code: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_teacher(f"{code}:{name}", 1)
    assert caught.value.where.endswith(f"my_unet.py:{name}")


def test_code_that_cannot_be_imported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"nowhere\.py:make: expected a Python file, found no such"
    ):
        load_teacher(str(tmp_path / "nowhere.py:make"), 1)
    with pytest.raises(InputError, match="ModuleNotFoundError: No module named 'no_such_module'"):
        load_teacher("no_such_module.net:make", 1)
    for line in ("import no_such_module", "raise SystemExit(3)", "def"):
        (tmp_path / "broken.py").write_text(line)
        with pytest.raises(InputError, match="a module that can be imported"):
            load_teacher(str(tmp_path / "broken.py:make"), 1)
