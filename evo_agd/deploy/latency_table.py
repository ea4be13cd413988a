"""A table of measured milliseconds, one a layer, whose sums stand for a network's.

As AGD's lookup tables (Fu et al., ICML 2020) and ProxylessNAS's (Cai et al., ICLR 2019): with one
the search may minimise milliseconds, which multiply-accumulates say little about.
"""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import onnxruntime
import torch
from scipy.stats import kendalltau
from torch import nn

from evo_agd.config import Settings
from evo_agd.config.settings import BUNDLED, LATENCY_TABLES, MEASURED
from evo_agd.deploy.latency import clock, quantized_for_timing
from evo_agd.deploy.layer_models import places, probe
from evo_agd.deploy.onnx_file import export, session
from evo_agd.errors import InputError
from evo_agd.nets.build import Space, student_of
from evo_agd.nets.integer_form import integer_form
from evo_agd.space.cost import ConvLayer
from evo_agd.space.genes import Genome, SearchSpace
from evo_agd.train.loop import cores

PASSES = 5
WARM_UP = 2  # the first run allocates what it needs, the second one block for all of it
BUDGET = 0.4  # seconds of timed runs a layer, over all passes
NETWORK_BUDGET = 4.0  # and a network
MOST_RUNS = 30  # of a model in a pass
DRAW = 5  # random-stream key

# What INT8 convolutions run on, as Linux names it; without, they are not worth much.
INT8_FLAGS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")

Tick = Callable[[int, str], None]
Precision = Literal["fp32", "int8"]
PRECISIONS: dict[str, Precision] = {"latency_ms": "fp32", "latency_int8_ms": "int8"}


def layer_key(layer: ConvLayer) -> str:
    """A layer as a line: ``conv 64>88 k3 s1 g1 zoom 1/4 norm``; no two layers share one."""
    kind = "transposed" if layer.transposed else "conv"
    sizes = f"{layer.c_in}>{layer.c_out} k{layer.kernel} s{layer.stride} g{layer.groups}"
    extras = " bias" * layer.bias + " norm" * layer.norm
    return f"{kind} {sizes} zoom {layer.zoom}{extras}"


def every_layer(space: Space) -> list[ConvLayer]:
    """All distinct layers that members can have, in the same order each time."""
    return list(places(space))


def read_tables(settings: Settings, space: Space) -> None:
    """Give a space the latency tables that its settings name; ``measured`` is none.

    Raises:
        InputError: see :func:`read_table`.
    """
    found: dict[str, dict[ConvLayer, float] | None] = {}
    for name, key in LATENCY_TABLES.items():
        file = getattr(settings, key)
        asked = name in (*settings.objectives, *settings.constraints)
        if file is None or file == MEASURED or (file == BUNDLED and not asked):
            found[name] = None
        elif file == BUNDLED:
            found[name] = _bundled(key, space, PRECISIONS[name])
        else:
            found[name] = read_table(Path(file), space, PRECISIONS[name])
    space.latency, space.latency_int8 = found["latency_ms"], found["latency_int8_ms"]


def _bundled(key: str, space: Space, precision: Precision) -> dict[ConvLayer, float]:
    """The table that travels with the package: the layers of the default space, in INT8.

    Raises:
        InputError: another precision or space.
    """
    path = Path(str(files("evo_agd"))) / "latency_tables" / "sr_x4_small.int8.json"
    try:
        return read_table(path, space, precision)
    except InputError as error:
        made = "python -m evo_agd.benchmark latency SPACE.yaml --int8 --to FILE"
        expected = (
            f"a table of this space, as `{made}` measures, or objectives without milliseconds, "
            f"since the bundled one is of {path.stem} at 256x256"
        )
        raise InputError(key, expected, error.found) from error


def machine() -> str:
    """The processor that milliseconds are measured on, with what it has for INT8."""
    name, flags = platform.processor() or platform.machine(), ""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return name
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip() in ("flags", "Features"):
            flags = value
    return ", ".join([name, *(flag for flag in INT8_FLAGS if flag in flags.split())])


