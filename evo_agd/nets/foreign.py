"""Networks from elsewhere as functions of a tensor: ONNX, TorchScript, a user's own function.

What sizes and values they take is written nowhere; :mod:`evo_agd.nets.probing` asks them.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import math
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import torch
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from torch import Tensor, nn

from evo_agd.errors import InputError
from evo_agd.nets.probing import Network, reason_of

FUNCTION = re.compile(r"([^:]+\.py|[\w.]+):\w+")  # file.py:function or package.module:function


@dataclass(frozen=True)
class Foreign:
    """A network as its file or function gave it.

    ``net`` maps (1, 3, H, W) to (1, 3, H * scale, W * scale) for sizes and in a range of its own.
    """

    net: Network
    architecture: str
    params: int
    digest: str


def digest_of(*parts: bytes) -> str:
    """16 hex digits that name a content."""
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def ready(net: nn.Module) -> nn.Module:
    """The module in FP32, for inference, on the CPU."""
    # A user's function may have put its module on a GPU; teachers answer on the CPU so far.
    net = net.to("cpu").float().eval()
    for parameter in net.parameters():  # requires_grad_() of a TorchScript module refuses
        parameter.requires_grad_(False)
    with contextlib.suppress(RuntimeError):  # 5-d weights have no channels-last form
        net.to(memory_format=torch.channels_last)
    return net


def count(net: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in net.parameters())


# ONNX


class OnnxNetwork:
    """An ONNX Runtime session as a function from tensor to tensor."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        self.name: str = session.get_inputs()[0].name

    def __call__(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) float32 to the network's output."""
        array = np.ascontiguousarray(x.detach().cpu().numpy())
        (output,) = self.session.run(None, {self.name: array})
        return torch.from_numpy(output).to(x.device)


def open_onnx(path: Path) -> Foreign:
    """An ONNX file, FP32 or INT8 with quantize-dequantize pairs.

    Raises:
        InputError: not an ONNX file, or not from one RGB picture of any size to one.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # a failing probe is no news to the user
    try:
        model = onnx.load(str(path), load_external_data=False)
        session = onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # DecodeError, or any of ONNX Runtime's own
        raise InputError(
            path, "an ONNX file that ONNX Runtime can load", reason_of(error)
        ) from error
    _check_onnx_shapes(path, session)
    parts = [path.read_bytes()]
    outside = {
        path.parent / ExternalDataInfo(t).location
        for t in model.graph.initializer
        if uses_external_data(t)
    }
    parts += [p.read_bytes() for p in sorted(outside)]
    name = f"ONNX ({path.stem})"
    return Foreign(OnnxNetwork(session), name, _onnx_params(model), digest_of(*parts))


def _check_onnx_shapes(path: Path, session: onnxruntime.InferenceSession) -> None:
    for kind, values in (("input", session.get_inputs()), ("output", session.get_outputs())):
        if len(values) != 1:
            names = ", ".join(v.name for v in values)
            raise InputError(path, f"a network with one {kind}", f"{len(values)}: {names}")
        (value,) = values
        shape = f"{value.type} ({', '.join(map(str, value.shape))})"
        if value.type != "tensor(float)" or len(value.shape) not in (0, 4):  # 0: it does not say
            raise InputError(path, f"float32 pictures (N, 3, H, W) as {kind}", shape)
        if len(value.shape) == 4 and isinstance(value.shape[1], int) and value.shape[1] != 3:
            raise InputError(path, "a teacher from RGB to RGB, (N, 3, H, W)", f"{kind} {shape}")
    sides = session.get_inputs()[0].shape[2:]
    if any(isinstance(side, int) for side in sides):
        size = "x".join(map(str, sides))
        raise InputError(path, "an ONNX file exported with dynamic height and width", size)


def _onnx_params(model: onnx.ModelProto) -> int:
    """Weights and biases, whether stored as floats or as integers to be dequantized."""
    scales: set[str] = set()
    quantized: set[str] = set()
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scales.update(node.input[1:])
            quantized.add(node.input[0])
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    return sum(
        math.prod(t.dims)
        for t in model.graph.initializer
        if t.dims and t.name not in scales and (t.data_type in floats or t.name in quantized)
    )


# TorchScript and functions


def open_torchscript(path: Path) -> Foreign:
    """A file that ``torch.jit.save`` wrote.

    Raises:
        RuntimeError: it is not one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated is no news to its users
        net = ready(torch.jit.load(str(path), map_location="cpu"))
    return Foreign(net, "TorchScript", count(net), digest_of(path.read_bytes()))


def open_function(source: str) -> Foreign:
    """``package.module:function`` or ``path/to/file.py:function``: what the function returns.

    The digest is that of the function's file and of the returned module's weights; what the
    file imports is not in it.

    Raises:
        InputError: no such file, module or function; it raised; it returned no callable.
    """
    code, name = source.rsplit(":", 1)
    path = Path(code)
    is_file = code.endswith(".py")
    if is_file and not path.is_file():
        raise InputError(source, "a Python file", "no such file")
    with _importable(path.parent.resolve() if is_file else Path.cwd()):
        try:
            module = _run_file(path) if is_file else importlib.import_module(code)
        except (Exception, SystemExit) as error:
            raise InputError(source, "a module that can be imported", reason_of(error)) from error
        function = getattr(module, name, None)
        if function is None:
            raise InputError(source, f"a function {name} in {code}", "no such name")
        try:
            net = function()
            net = ready(net) if isinstance(net, nn.Module) else net
        except (Exception, SystemExit) as error:
            expected = "a function that takes no arguments and returns a network"
            raise InputError(source, expected, reason_of(error)) from error
    if not callable(net):
        expected = "a torch.nn.Module or a callable from tensor to tensor"
        raise InputError(source, expected, type(net).__name__)
    parts = [name.encode(), Path(module.__file__).read_bytes() if module.__file__ else b""]
    params = 0
    if isinstance(net, nn.Module):
        params = count(net)
        for key, value in net.state_dict().items():
            if isinstance(value, Tensor):
                parts += [key.encode(), value.contiguous().numpy().tobytes()]
    architecture = f"{path.name}:{name}" if is_file else source
    return Foreign(net, architecture, params, digest_of(*parts))


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """What lies in a folder can be imported, as if Python had been started there."""
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the user's code may have removed it
            sys.path.remove(str(folder))


def _run_file(path: Path) -> ModuleType:
    """Execute a file as a module of its own, whatever modules have its name."""
    name = f"evo_agd_teacher_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
