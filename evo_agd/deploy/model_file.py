"""What an ONNX file of pictures takes and gives: written in it, or asked of the network itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

from evo_agd.deploy.sessions import FATAL, MULTIPLE, OVERLAP, SCALE, WHOLE, session
from evo_agd.deploy.working_memory import bytes_per_pixel
from evo_agd.errors import InputError

LEAST = 8  # pixels a side that every network of ours takes
SPATIAL = {2, 3, -1, -2}  # axes of NCHW
OVER_THE_PICTURE = {"InstanceNormalization", "GlobalAveragePool", "GlobalMaxPool"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Nature:
    """What a network from (1, 3, H, W) to (1, 3, H * scale, W * scale) wants."""

    scale: int
    overlap: int
    """Input pixels on each side that an output pixel depends on."""
    multiple: int
    """What divides H and W."""
    smallest: int
    """The least H and W."""
    whole: bool
    """Whether every output pixel depends on the whole picture."""
    symmetric: bool
    """Whether its values are -1..1 instead of 0..1."""
    bytes_per_pixel: int
    """Memory that it works in, for each input pixel."""

    def padded(self, side: int) -> int:
        """The side of a picture that the network takes, at least ``side``."""
        return -(-max(side, self.smallest) // self.multiple) * self.multiple


class ModelFile:
    """A network from picture to picture, any values between 0 and 1.

    Args:
        session: of ONNX Runtime; runs in several threads at once.
    """

    def __init__(self, session: onnxruntime.InferenceSession, nature: Nature) -> None:
        self.session = session
        self.nature = nature
        self.name: str = session.get_inputs()[0].name

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(h, w, 3) of 8 bits to (3, h * scale, w * scale) in 0..1, not clipped.

        h and w are multiples of what the network wants, and no smaller.
        """
        x = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32)
        x *= np.float32((2 if self.nature.symmetric else 1) / 255)
        if self.nature.symmetric:
            x -= 1
        answer: NDArray[np.float32] = self.session.run(None, {self.name: x})[0][0]
        if self.nature.symmetric:  # in place: the array is ours
            answer *= np.float32(0.5)
            answer += np.float32(0.5)
        return answer


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU.

    Raises:
        InputError: not a file that ONNX Runtime can load.
    """
    try:
        return session(path, threads, severity=FATAL)  # what fails is raised too
    except Exception as error:  # any of ONNX Runtime's own
        raise InputError(path, "an ONNX file that ONNX Runtime can load", error) from error


def open_model(path: Path, threads: int, value_range: str = "auto") -> ModelFile:
    """A model file with what is to know of it: from its metadata, else by asking the network.

    Args:
        threads: of ONNX Runtime.
        value_range: ``unit`` (0..1) or ``symmetric`` (-1..1); ``auto`` is the former but where a
            network without metadata, of scale 1, answers below 0.

    Raises:
        InputError: no such file, or not a network from one RGB picture of any size to one.
    """
    if not path.is_file():
        raise InputError(path, "an ONNX file", "a folder" if path.is_dir() else "no such file")
    session = open_session(path, threads)
    proto = onnx.load(str(path), load_external_data=False)
    known = session.get_modelmeta().custom_metadata_map
    if {SCALE, OVERLAP, MULTIPLE, WHOLE} <= known.keys():
        nature = _written(path, known, proto, symmetric=value_range == "symmetric")
    else:
        nature = _asked(path, proto, value_range)
    log.info("%s: %s", path, nature)
    return ModelFile(session, nature)


def _written(
    path: Path, known: Mapping[str, str], proto: onnx.ModelProto, *, symmetric: bool
) -> Nature:
    numbers = {}
    for key, least in ((SCALE, 1), (OVERLAP, 0), (MULTIPLE, 1), (WHOLE, 0)):
        text = known[key]
        if not text.isdecimal() or int(text) < least:
            raise InputError(f"{path}: {key}", f"an integer of at least {least}", text)
        numbers[key] = int(text)
    multiple = numbers[MULTIPLE]
    return Nature(
        scale=numbers[SCALE],
        overlap=numbers[OVERLAP],
        multiple=multiple,
        smallest=-(-LEAST // multiple) * multiple,
        whole=bool(numbers[WHOLE]),
        symmetric=symmetric,
        bytes_per_pixel=bytes_per_pixel(proto, multiple),
    )


def _asked(path: Path, proto: onnx.ModelProto, value_range: str) -> Nature:
    """What a network answers to a few small pictures."""
    # Late: only this needs torch, which takes 200 MB and a second or two.
    from evo_agd.nets.foreign import open_onnx
    from evo_agd.nets.probing import fit, takes_symmetric
    from evo_agd.nets.reach import reach

    net = fit(open_onnx(path).net, None, path)
    symmetric = value_range == "symmetric"
    if value_range == "auto" and net.scale == 1:
        symmetric = takes_symmetric(net)
    radius = None if _looks_over_the_picture(proto) else reach(net)
    return Nature(
        scale=net.scale,
        overlap=radius or 0,
        multiple=net.multiple,
        smallest=net.smallest,
        whole=radius is None,
        symmetric=symmetric,
        bytes_per_pixel=bytes_per_pixel(proto, net.multiple),
    )


def _looks_over_the_picture(proto: onnx.ModelProto) -> bool:
    """Whether a node takes its statistics over height and width."""
    constants = {t.name: t for t in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type in OVER_THE_PICTURE:
            return True
        if node.op_type == "ReduceMean":
            axes = [x for a in node.attribute if a.name == "axes" for x in a.ints]
            if len(node.input) > 1 and node.input[1] in constants:
                axes += numpy_helper.to_array(constants[node.input[1]]).tolist()
            if SPATIAL & set(axes):
                return True
    return False
