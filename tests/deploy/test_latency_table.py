from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo_agd.benchmark import main
from evo_agd.benchmarks.counting import open_space
from evo_agd.config import load
from evo_agd.config.load import DEFAULT, shipped
from evo_agd.deploy import latency_table
from evo_agd.deploy.latency_table import (
    every_layer,
    layer_key,
    measure_table,
    read_table,
    read_tables,
    setting_of,
    steps,
    table_error,
)
from evo_agd.errors import InputError
from evo_agd.nets.build import Space
from evo_agd.space.cells import CellSpace
from evo_agd.space.cost import ConvLayer
from evo_agd.space.super_resolution import OPERATORS, UPSAMPLERS, SuperResolutionSpace
from evo_agd.space.translation import QUARTER, TranslationSpace

FOUR = ("conv1x1", "conv3x3", "residual", "inverted")
TINIEST = """
task: super_resolution
input_size: [16, 16]
genes:
  {features: [4], depth: [1, 2], operators: [residual], kernels: [1], widths: [4],
   upsamplers: [shuffle], upsampler_widths: [4]}
supernet: {steps: 2, warm_up: 1}
students: {steps: 2}
"""


def super_resolution(scale: int = 4, **changes: Any) -> SuperResolutionSpace:
    genes = {
        "features": (4, 8),
        "depth": (1, 2),
        "operators": tuple(OPERATORS),
        "kernels": (1, 3),
        "widths": (4, 8),
        "upsamplers": tuple(UPSAMPLERS),
        "upsampler_widths": (4, 6),
    }
    return SuperResolutionSpace(scale=scale, input_size=(16, 16), **genes | changes)


def cells(layers: int, scale: int = 4) -> CellSpace:
    return CellSpace(
        scale=scale, input_size=(16, 16), features=8, cells=1, layers=layers, operators=FOUR,
        widths=(4, 6),
    )  # fmt: skip


def translation() -> TranslationSpace:
    return TranslationSpace(
        input_size=(16, 16), layers=2, operators=FOUR, full_widths=(4, 8), half_widths=(6, 8),
        quarter_widths=(4, 8),
    )  # fmt: skip


SMALL: dict[str, Space] = {
    "x4": super_resolution(depth=(1,)),
    "x2": super_resolution(2, depth=(1,)),
    "cells of 2": cells(2),
    "cells of 3": cells(3, 2),
    "translation": translation(),
}
NAMES = ("sr_x4_small", "esrgan_x4", "agd_esrgan_x4", "agd_cyclegan")
SPACES = SMALL | {name: open_space(shipped(f"{name}.yaml")) for name in NAMES}


def layers_of(space: Space, genome: tuple[int, ...]) -> tuple[ConvLayer, ...]:
    return space.layers(space.decode(genome))  # type: ignore[arg-type]


@given(st.sampled_from(sorted(SPACES)), st.data())
@settings(max_examples=200, deadline=None)
def test_no_member_has_a_layer_beside_them(name: str, data: st.DataObject) -> None:
    space = SPACES[name]
    genome = tuple(data.draw(st.integers(0, len(g.choices) - 1)) for g in space.genes)
    assert set(layers_of(space, genome)) <= set(every_layer(space))


@pytest.mark.parametrize("name", SMALL)
def test_they_are_just_those_that_members_have(name: str) -> None:
    space = SMALL[name]
    found: set[ConvLayer] = set()
    for genome in itertools.product(*(range(len(g.choices)) for g in space.genes)):
        found |= set(layers_of(space, genome))
    layers = every_layer(space)
    assert len(layers) == len(set(layers)) and set(layers) == found
    assert layers == every_layer(space)


@pytest.mark.parametrize("name", SPACES)
def test_no_two_layers_share_a_key(name: str) -> None:
    layers = every_layer(SPACES[name])
    assert len({layer_key(layer) for layer in layers}) == len(layers)


