"""From a torch network to an ONNX file with dynamic height and width, and from that to pictures."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from evo_agd.deploy.sessions import MULTIPLE, OVERLAP, SCALE, WHOLE
from evo_agd.deploy.sessions import session as session
from evo_agd.files import write_bytes
from evo_agd.nets.bounds import multiple_of, reach_of, sees_all
from evo_agd.nets.build import Student
from evo_agd.nets.integer_form import Exportable
from evo_agd.train.images import Photo

INPUT = "image"
OUTPUTS = {1: "translated"}  # by scale; else "upscaled"
OPSET = 18


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter and the quantizer talk on stdout and in warnings; a user cannot act on it."""
    level = logging.root.level
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        logging.root.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.root.setLevel(level)


def export(net: Exportable, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write ``net`` (image to image, RGB in 0..1) as ONNX with any batch, height and width.

    The output is called ``upscaled``, that of a translation ``translated``; a translation's sides
    have to be divisible by 4.

    Args:
        net: a student, or its integer form; with a ``scale``.
        metadata: what the file says of itself to who uses it, see :func:`metadata_of`.
    """
    net.eval().float().to(memory_format=torch.contiguous_format)
    example = torch.rand(2, 3, 24, 32)
    dynamic = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=8)}
    dynamic[3] = torch.export.Dim("width", min=8)
    with quiet():
        program = torch.onnx.export(
            net,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUTS.get(net.scale, "upscaled")],
            dynamic_shapes=(dynamic,),
        )
    assert program is not None
    model = program.model_proto
    # The exporter writes stack traces beside every node and value: most of a small file.
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(metadata or {}))
    write_bytes(path, model.SerializeToString())


def metadata_of(net: Student) -> dict[str, str]:
    """What somebody who has nothing but the file needs to know of a student.

    ``scale`` is output size / input size, ``overlap`` the input pixels on each side of a pixel that
    its output looks at, ``multiple`` what the sides of an input have to be divisible by; ``whole``
    is 1 where every pixel looks at the whole picture, through instance norm or a pooled gate.
    """
    return {
        SCALE: str(net.scale),
        OVERLAP: str(reach_of(net)),
        MULTIPLE: str(multiple_of(net)),
        WHOLE: str(int(sees_all(net))),
    }


def as_input(low: Photo) -> NDArray[np.float32]:
    """An image as a (1, 3, h, w) array in 0..1."""
    return np.ascontiguousarray(low.transpose(2, 0, 1)[None], dtype=np.float32) / np.float32(255)


def run(model: onnxruntime.InferenceSession, low: Photo) -> Photo:
    """The output of an ONNX model for one image, as an 8-bit image."""
    (output,) = model.run(None, {model.get_inputs()[0].name: as_input(low)})
    array: Photo = np.rint(np.clip(output[0], 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    return array
