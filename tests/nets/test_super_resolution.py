from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from evo_agd.errors import InputError
from evo_agd.nets.elastic import ElasticConv
from evo_agd.nets.students import read_student, write_student
from evo_agd.nets.super_resolution import SRStudent, SRSupernet
from evo_agd.space.super_resolution import (
    OPERATORS,
    Block,
    SRArchitecture,
    SuperResolutionSpace,
)


@pytest.fixture(scope="module")
def supernet(tiny_space: SuperResolutionSpace) -> SRSupernet:
    torch.manual_seed(1)
    net = SRSupernet(tiny_space)
    with torch.no_grad():
        for parameter in net.parameters():  # biases too: zeros would hide a wrong slice
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


BLOCKS = [Block(o, k, w) for o in OPERATORS for k in (1, 3) for w in (4, 8)]
TAILS = [("shuffle", 0), *((u, w) for u in ("shuffle_twice", "nearest", "esrgan") for w in (4, 6))]


@pytest.mark.parametrize("features", [4, 8])
@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: f"{b.operator}{b.kernel}x{b.width}")
def test_every_operator_cut_out_equals_its_path(
    supernet: SRSupernet, block: Block, features: int
) -> None:
    path = SRArchitecture(4, features, (block, BLOCKS[-1]), "nearest", 4)
    x = torch.rand(2, 3, 9, 11)
    with torch.no_grad():
        assert (supernet(x, path) - supernet.cut(path)(x)).abs().max() <= 1e-6


@pytest.mark.parametrize(("kind", "width"), TAILS)
def test_every_upsampler_cut_out_equals_its_path(
    supernet: SRSupernet, kind: str, width: int
) -> None:
    path = SRArchitecture(4, 8, (BLOCKS[0],), kind, width)
    x = torch.rand(1, 3, 10, 7)
    with torch.no_grad():
        student = supernet.cut(path)
        assert student(x).shape == (1, 3, 40, 28)
        assert (supernet(x, path) - student(x)).abs().max() <= 1e-6


def test_a_cut_student_holds_just_its_own_weights(
    supernet: SRSupernet, tiny_space: SuperResolutionSpace
) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        genome = tiny_space.random(rng)
        student = supernet.cut(tiny_space.decode(genome)).folded()
        assert sum(p.numel() for p in student.parameters()) == tiny_space.cost(genome).params


@pytest.mark.parametrize("kernel", [3, 5])
def test_folding_keeps_the_function(tiny_space: SuperResolutionSpace, kernel: int) -> None:
    torch.manual_seed(2)
    blocks = (Block("reparameterised", kernel, 6), Block("gated", 3, 4))
    student = SRStudent(SRArchitecture(4, 8, blocks, "shuffle", 0))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        folded, x = student.folded(), torch.rand(1, 3, 9, 11)
        assert (folded(x) - student(x)).abs().max() <= 1e-5
    assert [b.operator for b in folded.architecture.blocks] == ["residual", "gated"]
    assert sum(p.numel() for p in folded.parameters()) < sum(
        p.numel() for p in student.parameters()
    )


def test_training_a_student_leaves_the_supernet_alone(supernet: SRSupernet) -> None:
    before = {k: v.clone() for k, v in supernet.state_dict().items()}
    student = supernet.cut(SRArchitecture(4, 8, (BLOCKS[3],), "nearest", 6))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert all(torch.equal(v, before[k]) for k, v in supernet.state_dict().items())


def test_an_untrained_network_is_near_the_bilinear_enlargement() -> None:
    torch.manual_seed(0)
    net = SRStudent(SRArchitecture(4, 8, (BLOCKS[0],), "shuffle", 0))
    x = torch.rand(1, 3, 12, 12)
    base = F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)
    assert (net(x) - base).abs().mean() < 0.1


def test_small_convolutions_are_the_front_and_centre_of_large_ones() -> None:
    conv = ElasticConv(6, 8, 5)
    weight, bias = conv.slices(4, 3, 3)
    assert torch.equal(weight, conv.weight[:3, :4, 1:4, 1:4]) and torch.equal(bias, conv.bias[:3])


def test_student_files_round_trip(supernet: SRSupernet, tmp_path: Path) -> None:
    path = SRArchitecture(4, 4, (BLOCKS[5], BLOCKS[9]), "shuffle_twice", 6)
    student = supernet.cut(path)
    write_student(tmp_path, "an-id", student)
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(read_student(tmp_path)(x), student(x))
    (tmp_path / "architecture.yaml").write_text("id: broken\n")
    with pytest.raises(InputError, match=r"architecture\.yaml"):
        read_student(tmp_path)
