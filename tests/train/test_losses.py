from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lpips import LPIPS
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model

from evo_agd.errors import InputError
from evo_agd.train.features import IMAGENET, Backbone, load_backbone
from evo_agd.train.losses import (
    LPIPS_NETS,
    OTHER,
    TEACHER_TERMS,
    TRUTH_TERMS,
    DistillationLoss,
    frequency_difference,
    gram_difference,
    load_lpips,
    perceptual_difference,
    total_variation,
)
from evo_agd.train.pairs import to_tensor
from tests.conftest import photograph

NAMES = (*TEACHER_TERMS, *TRUTH_TERMS, *OTHER)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SqueezeNet with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(get_model("squeezenet1_1", weights=None).state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def backbone(weights: str) -> Backbone:
    return load_backbone("squeezenet1_1", weights)


@pytest.fixture(scope="module")
def lpips(weights: str) -> nn.Module:
    return load_lpips("squeeze", weights)


@pytest.fixture(scope="module")
def teacher() -> Tensor:
    return to_tensor([photograph(40, 48, 0), photograph(40, 48, 1)])


def loss(name: str, backbone: Backbone, lpips: nn.Module, **options: bool) -> DistillationLoss:
    return DistillationLoss({name: 1.0}, backbone=backbone, lpips=lpips, **options)


def distorted(picture: Tensor, amount: float) -> Tensor:
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(1))
    return picture + amount * noise


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bf16", [False, True])
def test_zero_for_equal_pictures_and_growing_with_distortion(
    name: str, bf16: bool, teacher: Tensor, backbone: Backbone, lpips: nn.Module
) -> None:
    term = loss(name, backbone, lpips, bf16=bf16)
    flat = torch.full_like(teacher, 0.5)
    best = flat if name in OTHER else teacher
    values = [float(term(distorted(best, a), best, best)) for a in (0.0, 0.01, 0.05, 0.2)]
    assert values[0] == 0.0
    assert values == sorted(set(values))
    assert values[-1] < (4 if name == "gram" else 1.5), values
    value = term(best, best, best)
    assert value.shape == () and value.dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_gradients_flow_and_descend(
    name: str, teacher: Tensor, backbone: Backbone, lpips: nn.Module
) -> None:
    term = loss(name, backbone, lpips)
    picture = distorted(teacher, 0.1).requires_grad_()
    values = []
    for _ in range(4):
        value = term(picture, teacher, teacher)
        (gradient,) = torch.autograd.grad(value, picture)
        assert gradient.isfinite().all() and gradient.abs().sum() > 0
        values.append(float(value.detach()))
        # A step that would lower a linear function by a twentieth.
        with torch.no_grad():
            picture -= 0.05 * values[-1] / gradient.square().sum() * gradient
    assert values == sorted(values, reverse=True) and values[-1] < 0.95 * values[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("flat", ["output", "teacher", "both"])
def test_black_pictures_have_finite_gradients(
    name: str, bf16: bool, flat: str, teacher: Tensor, backbone: Backbone, lpips: nn.Module
) -> None:
    term = loss(name, backbone, lpips, bf16=bf16)
    black = torch.zeros_like(teacher)
    known = black if flat in ("teacher", "both") else teacher
    output = (black if flat in ("output", "both") else teacher).clone().requires_grad_()
    value = term(output, known, known)
    assert value.isfinite()
    assert torch.autograd.grad(value, output)[0].isfinite().all()


@given(st.floats(0, 1), st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_l1_alone_is_what_it_was_to_the_bit(weight: float, seed: int) -> None:
    """Runs from before there were other losses go on with the same numbers."""
    generator = torch.Generator().manual_seed(seed)
    output, truth, teacher = torch.rand(3, 2, 3, 9, 10, generator=generator)

    def before(output: Tensor) -> Tensor:
        output = output.float()
        taught = (output - teacher).abs().mean()
        if weight == 1.0:
            return taught
        return weight * taught + (1 - weight) * (output - truth).abs().mean()

    def grown(function: object) -> list[Tensor]:
        leaf = output.bfloat16().requires_grad_()
        value = function(leaf)
        return [value.detach(), *torch.autograd.grad(value, leaf)]

    term = DistillationLoss({"truth_l1": 1 - weight, "teacher_l1": weight})
    now = grown(lambda leaf: term(leaf, truth, teacher))
    assert all(map(torch.equal, now, grown(before)))
    for weights in ({"teacher_l1": 0.3, "truth_l1": 0.7}, {"truth_l1": 1.0}):
        objective = DistillationLoss(weights).to_teacher(output, teacher)
        assert torch.equal(objective, (output - teacher).abs().mean())


def test_the_search_objective_is_the_mean_over_the_teachers_terms(
    teacher: Tensor, backbone: Backbone, lpips: nn.Module
) -> None:
    output = distorted(teacher, 0.1)
    weights = {"teacher_l1": 2.0, "perceptual": 0.5, "truth_l2": 9.0, "total_variation": 1.0}
    both = DistillationLoss(weights, backbone=backbone)
    parts = {name: loss(name, backbone, lpips)(output, teacher, teacher) for name in weights}
    expected = (2.0 * parts["teacher_l1"] + 0.5 * parts["perceptual"]) / 2.5
    assert torch.allclose(both.to_teacher(output, teacher), expected)
    total = sum(weights[name] * parts[name] for name in weights)
    assert torch.allclose(both(output, teacher, teacher), total)
    reordered = DistillationLoss(dict(reversed(weights.items())), backbone=backbone)
    assert torch.equal(reordered(output, teacher, teacher), both(output, teacher, teacher))


def test_truth_and_teacher_are_not_confused(teacher: Tensor) -> None:
    truth = torch.zeros_like(teacher)
    assert DistillationLoss({"truth_l1": 1})(truth, truth, teacher) == 0
    assert DistillationLoss({"truth_l2": 1})(teacher, truth, teacher) == teacher.square().mean()
    assert DistillationLoss({"teacher_l2": 1})(teacher, truth, teacher) == 0


def test_frequency_agrees_with_numpy(teacher: Tensor) -> None:
    output = distorted(teacher, 0.1)
    spectra = [np.fft.rfft2(x.double().numpy(), norm="ortho") for x in (output, teacher)]
    expected = np.abs(spectra[0] - spectra[1]).mean()
    assert float(frequency_difference(output, teacher)) == pytest.approx(expected, rel=1e-5)


def test_total_variation_of_a_ramp() -> None:
    ramp = torch.arange(8.0).div(10).expand(1, 3, 5, 8)
    assert float(total_variation(ramp)) == pytest.approx(0.05)
    assert float(total_variation(ramp.transpose(2, 3))) == pytest.approx(0.05)


def test_perceptual_and_gram_agree_with_numpy() -> None:
    generator = torch.Generator().manual_seed(0)
    ours = [torch.rand(2, c, 5, 4, generator=generator) for c in (3, 6)]
    theirs = [torch.rand(2, c, 5, 4, generator=generator) for c in (3, 6)]
    features, textures = [], []
    for mine, other in zip(ours, theirs, strict=True):
        a, b = mine.double().numpy(), other.double().numpy()
        features.append(np.abs(a - b).mean() / np.abs(b).mean())
        grams = [np.einsum("nihw,njhw->nij", x, x).ravel() for x in (a, b)]
        textures.append(np.linalg.norm(grams[0] - grams[1]) / np.linalg.norm(grams[1]))
    assert float(perceptual_difference(ours, theirs)) == pytest.approx(np.mean(features), rel=1e-5)
    assert float(gram_difference(ours, theirs)) == pytest.approx(np.mean(textures), rel=1e-5)
    # In units of the teacher's features: the same on a backbone of another scale.
    scaled = perceptual_difference([7 * m for m in ours], [7 * m for m in theirs])
    assert float(scaled) == pytest.approx(np.mean(features), rel=1e-5)
    scaled = gram_difference([7 * m for m in ours], [7 * m for m in theirs])
    assert float(scaled) == pytest.approx(np.mean(textures), rel=1e-5)
    empty = [torch.zeros_like(m) for m in ours]
    assert float(perceptual_difference(empty, theirs)) == pytest.approx(1)
    assert float(gram_difference(empty, theirs)) == pytest.approx(1)


def test_gram_does_not_see_where_things_are() -> None:
    maps = torch.rand(1, 4, 6, 6)
    assert float(gram_difference([maps.roll((2, 3), (2, 3))], [maps])) == pytest.approx(0, abs=1e-6)
    assert perceptual_difference([maps.roll((2, 3), (2, 3))], [maps]) > 0.1


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("perceptual", "gram")])
def test_a_batch_is_the_mean_of_its_pictures(
    name: str, teacher: Tensor, backbone: Backbone, lpips: nn.Module
) -> None:
    term = loss(name, backbone, lpips)
    output, truth = distorted(teacher, 0.1), distorted(teacher, 0.05)
    single = [
        float(term(output[i : i + 1], truth[i : i + 1], teacher[i : i + 1])) for i in range(2)
    ]
    assert float(term(output, truth, teacher)) == pytest.approx(np.mean(single), rel=1e-5)


