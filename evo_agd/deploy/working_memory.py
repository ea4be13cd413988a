"""How much memory a network works in, from its ONNX graph."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
from onnx import TensorProto, helper

SIDE = 64  # of the picture that the sizes of what lies between are inferred for
UNKNOWN = 4096  # bytes an input pixel where they cannot be; a full ESRGAN x4 needs some 3000
# ONNX Runtime lays channels out in blocks of 16 and keeps blocks of memory that it does not use.
SLACK = 1.5

log = logging.getLogger(__name__)


def _sizes(model: onnx.ModelProto, side: int) -> dict[str, int]:
    """Bytes of each tensor that depends on the picture, for one of ``side`` x ``side``."""
    graph = model.graph
    for index, size in ((0, 1), (2, side), (3, side)):
        graph.input[0].type.tensor_type.shape.dim[index].dim_value = size
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    found = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and tensor.elem_type != TensorProto.UNDEFINED:
            shape = [d.dim_value if d.HasField("dim_value") else 0 for d in tensor.shape.dim]
            width = helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
            found[value.name] = math.prod(shape) * width
    return found


def bytes_per_pixel(model: onnx.ModelProto, multiple: int = 1) -> int:
    """Bytes that a network works in for each pixel of its input, its output included.

    The most that is alive at once, if each tensor lives from the node that makes it to the last
    that takes it; where shapes cannot be inferred it is a figure for large networks.

    Args:
        model: an ONNX model of pictures (N, 3, H, W); it is changed.
        multiple: what divides H and W.
    """
    side = math.lcm(SIDE, multiple)
    nodes = model.graph.node
    try:
        sizes = _sizes(model, side)
        outputs = sum(sizes[o.name] for o in model.graph.output)
    except Exception as error:  # onnx raises several kinds, and there may be no shape to set
        log.info("%s: no shapes (%s)", model.graph.name, error)
        return UNKNOWN
    if not outputs:
        return UNKNOWN
    last = {name: at for at, node in enumerate(nodes) for name in node.input}
    last |= {o.name: len(nodes) for o in model.graph.output}
    alive = {model.graph.input[0].name}
    most = 0
    for at, node in enumerate(nodes):
        alive |= {name for name in node.output if name in sizes}
        most = max(most, sum(sizes[name] for name in alive))
        alive = {name for name in alive if last.get(name, -1) > at}
    # Beside them the output once more, while it is rounded.
    return math.ceil((SLACK * most + outputs) / side**2)


class Room:
    """Memory that threads share: who needs some waits until there is as much, or all of it.

    Args:
        size: bytes.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0
        self.changed = threading.Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Have ``size`` bytes; more than there are means to be alone."""
        with self.changed:
            self.changed.wait_for(lambda: self.used == 0 or self.used + size <= self.size)
            self.used += size
        try:
            yield
        finally:
            with self.changed:
                self.used -= size
                self.changed.notify_all()
