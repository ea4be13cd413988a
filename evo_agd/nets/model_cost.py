"""What a model costs, whatever it came as: multiply-accumulates, and megabytes."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from evo_agd.nets.probing import reason_of
from evo_agd.nets.teachers import Teacher

# ONNX's convolutions and the place of the weight (out, in / groups, ...) among their inputs; that
# of a transposed one is (in, out / groups, ...).
_WEIGHT = {"Conv": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3, "ConvTranspose": 1}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelCost:
    """Multiply-accumulates / 1e9 and megabytes; None where they cannot be told."""

    gmacs: float | None
    memory_mb: float | None
    file: bool
    """``memory_mb`` is the size of an ONNX file / 1e6; else it is parameters x 4 / 1e6."""


def model_cost(source: str, teacher: Teacher, input_size: tuple[int, int]) -> ModelCost:
    """What the model ``teacher``, loaded from ``source``, costs for an input (height, width).

    Convolutions and matrix products count, biases and activations do not; a transposed convolution
    counts on the grid of its input.
    """
    path = Path(source)
    if path.suffix.lower() == ".onnx":
        macs = onnx_macs(path, *input_size)
        memory = _onnx_bytes(path) / 1e6
        return ModelCost(None if macs is None else macs / 1e9, memory, file=True)
    macs = torch_macs(teacher, *input_size)
    memory_mb = teacher.params * 4 / 1e6 if teacher.params else None  # a function says nothing
    return ModelCost(None if macs is None else macs / 1e9, memory_mb, file=False)


def torch_macs(teacher: Teacher, height: int, width: int) -> int | None:
    """Multiply-accumulates for an input (1, 3, height, width); None where torch sees none.

    Nothing is computed: the tensors have a shape and no content. A network that keeps tensors
    between its calls may be left with such ones, so count after the last picture.
    """
    try:
        with (
            torch.no_grad(),
            FakeTensorMode(allow_non_fake_inputs=True),
            FlopCounterMode(display=False) as counter,
        ):
            teacher.net(torch.empty(1, 3, height, width))
    except Exception as error:  # whatever a user's code does that needs the values
        log.info("%s: cannot be counted: %s", teacher.architecture, reason_of(error))
        return None
    return int(counter.get_total_flops()) // 2 or None


def onnx_macs(path: Path, height: int, width: int) -> int | None:
    """Multiply-accumulates of an ONNX file for an input (1, 3, height, width).

    None where the shapes depend on the picture, or the graph has branches or loops.
    """
    try:
        graph = _with_shapes(onnx.load(str(path)), height, width).graph
    except Exception as error:  # ONNX's own and protobuf's, of which it loads but cannot infer
        log.info("%s: shapes cannot be inferred: %s", path, reason_of(error))
        return None
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        # A dimension that nobody knows reads as 0.
        if tensor.HasField("shape") and all(d.dim_value for d in tensor.shape.dim):
            shapes[value.name] = [d.dim_value for d in tensor.shape.dim]
    try:
        return sum(_node_macs(node, shapes) for node in graph.node)
    except KeyError as error:
        log.info("%s: the shape of %s is not known", path, error)
        return None


def _with_shapes(model: onnx.ModelProto, height: int, width: int) -> onnx.ModelProto:
    """The model with the shapes of all values for an input (1, 3, height, width)."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}  # old files list them as inputs, too
    given = next(value for value in graph.input if value.name not in weights)
    shape = given.type.tensor_type.shape
    del shape.dim[:]
    for size in (1, 3, height, width):
        shape.dim.add().dim_value = size
    # What the exporter wrote down has names for dimensions, which would stay.
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _node_macs(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    """Multiply-accumulates of a node.

    Raises:
        KeyError: a shape that would be needed is not known, or there is a graph inside.
    """
    kind = node.op_type
    if any(
        a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute
    ):
        raise KeyError(f"a value inside {kind}")
    if kind in _WEIGHT:
        weight = shapes[node.input[_WEIGHT[kind]]]
        grid = node.input[0] if kind == "ConvTranspose" else node.output[0]
        return math.prod(shapes[grid]) * math.prod(weight[1:])
    if kind in ("MatMul", "Gemm"):
        turned = any(a.name == "transA" and a.i for a in node.attribute)
        return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if turned else -1]
    return 0


def _onnx_bytes(path: Path) -> int:
    """Size of the file, and of those beside it that it has its weights in."""
    graph = onnx.load(str(path), load_external_data=False).graph
    outside = {ExternalDataInfo(t).location for t in graph.initializer if uses_external_data(t)}
    return sum(p.stat().st_size for p in (path, *(path.parent / name for name in outside)))
