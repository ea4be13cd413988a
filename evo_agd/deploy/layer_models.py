"""Small ONNX models in which one layer of a space does its work as it does inside a network.

ONNX Runtime keeps activations of a chain of convolutions in a blocked layout of its own. A layer
alone in a model pays for bringing its input into that layout and its output out of it, which in a
network happens at the ends only: sums of layers alone were 24 % off (sr_x4_small, processor time of
one thread). So a layer stands between a cheap convolution that makes its input and one that looks
at a thousandth of its output, and the same model without the layer says what those two take: 2 to
6 % off. Behind an instance norm, which does not know the blocked layout, a layer pays in a network
too, and stands alone (3 %).

In INT8 the layout is channels last, and what FP32 does on the way takes a pass of its own: a
leaky ReLU, and an addition, whose sum is quantized anew. So each layer is timed with just what
follows it: an activation, an addition or neither. (A ReLU is the range of what is in front of it.)
Tails of sub-pixel shuffles are in their integer form (:mod:`evo_agd.nets.integer_form`), at the low
resolution, and the base with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from evo_agd.deploy.onnx_file import INPUT, OPSET
from evo_agd.nets.build import Space
from evo_agd.nets.elastic import SLOPE
from evo_agd.space.cells import TAIL, CellSpace
from evo_agd.space.cost import ConvLayer
from evo_agd.space.layers import Layer, layer_convolutions
from evo_agd.space.super_resolution import (
    Block,
    SuperResolutionSpace,
    block_layers,
    upsampler_layers,
)
from evo_agd.space.translation import QUARTER, TranslationArchitecture, TranslationSpace

IR_VERSION = 10  # of ONNX, what goes with the operator set
STRIDE = 32  # of the convolution that looks at a layer's output


class Place(Enum):
    """Where in its network a layer stands, and so what else of the network is timed with it.

    All that is no convolution (enlargements, shuffles, the last addition) is counted with a layer
    that a member has exactly once where it has the other; the activation behind the body is the
    stem's. What is said of the base holds for FP32; in INT8 it goes with the last layer.
    """

    BODY = "between two convolutions, with the activation behind it"
    ADDED = "between two convolutions, with the addition to what the block was given"
    GATE = "between two convolutions, with the sigmoid and what that is multiplied with"
    PLAIN = "between two convolutions, with nothing"
    ALONE = "between two instance norms, or at an end beside one"
    STEM = "at the input"
    STEM_AND_BASE = "at the input; with the bilinear enlargement that the output is added to"
    SHUFFLE = "before the only sub-pixel shuffle"
    SHUFFLED = "between two sub-pixel shuffles"
    NEAREST = "behind the body, enlarged"
    PICTURE = "to the picture; with the enlargement before the layer in front"


@dataclass(frozen=True)
class Probe:
    """A layer's models.

    Attributes:
        whole, rest: with and without the layer; their milliseconds differ by the layer's.
        shape: of both models' input.
    """

    whole: ModelProto
    rest: ModelProto | None
    shape: tuple[int, int, int, int]


class _Graph:
    """Nodes in a row, with random weights; methods take and give names of values."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.rng = np.random.default_rng(0)
        self.nodes: list[Any] = []
        self.weights: list[TensorProto] = []

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def weight(self, value: NDArray[np.float32]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def pad(self, x: str, *, mode: str) -> str:
        """By a pixel on each side."""
        name = f"w{len(self.weights)}"
        sides = np.array([0, 0, 1, 1, 0, 0, 1, 1])
        self.weights.append(numpy_helper.from_array(sides, name))
        return self.add("Pad", x, name, mode=mode)

    def convolve(
        self, x: str, layer: ConvLayer, *, active: bool = True, padded: bool = False
    ) -> str:
        """The layer with its norm and activation; ``padded`` where its input has been."""
        groups, side = layer.groups, layer.kernel
        ends = (layer.c_in, layer.c_out) if layer.transposed else (layer.c_out, layer.c_in)
        shape = (ends[0], ends[1] // groups, side, side)
        # So that activations keep their size through a model: denormal numbers are slow.
        spread = (layer.c_in // groups * side**2) ** -0.5
        weights = [self.weight(spread * self.rng.standard_normal(shape, np.float32))]
        if layer.bias:
            weights.append(self.weight(np.zeros(layer.c_out, np.float32)))
        sizes: dict[str, Any] = {"kernel_shape": [side] * 2, "strides": [layer.stride] * 2}
        sizes["pads"] = [0 if padded else side // 2] * 4
        if layer.transposed:
            sizes["output_padding"] = [layer.stride - 1] * 2
        kind = "ConvTranspose" if layer.transposed else "Conv"
        x = self.add(kind, x, *weights, group=groups, **sizes)
        if layer.norm:
            ones = self.weight(np.ones(layer.c_out, np.float32))
            zeros = self.weight(np.zeros(layer.c_out, np.float32))
            x = self.add("InstanceNormalization", x, ones, zeros)
        return self.activate(x, leaky=layer.bias) if active else x

    def activate(self, x: str, *, leaky: bool = True) -> str:
        return self.add("LeakyRelu", x, alpha=SLOPE) if leaky else self.add("Relu", x)

    def added(self, x: str, y: str, *, leaky: bool) -> str:
        """AGD's operators, which have ReLUs, have one behind their addition too."""
        total = self.add("Add", y, x)
        return total if leaky else self.activate(total, leaky=False)

    def enlarge(self, x: str, by: int, mode: str) -> str:
        """Nearest-neighbour or linear, as torch's exporter writes them."""
        if by == 1:
            return x
        scales = self.weight(np.array([1, 1, by, by], np.float32))
        grid = "asymmetric" if mode == "nearest" else "half_pixel"
        how = {"nearest_mode": "floor", "coordinate_transformation_mode": grid}
        return self.add("Resize", x, "", scales, mode=mode, **how)

    def shuffle(self, x: str, by: int) -> str:
        return x if by == 1 else self.add("DepthToSpace", x, blocksize=by, mode="CRD")

    def glance(self, x: str, channels: int) -> str:
        """What comes out must be used by a convolution: one at a thousandth of the pixels."""
        return self.convolve(x, ConvLayer(channels, 16, 1, stride=STRIDE), active=False)

    def model(self, *outputs: str) -> ModelProto:
        def value(name: str, shape: Sequence[str | int | None] | None) -> Any:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        inputs = [value(INPUT, ["batch", self.channels, "height", "width"])]
        results = [value(name, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "layer", inputs, results, self.weights)
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)


def _input_shape(
    layer: ConvLayer, channels: int, size: tuple[int, int]
) -> tuple[int, int, int, int]:
    grid = layer.zoom / layer.stride if layer.transposed else layer.zoom * layer.stride
    return 1, channels, int(size[0] * grid), int(size[1] * grid)


def probe(
    layer: ConvLayer, place: Place, scale: int, size: tuple[int, int], *, int8: bool = False
) -> Probe:
    """The models of a layer.

    Args:
        place: where it stands.
        scale: enlargement of the network, 1, 2 or 4.
        size: height and width of the network's input.
        int8: of a network that is going to be quantized.
    """
    _, _, height, width = _input_shape(layer, 0, size)
    if place in (Place.ALONE, Place.STEM, Place.STEM_AND_BASE):
        graph = _Graph(layer.c_in)
        active = layer.norm or place != Place.ALONE
        outputs = [graph.convolve(INPUT, layer, active=active)]
        if place != Place.ALONE:
            outputs = [graph.glance(outputs[0], layer.c_out)]
        if place == Place.STEM_AND_BASE and not int8:
            base = graph.enlarge(INPUT, scale, "linear")
            outputs.append(graph.add("Add", base, base))
        return Probe(graph.model(*outputs), None, (1, layer.c_in, height, width))
    before, within = _around(layer, place, scale, int8=int8)
    made = layer.c_in * before**2 if place == Place.SHUFFLED else layer.c_in
    whole, rest = _Graph(3), _Graph(3)
    outputs = [within(whole, whole.convolve(INPUT, ConvLayer(3, made, 1), active=False))]
    without = [rest.glance(rest.convolve(INPUT, ConvLayer(3, made, 1), active=False), made)]
    if place == Place.ADDED:
        other = ConvLayer(3, layer.c_out, 1)
        carried = whole.convolve(INPUT, other, active=False)
        total = whole.added(outputs[0], carried, leaky=layer.bias)
        outputs = [whole.glance(total, layer.c_out)]
        without.append(rest.glance(rest.convolve(INPUT, other, active=False), layer.c_out))
    shape = (1, 3, height // before, width // before)
    return Probe(whole.model(*outputs), rest.model(*without), shape)


def _around(
    layer: ConvLayer, place: Place, scale: int, *, int8: bool
) -> tuple[int, Callable[[_Graph, str], str]]:
    """How much larger the layer's grid is than that of what is before it, and what it does."""
    half = scale // 2

    def body(graph: _Graph, x: str) -> str:
        return graph.glance(graph.convolve(x, layer), layer.c_out)

    def added(graph: _Graph, x: str) -> str:
        return graph.convolve(x, layer, active=False)

    def gate(graph: _Graph, x: str) -> str:
        gates = graph.add("Sigmoid", graph.convolve(x, layer, active=False))
        return graph.glance(graph.add("Mul", x, gates), layer.c_out)

    def plain(graph: _Graph, x: str) -> str:
        return graph.glance(graph.convolve(x, layer, active=False), layer.c_out)

    def shuffle(graph: _Graph, x: str) -> str:
        if int8:
            return phases(graph, graph.convolve(x, layer, active=False))
        return graph.shuffle(graph.convolve(x, layer, active=False), scale)

    def phases(graph: _Graph, x: str) -> str:
        colours = ConvLayer(3, 3 * scale**2, 3, bias=False)
        padded = graph.pad(INPUT, mode="edge")
        base = graph.convolve(padded, colours, active=False, padded=True)
        total = graph.add("Add", x, base)
        return graph.add("DepthToSpace", total, blocksize=scale, mode="DCR")

    def shuffled(graph: _Graph, x: str) -> str:
        if int8:
            wide = ConvLayer(4 * layer.c_in, 3 * scale**2, 3)
            return phases(graph, graph.convolve(graph.activate(x), wide, active=False))
        x = graph.activate(graph.shuffle(x, 2))
        return graph.shuffle(graph.convolve(x, layer, active=False), half)

    def nearest(graph: _Graph, x: str) -> str:
        x = graph.enlarge(x, half, "nearest")
        return graph.glance(graph.convolve(x, layer), layer.c_out)

    def picture(graph: _Graph, x: str) -> str:
        x = graph.convolve(graph.enlarge(x, 2, "nearest"), layer, active=False)
        return graph.add("Add", x, graph.enlarge(INPUT, 2, "linear")) if int8 else x

    return {
        Place.BODY: (1, body),
        Place.ADDED: (1, added),
        Place.GATE: (1, gate),
        Place.PLAIN: (1, plain),
        Place.SHUFFLE: (1, shuffle),
        Place.SHUFFLED: (2, shuffled),
        Place.NEAREST: (half, nearest),
        Place.PICTURE: (2, picture),
    }[place]


def _tail_places(kind: str, layers: Sequence[ConvLayer]) -> list[tuple[ConvLayer, Place]]:
    if kind == "shuffle":
        return [(layers[0], Place.SHUFFLE)]
    if kind == "shuffle_twice":
        return [(layers[0], Place.PLAIN), (layers[1], Place.SHUFFLED)]
    first, *full, last = layers
    return [(first, Place.NEAREST), *((f, Place.BODY) for f in full), (last, Place.PICTURE)]


def _block_places(block: Block, features: int) -> list[tuple[ConvLayer, Place]]:
    *before, last = block_layers(block, features)
    found = [Place.BODY] * len(before)
    if block.operator == "gated" and block.kernel > 1:
        found[-1] = Place.GATE
    if block.operator == "separable" and block.kernel > 1:
        found = [Place.PLAIN, Place.BODY, Place.PLAIN]
    return [*zip(before, found, strict=True), (last, Place.ADDED)]


def _super_resolution(space: SuperResolutionSpace) -> list[tuple[ConvLayer, Place]]:
    found = [(ConvLayer(3, f, 3), Place.STEM_AND_BASE) for f in space.features]
    for features in space.features:
        for block in space.blocks():
            found += _block_places(block, features)
    for features in space.features:
        for kind in space.upsamplers:
            for width in space.upsampler_widths:
                tail = upsampler_layers(kind, features, width, space.scale)
                found += _tail_places(kind, tail)
    return found


def _layer_places(layer: Layer, c_in: int) -> list[tuple[ConvLayer, Place]]:
    found = layer_convolutions(layer, c_in)
    if layer.operator in ("conv1x1", "conv3x3"):
        return [(found[0], Place.BODY)]
    last = 1 if layer.operator == "residual" else 2
    kinds = [Place.BODY] * last + [Place.ADDED] + [Place.PLAIN] * (len(found) - last - 1)
    return list(zip(found, kinds, strict=True))


def _cells(space: CellSpace) -> list[tuple[ConvLayer, Place]]:
    full, widths = (space.features,), space.widths
    inner = [(full, widths), (widths, full)]  # the first layer of a cell, the last
    if space.layers_per_cell > 2:
        inner.append((widths, widths))
    found = [(ConvLayer(3, space.features, 3), Place.STEM)]
    for c_ins, c_outs in inner:
        for c_in in c_ins:
            for layer in (Layer(o, w) for o in space.operators for w in c_outs):
                found += _layer_places(layer, c_in)
    found.append((ConvLayer(space.features, space.features, 3), Place.ADDED))
    tail = upsampler_layers(TAIL, space.features, space.features, space.scale)
    return found + _tail_places(TAIL, tail)


def _translation(space: TranslationSpace) -> list[tuple[ConvLayer, Place]]:
    found: list[ConvLayer] = []
    for full in space.full_widths:
        for half in space.half_widths:
            for quarter in space.quarter_widths:
                for operator in space.operators:
                    layers = (Layer(operator, quarter),)
                    ends = TranslationArchitecture((full, half, quarter), layers, (half, full))
                    found += space.layers(ends)
    for c_in in space.quarter_widths:
        for layer in (Layer(o, w) for o in space.operators for w in space.quarter_widths):
            found += layer_convolutions(layer, c_in, zoom=QUARTER, norm=True)
    return [(layer, Place.ALONE) for layer in found]


def places(space: Space) -> dict[ConvLayer, Place]:
    """All layers that members can have, in an order of their own, and where they stand.

    One that stands in several places has the first, the body where it is among them.
    """
    if isinstance(space, TranslationSpace):
        found = _translation(space)
    elif isinstance(space, CellSpace):
        found = _cells(space)
    else:
        found = _super_resolution(space)
    result: dict[ConvLayer, Place] = {}
    for layer, place in found:
        result.setdefault(layer, place)
    return result
