"""What a quantized ONNX file does not need, taken out of it; what it says slowly, said quickly.

A student of a few thousand weights is mostly headers: names as long as the exporter makes them,
attributes at their defaults, zero points that are zero, the same weights once for each phase of an
enlarged picture. A file that is carried to a phone should not be.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

ZERO_POINT = 2  # which input of QuantizeLinear and DequantizeLinear
_DEFAULTS: dict[str, dict[str, object]] = {
    "Conv": {"auto_pad": b"NOTSET", "dilations": [1, 1], "group": 1, "strides": [1, 1]},
    "DequantizeLinear": {"axis": 1},
    "QuantizeLinear": {"axis": 1},
}
_INFERRED = {"Conv": {"kernel_shape"}}  # from the weights


def compact(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function in fewer bytes and fewer steps; the model itself is left as it is."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    _merge_constants(graph)
    _pad_bytes(graph)
    _shuffle_in_rows(graph)
    _fold_phases(graph)
    _fold_diagonal(graph)
    _drop_defaults(graph)
    _merge_constants(graph)
    _shorten_names(graph)
    own = {p.key: p.value for p in result.metadata_props if not p.key.startswith("onnx.")}
    helper.set_model_props(result, own)  # without what the quantizer notes for itself
    del graph.value_info[:]
    del graph.metadata_props[:]
    graph.ClearField("doc_string")
    graph.name = "g"
    return result


def _producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in graph.node for name in node.output}


def _consumers(graph: onnx.GraphProto, name: str) -> list[onnx.NodeProto]:
    return [node for node in graph.node if name in node.input]


def _attribute(node: onnx.NodeProto, name: str) -> object:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), None)


def _constant(graph: onnx.GraphProto, name: str, value: NDArray[np.generic]) -> str:
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return name


def _shuffle_in_rows(graph: onnx.GraphProto) -> None:
    """Sub-pixel shuffles on bytes, in front of their DequantizeLinear, a row of phases at a time.

    Integer convolutions have their channels last. With those of one phase together
    (:func:`evo_agd.nets.integer_form.phases_to_pixels`) the shuffle moves runs of bytes there; as
    ONNX Runtime's DepthToSpace has it, it is the dearest step of a small network.
    """
    phases = [
        n for n in graph.node if n.op_type == "DepthToSpace" and _attribute(n, "mode") == b"DCR"
    ]
    for index, node in enumerate(phases):
        made = _producers(graph)
        behind = made[node.input[0]]
        if behind.op_type != "DequantizeLinear" or len(_consumers(graph, behind.output[0])) > 1:
            continue  # in FP32, as where what is in front of it is
        by = _attribute(node, "blocksize")
        assert isinstance(by, int)
        channels = _channels(graph, made, behind.input[0]) // by**2
        steps = list(_rows(graph, f"rows{index}", behind.input[0], by, channels))
        behind.input[0] = steps[-1].output[0]
        _insert(graph, behind, steps)
        _bypass(graph, node, behind)


def _insert(graph: onnx.GraphProto, before: onnx.NodeProto, steps: list[onnx.NodeProto]) -> None:
    place = next(i for i, node in enumerate(graph.node) if node.output == before.output)
    for step in reversed(steps):
        graph.node.insert(place, step)


def _bypass(graph: onnx.GraphProto, node: onnx.NodeProto, behind: onnx.NodeProto) -> None:
    """Take a node out: the one in front of it gives its output."""
    before, after = behind.output[0], node.output[0]
    graph.node.remove(node)
    behind.output[0] = after
    for other in graph.node:
        other.input[:] = [after if name == before else name for name in other.input]


def _channels(graph: onnx.GraphProto, made: dict[str, onnx.NodeProto], name: str) -> int:
    """Channels of a tensor that comes from a convolution, found by its weights."""
    sizes = {i.name: list(i.dims) for i in graph.initializer}
    while made[name].op_type != "Conv":
        name = made[name].input[0]
    weight = made[name].input[1]
    return int(sizes[weight if weight in sizes else made[weight].input[0]][0])


def _rows(
    graph: onnx.GraphProto, name: str, x: str, by: int, channels: int
) -> Iterator[onnx.NodeProto]:
    """Nodes from (N, by * by * C, H, W) to (N, C, by * H, by * W), phases first."""
    split = _constant(graph, f"{name}.split", np.array([0, 0, 0, by, by * channels]))
    order = _constant(graph, f"{name}.order", np.array([0, 2, 3]))
    grow = _constant(graph, f"{name}.grow", np.array([1, by, by]))
    last = _constant(graph, f"{name}.last", np.array([channels]))
    last_axis, a, b, shape, sides, large, whole, placed, y = (f"{name}.{i}" for i in range(9))
    yield helper.make_node("Transpose", [x], [last_axis], perm=[0, 2, 3, 1])
    yield helper.make_node("Reshape", [last_axis, split], [a])
    yield helper.make_node("Transpose", [a], [b], perm=[0, 1, 3, 2, 4])
    yield helper.make_node("Shape", [x], [shape])
    yield helper.make_node("Gather", [shape, order], [sides])
    yield helper.make_node("Mul", [sides, grow], [large])
    yield helper.make_node("Concat", [large, last], [whole], axis=0)
    yield helper.make_node("Reshape", [b, whole], [placed])
    yield helper.make_node("Transpose", [placed], [y], perm=[0, 3, 1, 2])


def _pad_bytes(graph: onnx.GraphProto) -> None:
    """Pictures padded as bytes: a pair less where both sides have one scale and repeat the edge."""
    for node in [n for n in graph.node if n.op_type == "Pad" and _attribute(n, "mode") == b"edge"]:
        made, behind = _producers(graph), _consumers(graph, node.output[0])
        before = made.get(node.input[0])
        if before is None or before.op_type != "DequantizeLinear" or len(behind) != 1:
            continue
        (after,) = behind
        if after.op_type != "QuantizeLinear" or after.input[1:] != before.input[1:]:
            continue
        node.input[0], padded = before.input[0], after.output[0]
        graph.node.remove(after)
        node.output[0] = padded
        if not _consumers(graph, before.output[0]):
            graph.node.remove(before)


def _fold_phases(graph: onnx.GraphProto) -> None:
    """Weights of a convolution behind a shuffle once, and the places of their phases as a rule.

    :func:`evo_agd.nets.integer_form.behind_shuffle` repeats a 3x3 kernel four times among zeros,
    sixteen times its size. Who loads the file folds the rule into constants again.
    """
    for initializer in list(graph.initializer):
        weight = numpy_helper.to_array(initializer)
        if weight.dtype != np.int8 or weight.ndim != len("oikk") or weight.shape[1] % 4:
            continue
        for rest in (1, 2):
            if weight.shape[0] == 3 * (2 * rest) ** 2 and weight.shape[2:] == (3, 3):
                kernel = _kernel_of(weight, rest)
                if np.array_equal(_unfolded(kernel), weight):
                    _fold(graph, initializer, kernel)
                    break


_PLACE = np.array(
    [[[p - 1 - phase if 0 <= p - 1 - phase < 3 else 3 for p in (2 * cell, 2 * cell + 1)]
      for cell in range(3)] for phase in range(2)]
)  # fmt: skip
"""Which tap of a 3x3 kernel an output phase has in a cell's input phase; 3 is none."""
_FOLDED = (4, 1, 7, 2, 0, 3, 6, 9, 5, 8)  # phase and rest, y and x; channel; inputs; kernel


