from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import get_model
from torchvision.transforms.functional import normalize

from evo_agd.errors import InputError
from evo_agd.train import features
from evo_agd.train.features import IMAGENET, SMALLEST, load_backbone
from evo_agd.train.images import bicubic, list_photos, read_photo
from evo_agd.train.pairs import to_tensor
from tests.conftest import photograph


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SqueezeNet with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_file(get_model("squeezenet1_1", weights=None).state_dict(), path)
    return path


def random_state(architecture: str, **options: Any) -> dict[str, Tensor]:
    """Random weights; a fully connected layer repeats a single number, which takes no memory."""
    with torch.device("meta"):
        shapes = get_model(architecture, weights=None, **options).state_dict()
    torch.manual_seed(0)

    def tensor(key: str, shape: torch.Size) -> Tensor:
        if len(shape) == 4:
            return torch.randn(shape) * (2 / shape[1:].numel()) ** 0.5
        if len(shape) == 2:
            return torch.rand(()).expand(shape)
        if key.endswith(("running_var", "bn.weight")):
            return torch.rand(shape) + 0.5
        return torch.rand(shape) / 10

    return {key: tensor(key, value.shape) for key, value in shapes.items()}


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Equal to 1e-4 of what is usual there."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().mean()


def test_agrees_with_torchvision(weights: Path) -> None:
    backbone = load_backbone("squeezenet1_1", str(weights))
    torch.manual_seed(0)
    net = get_model("squeezenet1_1", weights=None).eval()  # the same draws
    x = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        assert_close(backbone.logits(x), net(normalize(x, *IMAGENET)))
        deepest = net.features(normalize(x, *IMAGENET))
        assert_close(backbone.maps(x)[-1], deepest)
        assert_close(backbone.pooled(x), deepest.mean((2, 3)))