def read_table(
    path: Path, space: Space, precision: Precision | None = None
) -> dict[ConvLayer, float]:
    """Milliseconds of each layer of a space, for :attr:`SearchSpace.latency` or ``latency_int8``.

    Args:
        precision: what the table has to be of; one that does not say may be of either.

    Raises:
        InputError: no such file, not a latency table, of another precision, measured at another
            input size, or without some layers of the space.
    """
    value = load_table(path)
    if precision is not None and value.get("precision", precision) != precision:
        expected_text = f"a latency table of {precision.upper()} layers"
        raise InputError(path, expected_text, f"one of {value['precision'].upper()}")
    expected = list(space.input_size)
    if value["input_size"] != expected:
        size = "x".join(map(str, expected))
        found = "x".join(map(str, value["input_size"]))
        raise InputError(path, f"a latency table measured at the space's input size {size}", found)
    keys = {layer: layer_key(layer) for layer in every_layer(space)}
    missing = [key for key in keys.values() if key not in value["layers"]]
    if missing:
        made = "python -m evo_agd.benchmark latency SPACE.yaml --to FILE"
        expected_text = (
            f"milliseconds of all {len(keys)} layers of this space, as `{made}` measures"
        )
        raise InputError(path, expected_text, f"{len(missing)} missing, such as {missing[0]}")
    return {layer: value["layers"][key] for layer, key in keys.items()}


def setting_of(path: Path) -> str:
    """The setting that a table is for by its precision; one that does not say is an FP32 one.

    Raises:
        InputError: see :func:`load_table`.
    """
    precision = load_table(path).get("precision", "fp32")
    name = next(name for name, known in PRECISIONS.items() if known == precision)
    return LATENCY_TABLES[name]


def load_table(path: Path) -> dict[str, Any]:
    """What a latency table's file holds, see :func:`measure_table`.

    Raises:
        InputError: no such file, or not a latency table. What sums do not need may be missing: a
            table may come from elsewhere.
    """
    expected = "a latency table, which `python -m evo_agd.benchmark latency` writes"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(path, expected, reason) from error
    size = value.get("input_size") if isinstance(value, dict) else None
    if not (isinstance(size, list) and len(size) == 2 and isinstance(value.get("layers"), dict)):
        raise InputError(path, expected, "no input_size and layers in it")
    if value.get("precision", "fp32") not in PRECISIONS.values():
        raise InputError(f"{path}: precision", "fp32 or int8", json.dumps(value["precision"]))
    for key, taken in value["layers"].items():
        if not isinstance(taken, int | float) or isinstance(taken, bool) or not 0 <= taken < np.inf:
            raise InputError(f"{path}: {key}", "milliseconds", json.dumps(taken))
    return value


# Timing


@dataclass(frozen=True)
class _Timed:
    """ONNX files that take the same input; what the first takes beyond the second is asked for."""

    name: str
    files: tuple[Path, ...]
    shape: tuple[int, ...]


def _milliseconds(
    cases: Sequence[_Timed], *, threads: int, budget: float, tick: Tick
) -> list[float]:
    """Milliseconds of each case's fastest run, of processor time where there is one thread.

    The fastest, since all that may happen to a run makes it slower: on a virtual machine of two
    cores medians were up to 1.7 times the fastest, and changed from minute to minute, while the
    fastest of a convolution stayed within 5 %. The cases take turns, several times, so that each
    has its quiet moments; each is loaded anew for its turn, as all of them together would need too
    much memory.
    """
    now = clock(threads)
    few = np.random.default_rng(0).random(4096, dtype=np.float32)
    taken: list[list[list[float]]] = [[[] for _ in case.files] for case in cases]
    for turn in range(PASSES * len(cases)):
        case, times = cases[turn % len(cases)], taken[turn % len(cases)]
        models = [session(path, threads) for path in case.files]
        feed = {models[0].get_inputs()[0].name: np.resize(few, case.shape)}
        for _ in range(WARM_UP):
            for model in models:
                model.run(None, feed)
        end = perf_counter() + budget / PASSES
        for _ in range(MOST_RUNS):
            for model, into in zip(models, times, strict=True):
                began = now()
                model.run(None, feed)
                into.append(1000 * (now() - began))
            if perf_counter() > end:
                break
        tick(turn + 1, case.name)
    fastest = [[min(values) for values in times] for times in taken]
    return [first - sum(rest) for first, *rest in fastest]