def test_keys_can_be_read() -> None:
    layer = ConvLayer(64, 88, 3, zoom=QUARTER, bias=False, norm=True)
    assert layer_key(layer) == "conv 64>88 k3 s1 g1 zoom 1/4 norm"
    layer = ConvLayer(8, 4, 3, bias=True, stride=2, transposed=True)
    assert layer_key(layer) == "transposed 8>4 k3 s2 g1 zoom 1 bias"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"BUDGET": 0.0, "NETWORK_BUDGET": 0.0, "WARM_UP": 1}.items():
        monkeypatch.setattr(latency_table, name, value)


def nothing(done: int, note: str) -> None:
    pass


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["x4", "x2", "cells of 3", "translation"])
def test_every_kind_of_layer_is_timed(tmp_path: Path, name: str) -> None:
    space = SMALL[name]
    ticks: list[tuple[int, str]] = []
    table = measure_table(
        space, size=(16, 16), threads=1, tick=lambda done, note: ticks.append((done, note))
    )
    assert [done for done, _ in ticks] == list(range(1, steps(space) + 1))
    assert {note for _, note in ticks} == set(table["layers"])
    assert min(table["layers"].values()) >= 0 and max(table["layers"].values()) > 0
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table))
    found = read_table(path, space)
    assert list(found) == every_layer(space)


def made(space: Space) -> dict[str, Any]:
    layers = {layer_key(layer): 0.25 + i for i, layer in enumerate(every_layer(space))}
    return {"input_size": list(space.input_size), "layers": layers}


@pytest.mark.parametrize("name", SMALL)
def test_a_members_milliseconds_are_the_sum_of_its_layers(tmp_path: Path, name: str) -> None:
    space, path = SMALL[name], tmp_path / "table.json"
    path.write_text(json.dumps(made(space)))
    genome = space.anchors()[-1]
    assert space.cost(genome).latency_ms is None
    table = read_table(path, space)
    space.latency = table
    try:
        expected = sum(table[layer] for layer in layers_of(space, genome))
        assert space.cost(genome).latency_ms == pytest.approx(expected)
    finally:
        space.latency = None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "found No such file"),
        ("{", "expected a latency table, which"),
        ("[]", "found no input_size and layers"),
        ('{"input_size": [16], "layers": {}}', "found no input_size and layers"),
        ('{"input_size": [16, 16], "layers": {"x": -1}}', "x: expected milliseconds, found -1"),
        ('{"input_size": [16, 16], "layers": {"x": "1"}}', "expected milliseconds"),
        ('{"input_size": [16, 16], "layers": {}, "precision": "fp8"}', "expected fp32 or int8"),
        ('{"input_size": [32, 16], "layers": {}}', "input size 16x16, found 32x16"),
        ('{"input_size": [16, 16], "layers": {}}', "benchmark latency SPACE.yaml --to FILE"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: str | None, expected: str) -> None:
    path = tmp_path / "table.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError) as error:
        read_table(path, SMALL["x4"])
    assert expected in str(error.value) and str(path) in str(error.value)


def test_a_table_of_another_space_is_refused(tmp_path: Path) -> None:
    path, space = tmp_path / "table.json", SMALL["x4"]
    table = made(space)
    last = layer_key(every_layer(space)[-1])
    del table["layers"][last]
    path.write_text(json.dumps(table))
    with pytest.raises(InputError, match=f"found 1 missing, such as {last}"):
        read_table(path, space)


def test_a_table_knows_its_precision(tmp_path: Path) -> None:
    path, space = tmp_path / "table.json", SMALL["x4"]
    other = {"fp32": "int8", "int8": "fp32"}
    keys = {"fp32": "latency_table", "int8": "latency_int8_table"}
    for precision in ("fp32", "int8"):
        path.write_text(json.dumps(made(space) | {"precision": precision}))
        read_table(path, space)
        read_table(path, space, precision)  # type: ignore[arg-type]
        with pytest.raises(InputError) as error:
            read_table(path, space, other[precision])  # type: ignore[arg-type]
        found = f"{other[precision].upper()} layers, found one of {precision.upper()}"
        assert found in str(error.value) and "\n" not in str(error.value)
        assert setting_of(path) == keys[precision]
    path.write_text(json.dumps(made(space)))
    assert setting_of(path) == "latency_table"
    assert read_table(path, space, "int8") == read_table(path, space, "fp32")