@pytest.mark.parametrize(
    ("architecture", "taps"),
    [
        ("squeezenet1_1", [1, 4, 7, 12]),
        ("alexnet", [1, 4, 11]),
        ("vgg16", [3, 8, 15, 22, 29]),
        ("vgg19", [3, 8, 17, 26, 35]),
    ],
)
def test_maps_are_what_precedes_the_poolings(
    architecture: str, taps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = random_state(architecture)
    monkeypatch.setattr(features, "read_weights", lambda *_: (state, "random"))
    backbone = load_backbone(architecture, "random")
    assert backbone.name == f"{architecture} (random)" and not backbone.is_inception
    with torch.device("meta"):
        net = get_model(architecture, weights=None)
    net.load_state_dict(state, assign=True)
    x = torch.rand(1, 3, 40, 33)
    with torch.no_grad():
        found = backbone.maps(x)
        assert [m.shape[1] for m in found] == sorted(m.shape[1] for m in found)
        for tap, maps in zip(taps, found, strict=True):
            expected = net.features[: tap + 1](normalize(x, *IMAGENET))
            assert_close(maps, expected)
            assert maps.min() >= 0  # behind a ReLU


def test_the_whole_of_a_network_with_a_last_pooling(monkeypatch: pytest.MonkeyPatch) -> None:
    state = random_state("alexnet")
    monkeypatch.setattr(features, "read_weights", lambda *_: (state, "random"))
    with torch.device("meta"):
        net = get_model("alexnet", weights=None).eval()
    net.load_state_dict(state, assign=True)
    x = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        found = load_backbone("alexnet", "random").logits(x)
        assert_close(found, net(normalize(x, *IMAGENET)))


def test_resizes_as_pillow_does() -> None:
    photo = photograph(300, 250, 0)
    backbone = features.Backbone("squeezenet1_1", "no layers", [], None)
    found = backbone._resized(to_tensor([photo]))
    assert torch.allclose(found, to_tensor([bicubic(photo, 224, 224)]), atol=0.51 / 255)
    assert found.min() >= 0 and found.max() <= 1


@pytest.mark.filterwarnings("ignore::UserWarning")  # piq calls torchvision by arguments of old
@pytest.mark.parametrize("kind", ["tensorflow", "torchvision"])
def test_inception_agrees_with_piq(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow's poolings with TensorFlow's weights, and with those only."""
    reference = pytest.importorskip("piq.feature_extractors.fid_inception")
    options = {"num_classes": 1008, "aux_logits": False, "init_weights": False}
    state = random_state("inception_v3", **options)
    monkeypatch.setattr(reference, "load_state_dict_from_url", lambda *_, **__: state)
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda tensor, **_: tensor)  # takes seconds
    piq = reference.InceptionV3().eval()
    # Some files are without what only training needs.
    given = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    if kind == "torchvision":
        given["fc.bias"] = torch.zeros(1000)
    monkeypatch.setattr(features, "read_weights", lambda *_: (given, "port"))
    backbone = load_backbone("inception_v3", "port")
    assert backbone.is_inception and backbone.name == "inception_v3 (port)"
    x = torch.rand(1, 3, 120, 140)
    with torch.no_grad():
        found, expected = backbone.pooled(x), piq(x)[0].flatten(1)
    assert found.shape == (1, 2048)
    if kind == "torchvision":
        assert (found - expected).abs().mean() > 0.01 * expected.abs().mean()
    else:
        assert_close(found, expected)
    with pytest.raises(ValueError, match="no classifying layers"):
        backbone.logits(x)


def test_torchvisions_inception(monkeypatch: pytest.MonkeyPatch) -> None:
    state = random_state("inception_v3", init_weights=False)  # with its auxiliary classifier
    monkeypatch.setattr(features, "read_weights", lambda *_: (state, "own"))
    with torch.device("meta"):
        net = get_model("inception_v3", weights=None, init_weights=False, transform_input=True)
    net.load_state_dict(state, assign=True)
    net.eval().fc = torch.nn.Identity()
    x = torch.rand(1, 3, 299, 299)
    with torch.no_grad():
        found = load_backbone("inception_v3", "own").pooled(x)
        assert_close(found, net(normalize(x, *IMAGENET)))


def test_frozen_and_in_evaluation_mode_for_good(weights: Path) -> None:
    backbone = load_backbone("squeezenet1_1", str(weights))
    holder = torch.nn.Sequential(backbone).train()
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in holder.parameters())
    x = torch.rand(1, 3, 32, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(backbone.maps(x)[-1].sum(), x)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


def test_loading_draws_no_random_number(weights: Path) -> None:
    before = torch.get_rng_state()
    load_backbone("squeezenet1_1", str(weights))
    assert torch.equal(torch.get_rng_state(), before)


def test_headless_and_pickled(weights: Path) -> None:
    backbone = load_backbone("squeezenet1_1", str(weights))
    copy = pickle.loads(pickle.dumps(backbone.headless()))
    x = torch.rand(1, 3, 32, 32)
    assert all(map(torch.equal, copy.maps(x), backbone.maps(x)))
    assert copy.name == backbone.name
    with pytest.raises(ValueError, match="no classifying layers"):
        copy.logits(x)


@pytest.mark.parametrize("architecture", ["squeezenet1_1", "vgg16", "vgg19", "alexnet"])
def test_the_smallest_picture(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    state = random_state(architecture)
    monkeypatch.setattr(features, "read_weights", lambda *_: (state, "random"))
    backbone = load_backbone(architecture, None)
    side = backbone.smallest
    assert backbone.maps(torch.rand(1, 3, side, side))[-1].numel() > 0
    with pytest.raises(ValueError, match=f"at least {side}, found {side - 1}x{side}"):
        backbone.maps(torch.rand(1, 3, side - 1, side))
    monkeypatch.setitem(SMALLEST, architecture, 1)
    with pytest.raises(RuntimeError):  # the limit is not too strict
        backbone.maps(torch.rand(1, 3, side - 1, side - 1))


def test_half_precision_and_torch_files(weights: Path, tmp_path: Path) -> None:
    whole = load_backbone("squeezenet1_1", str(weights))
    state = {
        k: v.half() for k, v in features.read_weights("squeezenet1_1", str(weights))[0].items()
    }
    torch.save(state, tmp_path / "half.pth")
    half = load_backbone("squeezenet1_1", str(tmp_path / "half.pth"))
    assert half.name == "squeezenet1_1 (half.pth)"
    x = torch.rand(1, 3, 32, 32)
    assert half.maps(x)[-1].dtype == torch.float32
    assert torch.allclose(half.pooled(x), whole.pooled(x), rtol=0.02, atol=0.02)


def test_bad_weights_are_bad_input(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def error(path: Path | None, architecture: str = "squeezenet1_1") -> str:
        with pytest.raises(InputError) as caught:
            load_backbone(architecture, None if path is None else str(path))
        return str(caught.value)

    missing = error(tmp_path / "none.pth")
    assert missing.startswith(str(tmp_path / "none.pth")) and missing.endswith("no such file")
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("not weights")
        assert f"{name}: expected weights of squeezenet1_1" in error(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    assert error(tmp_path / "list.pth").endswith("found list")
    assert error(weights, "vgg16").endswith("found no tensor features.2.weight")
    state = dict(features.read_weights("squeezenet1_1", str(weights))[0])
    state["features.0.weight"] = torch.zeros(64, 1, 3, 3)
    torch.save(state, tmp_path / "grey.pth")
    assert "(64, 1, 3, 3) instead of (64, 3, 3, 3)" in error(tmp_path / "grey.pth")

    def offline(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", offline)
    assert "a file of weights for vgg16" in error(None, "vgg16")
    with pytest.raises(ValueError, match="resnet18"):
        load_backbone("resnet18", None)


def test_torchvisions_own_download(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = features.read_weights("squeezenet1_1", str(weights))[0]
    asked = []

    def download(self: Any, **options: object) -> Any:
        asked.append((self.url, options))
        return state

    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", download)
    assert load_backbone("squeezenet1_1", None).name == "squeezenet1_1 (torchvision IMAGENET1K_V1)"
    assert "squeezenet1_1" in asked[0][0] and asked[0][1] == {"progress": False, "check_hash": True}


def test_the_shared_weights_know_zebras(shared: Path) -> None:
    path = shared / "weights/squeezenet1_1_imagenet.safetensors"
    backbone = load_backbone("squeezenet1_1", str(path))
    photos = [read_photo(p) for p in list_photos(shared / "data/horse2zebra/testB")[:10]]
    with torch.inference_mode():
        logits = backbone.logits(to_tensor(photos))
    assert (logits.argmax(1) == 340).sum() >= 8
    assert F.softmax(logits, 1)[:, 340].mean() > 0.5