def measure_table(
    space: Space, *, size: tuple[int, int], threads: int, int8: bool = False, tick: Tick
) -> dict[str, Any]:
    """Time every layer of a space with ONNX Runtime on the CPU.

    Args:
        size: height and width of the network's input.
        threads: of ONNX Runtime; with 1 processor time is measured, see :func:`clock`.
        int8: quantize the layers as students are quantized.
        tick: called with the steps done, of :func:`steps`, and the layer.

    Returns:
        ``layers`` in milliseconds by :func:`layer_key`; where they were measured, and how.
    """
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for index, (layer, place) in enumerate(places(space).items()):
            if int8:
                tick(0, f"quantizing {layer_key(layer)}")
            models = probe(layer, place, space.scale, size, int8=int8)
            parts = [models.whole] if models.rest is None else [models.whole, models.rest]
            files: list[Path] = []
            for part in parts:
                path = Path(folder) / f"{index}-{len(files)}.onnx"
                path.write_bytes(part.SerializeToString())
                files.append(quantized_for_timing(path, models.shape[1]) if int8 else path)
            cases.append(_Timed(layer_key(layer), tuple(files), models.shape))
        found = _milliseconds(cases, threads=threads, budget=BUDGET, tick=tick)
    return {
        "machine": machine(),
        "system": platform.system(),
        "cores": cores(),
        "threads": threads,
        "clock": "processor" if threads == 1 else "wall",
        "onnxruntime": onnxruntime.__version__,
        "precision": "int8" if int8 else "fp32",
        "input_size": list(size),
        # Noise may make a layer that takes next to nothing look like less than that.
        "layers": {c.name: max(0.0, round(ms, 4)) for c, ms in zip(cases, found, strict=True)},
    }


def steps(space: Space) -> int:
    """How many steps :func:`measure_table` has."""
    return PASSES * len(every_layer(space))


# Checking


def _predicted(space: SearchSpace[Any], genome: Genome, table: Mapping[ConvLayer, float]) -> float:
    return float(sum(table[layer] for layer in space.layers(space.decode(genome))))


def _bias(net: nn.Module) -> None:
    """As after training: the exporter leaves out biases that are 0."""
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)


@dataclass(frozen=True)
class TableError:
    """How far the sums of a table are from built networks.

    Attributes:
        members: ``id``, ``predicted_ms`` and ``measured_ms`` of each network.
        median_error, largest_error: of the absolute relative differences.
        ratio: predicted over measured, median; a machine that is busier in one of the two
            measurements gives one.
        median_error_scaled, largest_error_scaled: with the sums divided by it.
        tau: Kendall's, between predicted and measured; None where one of them has no order.
    """

    members: list[dict[str, Any]]
    median_error: float
    largest_error: float
    ratio: float
    median_error_scaled: float
    largest_error_scaled: float
    tau: float | None


def table_error(
    space: Space,
    table: Mapping[ConvLayer, float],
    *,
    members: int,
    size: tuple[int, int],
    threads: int,
    int8: bool = False,
    seed: int = 0,
    tick: Tick,
) -> TableError:
    """Build random members, export and time them, and compare with the sums of a table.

    Args:
        table: milliseconds of each layer, measured at ``size`` with ``threads``.
        members: how many, 2 or more.
        size: height and width of their input.
        tick: called with the steps done, of ``PASSES`` each member, and its id.
    """
    rng = np.random.default_rng([seed, DRAW])
    genomes: dict[Genome, None] = {}
    while len(genomes) < min(members, space.count()):
        genomes[space.random(rng)] = None
    cases = []
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for index, genome in enumerate(genomes):
            tick(0, f"exporting {space.id_of(genome)}")
            path = Path(folder) / f"{index}.onnx"
            student = student_of(space.decode(genome)).folded()
            _bias(student)
            export(integer_form(student) if int8 else student, path)
            files = (quantized_for_timing(path, 3) if int8 else path,)
            cases.append(_Timed(space.id_of(genome), files, (1, 3, *size)))
        measured = _milliseconds(cases, threads=threads, budget=NETWORK_BUDGET, tick=tick)
    predicted = [_predicted(space, genome, table) for genome in genomes]
    ratios = np.array(predicted) / np.array(measured)
    ratio = float(np.median(ratios))
    errors, scaled = np.abs(ratios - 1), np.abs(ratios / (ratio or 1.0) - 1)
    tau = float(kendalltau(predicted, measured).statistic)
    return TableError(
        members=[
            {"id": case.name, "predicted_ms": round(p, 3), "measured_ms": round(m, 3)}
            for case, p, m in zip(cases, predicted, measured, strict=True)
        ],
        median_error=float(np.median(errors)),
        largest_error=float(errors.max()),
        ratio=ratio,
        median_error_scaled=float(np.median(scaled)),
        largest_error_scaled=float(scaled.max()),
        tau=None if np.isnan(tau) else tau,
    )