@pytest.mark.parametrize("difference", [perceptual_difference, gram_difference])
def test_flat_pictures_of_a_batch_weigh_little(difference: Callable[..., Tensor]) -> None:
    strong, flat = torch.rand(1, 4, 6, 6), 0.01 * torch.rand(1, 4, 6, 6)
    theirs = torch.cat([strong, flat])
    wrong_flat = torch.cat([strong, torch.rand(1, 4, 6, 6).mul(0.01)])
    wrong_strong = torch.cat([torch.rand(1, 4, 6, 6), flat])
    assert difference([wrong_flat], [theirs]) < 0.1 * difference([wrong_strong], [theirs])


@pytest.mark.parametrize("net", LPIPS_NETS)
@pytest.mark.filterwarnings("ignore::UserWarning")  # the package calls torchvision as of old
def test_lpips_agrees_with_its_package(
    net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Layers that nobody looks at take seconds to initialise.
    monkeypatch.setattr(nn.Linear, "reset_parameters", lambda self: None)
    monkeypatch.setattr(nn.init, "normal_", lambda tensor, *_, **__: tensor)
    torch.manual_seed(3)
    package = LPIPS(net=net, pnet_rand=True, verbose=False)
    state = {f"features.{k.split('.', 1)[1]}": v for k, v in package.net.state_dict().items()}
    torch.save(state, tmp_path / "net.pth")
    ours = load_lpips(net, str(tmp_path / "net.pth"))
    a, b = torch.rand(2, 2, 3, 64, 72)
    with torch.no_grad():
        expected = package(2 * a - 1, 2 * b - 1).mean()
        value = DistillationLoss({"lpips": 1.0}, lpips=ours)(a, b, b)
        assert float(value) == pytest.approx(float(expected), abs=1e-5) and value > 1e-3
        # What it looks at are torchvision's activations.
        with torch.device("meta"):
            layers = get_model(LPIPS_NETS[net], weights=None).features
        state = {k.removeprefix("features."): v for k, v in state.items()}
        layers.load_state_dict(state, assign=True)
        for part, activation in zip(ours.net.children(), ours.net(a), strict=True):
            last = int([name for name, _ in part.named_children()][-1])
            assert torch.equal(layers[: last + 1](a), activation)


def test_lpips_is_quiet_frozen_and_draws_nothing(
    weights: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        net = load_lpips("squeeze", weights)
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")
    assert not any(parameter.requires_grad for parameter in net.parameters())
    with pytest.raises(InputError, match=r"none\.pth: expected weights of alexnet"):
        load_lpips("alex", str(tmp_path / "none.pth"))
    with pytest.raises(
        InputError, match=r"alexnet in torchvision's key names, found .*features\.0"
    ):
        load_lpips("alex", weights)
    with pytest.raises(ValueError, match="resnet"):
        load_lpips("resnet", weights)


def test_copies_and_pickles(teacher: Tensor, backbone: Backbone, lpips: nn.Module) -> None:
    term = DistillationLoss(dict.fromkeys(NAMES, 0.1), backbone=backbone, lpips=lpips)
    output = distorted(teacher, 0.1)
    for other in (copy.deepcopy(term), pickle.loads(pickle.dumps(term)), term.train()):
        assert torch.equal(other(output, teacher, teacher), term(output, teacher, teacher))
        assert not any(module.training for module in other.modules())


def test_output_may_be_bf16_and_the_backbone_too(teacher: Tensor, backbone: Backbone) -> None:
    weights = {"teacher_l1": 1.0, "perceptual": 1.0, "gram": 1.0}
    output = distorted(teacher, 0.1).bfloat16()
    whole, half = (DistillationLoss(weights, backbone=backbone, bf16=b) for b in (False, True))
    expected = whole(output, teacher, teacher)
    assert torch.equal(expected, whole(output.float(), teacher, teacher))
    assert half(output, teacher, teacher).dtype == torch.float32
    assert float(half(output, teacher, teacher)) == pytest.approx(float(expected), rel=0.02)
    leaf = output.float().requires_grad_()
    fine, rough = (torch.autograd.grad(t(leaf, teacher, teacher), leaf)[0] for t in (whole, half))
    assert torch.cosine_similarity(fine.flatten(), rough.flatten(), dim=0) > 0.9
    with torch.inference_mode():
        assert torch.allclose(whole.to_teacher(output, teacher), expected / 3, rtol=1e-6)


def test_features_are_computed_once_and_for_a_weight_only(
    teacher: Tensor, backbone: Backbone, lpips: nn.Module
) -> None:
    def flops(weights: dict[str, float]) -> int:
        term = DistillationLoss(weights, backbone=backbone, lpips=lpips)
        with FlopCounterMode(display=False) as counter:
            term(teacher, teacher, teacher)
        counts = counter.get_flop_counts().get("Global", {})
        return sum(count for operator, count in counts.items() if "conv" in str(operator))

    assert flops({"perceptual": 1, "gram": 1}) == flops({"perceptual": 1}) == flops({"gram": 1}) > 0
    assert flops({"teacher_l1": 1, "perceptual": 0, "gram": 0, "lpips": 0}) == 0
    idle = DistillationLoss({"teacher_l1": 1, "gram": 0}, backbone=backbone, lpips=lpips)
    assert not list(idle.parameters())  # nothing to ship that is not looked through
    assert DistillationLoss({"gram": 1}, backbone=backbone).backbone.head is None


def test_the_backbone_sees_normalised_pictures(teacher: Tensor, backbone: Backbone) -> None:
    seen = []
    handle = backbone.stages[0].register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    loss("perceptual", backbone, nn.Identity())(teacher, teacher, teacher)
    handle.remove()
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in IMAGENET)
    assert len(seen) == 2
    for picture in seen:
        torch.testing.assert_close(picture, (teacher - mean) / deviation)
        assert picture.is_contiguous(memory_format=torch.channels_last)


def test_the_smallest_picture(backbone: Backbone, lpips: nn.Module) -> None:
    assert DistillationLoss({"teacher_l1": 1}).smallest == 2
    for name in ("perceptual", "lpips"):
        assert loss(name, backbone, lpips).smallest == 17
    tiny = torch.rand(1, 3, 16, 16)
    with pytest.raises(ValueError, match="at least 17"):
        loss("gram", backbone, lpips)(tiny, tiny, tiny)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "above 0"),
        ({"teacher_l1": 0.0}, "above 0"),
        ({"teacher_l1": 1.0, "ssim": 0.0}, "ssim"),
        ({"teacher_l1": -1.0}, "0 or more"),
        ({"teacher_l1": float("nan")}, "0 or more"),
        ({"gram": 1.0}, "backbone"),
        ({"perceptual": 1.0}, "backbone"),
        ({"lpips": 1.0}, "lpips"),
    ],
)
def test_what_makes_no_loss_is_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistillationLoss(weights)