def _kernel_of(weight: NDArray[np.int8], rest: int) -> NDArray[np.int8]:
    """(3, rest, rest, C, 3, 3): the kernels as they are in the first output phase."""
    parts = weight.reshape(2, rest, 2, rest, 3, weight.shape[1] // 4, 2, 2, 3, 3)[0, :, 0]
    kernel = np.zeros((3, rest, rest, weight.shape[1] // 4, 3, 3), np.int8)
    for cell_y, phase_y, cell_x, phase_x in itertools.product(range(3), range(2), repeat=2):
        y, x = _PLACE[0, cell_y, phase_y], _PLACE[0, cell_x, phase_x]
        if y < 3 and x < 3:
            found = parts[..., phase_y, phase_x, cell_y, cell_x]
            kernel[..., y, x] = found.transpose(2, 0, 1, 3)
    return kernel


def _unfolded(kernel: NDArray[np.int8]) -> NDArray[np.int8]:
    """What the nodes of :func:`_fold` make of a kernel."""
    padded = np.pad(kernel, [(0, 0)] * 4 + [(0, 1)] * 2)
    placed = padded.take(_PLACE, axis=4).take(_PLACE, axis=7).transpose(_FOLDED)
    return placed.reshape(-1, 4 * kernel.shape[3], 3, 3)


def _fold(graph: onnx.GraphProto, weight: TensorProto, kernel: NDArray[np.int8]) -> None:
    name = weight.name
    shape = np.array([-1, *weight.dims[1:]])
    graph.initializer.remove(weight)
    part = [f"{name}.{step}" for step in ("kernel", "padded", "rows", "placed", "ordered")]
    _constant(graph, part[0], kernel)
    pads = _constant(graph, f"{name}.pads", np.array([0, 0, 1, 1]))
    axes = _constant(graph, f"{name}.axes", np.array([4, 5]))
    place = _constant(graph, f"{name}.place", _PLACE)
    steps = [
        helper.make_node("Pad", [part[0], pads, "", axes], [part[1]]),
        helper.make_node("Gather", [part[1], place], [part[2]], axis=4),
        helper.make_node("Gather", [part[2], place], [part[3]], axis=7),
        helper.make_node("Transpose", [part[3]], [part[4]], perm=_FOLDED),
        helper.make_node("Reshape", [part[4], _constant(graph, f"{name}.shape", shape)], [name]),
    ]
    for step in reversed(steps):
        graph.node.insert(0, step)


def _fold_diagonal(graph: onnx.GraphProto) -> None:
    """Weights that do the same to each of three colours and mix none: the kernel of one."""
    for initializer in list(graph.initializer):
        weight = numpy_helper.to_array(initializer)
        if weight.dtype != np.int8 or weight.shape[1:2] != (3,) or weight.shape[0] % 3:
            continue
        kernel = weight.reshape(-1, 3, *weight.shape[1:])[:, :1, 0]  # (phases, 1, k, k)
        zeros = np.zeros_like(kernel).repeat(3, 1)
        whole = np.concatenate([kernel, zeros, kernel, zeros, kernel], 1)
        if not np.array_equal(whole.reshape(weight.shape), weight):
            continue
        name = initializer.name
        graph.initializer.remove(initializer)
        one = _constant(graph, f"{name}.kernel", kernel)
        pads = _constant(graph, f"{name}.pads", np.array([0, 3]))
        axes = _constant(graph, f"{name}.axes", np.array([1]))
        shape = _constant(graph, f"{name}.shape", np.array([-1, *weight.shape[1:]]))
        padded, line = f"{name}.padded", f"{name}.line"
        steps = [
            helper.make_node("Pad", [one, pads, "", axes], [padded]),
            helper.make_node("Concat", [padded, padded, one], [line], axis=1),
            helper.make_node("Reshape", [line, shape], [name]),
        ]
        for step in reversed(steps):
            graph.node.insert(0, step)


def _drop_defaults(graph: onnx.GraphProto) -> None:
    constants = {i.name: i for i in graph.initializer}
    for node in graph.node:
        known, inferred = _DEFAULTS.get(node.op_type, {}), _INFERRED.get(node.op_type, set())
        for attribute in list(node.attribute):
            value = helper.get_attribute_value(attribute)
            value = list(value) if attribute.ints else value
            if attribute.name in inferred or known.get(attribute.name) == value:
                node.attribute.remove(attribute)
        pads = _attribute(node, "pads")
        if node.op_type == "Conv" and isinstance(pads, list) and not any(pads):
            node.attribute.remove(next(a for a in node.attribute if a.name == "pads"))
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > ZERO_POINT:
            zero = constants[node.input[ZERO_POINT]]
            unsigned = zero.data_type == TensorProto.UINT8
            if not numpy_helper.to_array(zero).any() and (
                unsigned or node.op_type == "DequantizeLinear"
            ):
                node.input.pop()


def _merge_constants(graph: onnx.GraphProto) -> None:
    """Equal constants once, unused ones not at all."""
    used = {name for node in graph.node for name in node.input}
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    names: dict[str, str] = {}
    kept = []
    for initializer in graph.initializer:
        if initializer.name not in used:
            continue
        value = numpy_helper.to_array(initializer)
        key = (initializer.data_type, tuple(initializer.dims), value.tobytes())
        names[initializer.name] = first.setdefault(key, initializer.name)
        if first[key] == initializer.name:
            kept.append(numpy_helper.from_array(value, initializer.name))
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)


def _shorten_names(graph: onnx.GraphProto) -> None:
    """All but inputs and outputs called a, b, ..., aa, ab, ..."""
    ends = {value.name for value in (*graph.input, *graph.output)}
    fresh = (
        "".join(letters)
        for length in itertools.count(1)
        for letters in itertools.product(string.ascii_letters, repeat=length)
    )
    names = (name for name in fresh if name not in ends)
    short = {name: name for name in (*ends, "")}

    def shortened(name: str) -> str:
        if name not in short:
            short[name] = next(names)
        return short[name]

    for initializer in graph.initializer:
        initializer.name = shortened(initializer.name)
    for node in graph.node:
        node.ClearField("name")
        node.ClearField("doc_string")
        for values in (node.input, node.output):
            values[:] = [shortened(name) for name in values]