def test_settings_give_a_space_its_tables(tmp_path: Path) -> None:
    space, genome = super_resolution(), super_resolution().anchors()[-1]
    fp32, int8 = tmp_path / "fp32.json", tmp_path / "int8.json"
    fp32.write_text(json.dumps(made(space) | {"precision": "fp32"}))
    table = made(space)
    table["layers"] = dict.fromkeys(table["layers"], 0.5)
    int8.write_text(json.dumps(table | {"precision": "int8"}))
    settings = load(None, ["objectives=[gmacs, psnr]"])

    def read(**tables: str | None) -> None:
        read_tables(settings.model_copy(update=tables), space)

    read(latency_table=str(fp32), latency_int8_table=str(int8))
    cost = space.cost(genome)
    assert cost.latency_int8_ms == 0.5 * len(layers_of(space, genome))
    assert cost.latency_ms == pytest.approx(sum(space.latency[x] for x in layers_of(space, genome)))  # type: ignore[index]
    read(latency_table="measured", latency_int8_table=str(int8))
    assert space.cost(genome).latency_ms is None and space.cost(genome).latency_int8_ms
    read()
    assert space.latency is None and space.latency_int8 is None
    with pytest.raises(InputError, match="of INT8 layers, found one of FP32"):
        read(latency_int8_table=str(fp32))


def test_the_bundled_table_is_of_the_default_space_and_says_so_elsewhere() -> None:
    settings = load(None)
    space = open_space(Path(DEFAULT))
    read_tables(settings, space)
    costs = [space.cost(g).latency_int8_ms for g in (*space.smallest(), *space.anchors())]
    assert all(isinstance(c, float) and c > 1 for c in costs) and len(set(costs)) > 10
    with pytest.raises(InputError, match=r"latency_int8_table: .* or objectives without"):
        read_tables(settings, super_resolution())
    other = load(None, ["objectives=[gmacs, psnr]"])  # what nobody asks for need not fit
    read_tables(other, super_resolution())


@pytest.mark.usefixtures("quick")
def test_from_the_door_to_the_file_and_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space, to = tmp_path / "tiniest.yaml", tmp_path / "table.json"
    space.write_text(TINIEST)
    command = ["latency", str(space), "--to", str(to), "--members", "2"]
    assert main([*command, "--check"]) == 2
    assert "No such file" in capsys.readouterr().err
    assert main([*command, "--int8", "--threads", "1"]) == 0
    table = json.loads(to.read_text())
    assert (table["precision"], table["threads"], table["input_size"]) == ("int8", 1, [16, 16])
    assert {m["id"] for m in table["check"]["members"]} == {"f4-r1x4-s", "f4-r1x4-r1x4-s"}
    assert table["check"]["median_error"] <= table["check"]["largest_error"]
    assert "tau" in capsys.readouterr().out
    assert main(command) == 2
    assert "--check" in capsys.readouterr().err
    assert json.loads(to.read_text()) == table


@pytest.mark.usefixtures("quick")
def test_the_error_is_that_of_the_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    space = super_resolution(
        features=(4,), depth=(1, 2), operators=("residual",), kernels=(1,), widths=(4,),
        upsamplers=("shuffle",),
    )  # fmt: skip
    table = dict.fromkeys(every_layer(space), 2.0)
    monkeypatch.setattr(latency_table, "export", lambda net, path: None)
    taken = 2.0

    def timed(cases: list[Any], **_: object) -> list[float]:
        return [taken * len(space.layers(space.parse(case.name))) for case in cases]

    monkeypatch.setattr(latency_table, "_milliseconds", timed)
    found = table_error(space, table, members=5, size=(16, 16), threads=1, tick=nothing)
    assert len(found.members) == space.count() == 2
    assert (found.median_error, found.largest_error, found.tau) == (0, 0, pytest.approx(1))
    taken = 1.6
    found = table_error(space, table, members=5, size=(16, 16), threads=1, tick=nothing)
    assert (found.median_error, found.largest_error) == pytest.approx((0.25, 0.25))
    assert (found.ratio, found.largest_error_scaled) == pytest.approx((1.25, 0))
