from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from evo_agd.benchmark import main
from evo_agd.benchmarks.cost import ANCHORS, SHIPPED, anchor_row, published_macs, rows_of
from evo_agd.benchmarks.counting import count, open_space
from evo_agd.config.load import shipped
from evo_agd.nets.build import Architecture, student_of
from evo_agd.nets.published import CycleGANGenerator
from evo_agd.nets.students import write_student
from evo_agd.space.cells import CellArchitecture
from evo_agd.space.layers import Layer
from evo_agd.space.super_resolution import Block, SRArchitecture, upsampler_layers
from evo_agd.space.translation import TranslationArchitecture, TranslationSpace

SQUARE = (1, 3, 256, 256)


@pytest.mark.parametrize(
    ("name", "gmacs", "as_papers", "megabytes"),
    [
        ("ESRGAN", 1174.85, 1176.61, 66.8),
        ("VDSR, RGB", 699.41, 699.36, 2.67),
        ("VDSR, luma", 696.99, 696.99, 2.66),
        ("CycleGAN", 49.55, 56.80, 45.51),
        ("CycleGAN, other unit", 49.55, 54.17, 45.51),
    ],
)
def test_published_figures_come_out(
    name: str, gmacs: float, as_papers: float, megabytes: float
) -> None:
    (anchor,) = (a for a in ANCHORS if a.name == name)
    row = anchor_row(anchor)
    assert row["gmacs"] == pytest.approx(gmacs, rel=5e-5)
    assert row["gflops_as_papers"] == pytest.approx(as_papers, rel=1e-4)
    assert row["memory_mb"] == pytest.approx(megabytes, abs=0.01)
    if name != "VDSR, luma":  # the published figure is of another network
        assert row["gflops_as_papers"] == pytest.approx(row["gflops_published"], rel=5e-4)
    assert row["note"]


def test_what_agd_could_not_search_is_most_of_its_super_resolution() -> None:
    tail = upsampler_layers("esrgan", 64, 64, 4)
    assert sum(layer.macs(256, 256) for layer in tail) == pytest.approx(88.8e9, rel=5e-4)


def test_agds_translation_space_holds_cyclegan() -> None:
    space = open_space(shipped("agd_cyclegan.yaml"))
    assert isinstance(space, TranslationSpace)
    (residual,) = (
        g for g in space.anchors() if {x.operator for x in space.decode(g).layers} == {"residual"}
    )
    found = count(CycleGANGenerator, SQUARE)
    assert published_macs(space, residual) == found.output_grid_macs == 56_799_264_768
    assert space.cost(residual).gmacs == found.macs / 1e9


@pytest.mark.parametrize("name", SHIPPED)
def test_members_cost_what_their_built_networks_do(name: str) -> None:
    space = open_space(shipped(f"{name}.yaml"))
    for genome in (space.anchors()[-1], space.smallest()[0]):
        member = space.decode(genome)
        found = count(lambda member=member: student_of(member).folded(), SQUARE)
        cost = space.cost(genome)
        assert (found.macs / 1e9, found.params) == (cost.gmacs, cost.params)
        assert found.output_grid_macs == published_macs(space, genome)


ARCHITECTURES: dict[str, Architecture] = {
    "sr": SRArchitecture(
        4,
        8,
        (Block("reparameterised", 3, 8), Block("inverted", 3, 8), Block("gated", 5, 4)),
        "nearest",
        6,
    ),
    "cells": CellArchitecture(2, 8, ((Layer("residual", 16), Layer("inverted", 8)),)),
    "translation": TranslationArchitecture((8, 16, 24), (Layer("inverted", 16),), (16, 8)),
}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_student_is_counted_as_torch_counts_it(tmp_path: Path, kind: str) -> None:
    net = student_of(ARCHITECTURES[kind]).folded()
    write_student(tmp_path / "student", "name", net)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        student_of(net.architecture)(torch.empty(*SQUARE))
    for path in (tmp_path / "student", tmp_path / "student" / "architecture.yaml"):
        (row,) = rows_of(path)
        assert 2 * row["macs"] == counter.get_total_flops()
        assert row["params"] == sum(p.numel() for p in net.parameters())
        assert row["memory_mb"] == pytest.approx(4e-6 * row["params"])
        assert row["name"].startswith("student")


def test_the_door_prints_and_writes_every_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "cost.json"
    assert main(["cost", str(shipped("zebra2horse.yaml")), "--json", str(to)]) == 0
    rows = json.loads(to.read_text())
    names = [row["name"] for row in rows]
    assert names[-2:] == ["zebra2horse, largest", "zebra2horse, smallest"]
    assert len(rows) == len(ANCHORS) + 2 * len(SHIPPED) + 2
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
    assert "1176.61" in printed and "56.80" in printed and "54.17" in printed


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "No such file"),
        ("[1, 2]", "a file with none of genes, extends and id"),
        ("genes: {features: [4]", "expected YAML"),
        ("id: x\ntask: super_resolution\nscale: 4", "an architecture.yaml of a student"),
        ("genes: {features: []}\ntask: super_resolution", "file.yaml:1: genes.features"),
        (
            "{id: x, task: super_resolution, scale: 4, features: 8, upsampler: other, "
            "upsampler_width: 4, blocks: []}",
            "an architecture that can be built",
        ),
    ],
)
def test_what_is_neither_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, expected: str
) -> None:
    path = tmp_path / "file.yaml"
    if content is not None:
        path.write_text(content)
    assert main(["cost", str(path)]) == 2
    said = capsys.readouterr().err
    assert "file.yaml" in said and expected in said and said.count("\n") == 1


def test_a_folder_without_a_student_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cost", str(tmp_path)]) == 2
    assert "a folder without architecture.yaml" in capsys.readouterr().err
