from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from evo_agd.errors import InputError
from evo_agd.nets.published import (
    VDSR,
    CycleGANGenerator,
    LumaEnlarger,
    read_state,
    recognise_cyclegan,
    recognise_vdsr,
)
from evo_agd.nets.teachers import load_teacher
from evo_agd.train.images import (
    bicubic,
    crop_to_multiple,
    downscale,
    list_photos,
    read_photo,
    upscale,
)
from evo_agd.train.quality import luma, psnr_y
from tests.conftest import photograph


def picture(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(photograph(height, width, 1)).permute(2, 0, 1)[None] / 255


def test_cyclegans_published_size_and_key_names() -> None:
    net = CycleGANGenerator()
    assert sum(p.numel() for p in net.parameters()) == 11_378_179
    keys = net.state_dict()
    middle = [f"model.{10 + b}.conv_block.{i}" for b in range(9) for i in (1, 5)]
    layers = ["model.1", "model.4", "model.7", *middle, "model.19", "model.22", "model.26"]
    assert list(keys) == [f"{name}.{part}" for name in layers for part in ("weight", "bias")]
    assert keys["model.1.weight"].shape == (64, 3, 7, 7)
    assert keys["model.19.weight"].shape == (256, 128, 3, 3)


@pytest.mark.parametrize("blocks", [1, 6, 9])
@pytest.mark.parametrize("wrap", ["plain", "module.", "netG_A2B.", "state_dict", "params_ema"])
def test_a_cyclegan_file_is_recognised_however_it_is_wrapped(
    blocks: int, wrap: str, tmp_path: Path
) -> None:
    net = CycleGANGenerator(4, blocks).eval()
    state: dict[str, object] = dict(net.state_dict())
    if wrap.endswith("."):
        state = {wrap + k: v for k, v in state.items()}
    elif wrap != "plain":
        raw = {"params": CycleGANGenerator(4, blocks).state_dict()} if wrap == "params_ema" else {}
        state = {"epoch": 3, wrap: state, **raw}
    torch.save(state, tmp_path / "latest_net_G.pth")
    teacher = load_teacher(str(tmp_path / "latest_net_G.pth"), 1)
    assert teacher.architecture == f"CycleGAN ResNet-{blocks}" and not teacher.tiled
    assert teacher.params == sum(p.numel() for p in net.parameters())
    x = picture(12, 16)
    with torch.inference_mode():
        expected = net(x * 2 - 1) / 2 + 0.5
        assert torch.allclose(teacher.net(x), expected, atol=1e-5)


@pytest.mark.parametrize("norm", ["instance", "affine", "batch"])
@pytest.mark.parametrize("dropout", [False, True])
def test_norm_and_dropout_are_read_off_the_keys(norm: str, dropout: bool) -> None:
    net = CycleGANGenerator(4, 2, norm=norm, dropout=dropout).eval()  # type: ignore[arg-type]
    for value in net.state_dict().values():
        if value.dtype == torch.float32:
            value.uniform_(0.1, 0.2)
    found = recognise_cyclegan(net.state_dict(), "file")
    assert found is not None
    x = picture(12, 16)
    assert torch.allclose(found.eval()(x), net(x), atol=1e-6)


def test_the_unused_statistics_of_old_files_are_passed_over() -> None:
    net = CycleGANGenerator(4, 1)
    state = net.state_dict()
    old = {"model.2.running_mean": torch.ones(4), "model.2.running_var": torch.ones(4) * 9}
    found = recognise_cyclegan({**state, **old}, "file")
    assert found is not None
    x = picture(8, 8)
    assert torch.equal(found(x), net(x))


def test_half_precision_files_are_read(tmp_path: Path) -> None:
    net = CycleGANGenerator(4, 1).half()
    save_file(net.state_dict(), tmp_path / "half.safetensors")
    teacher = load_teacher(str(tmp_path / "half.safetensors"), 1)
    assert teacher.net(picture(8, 8)).dtype == torch.float32


def test_what_only_looks_like_a_published_file_is_refused() -> None:
    state = CycleGANGenerator(4, 1).state_dict()
    assert recognise_cyclegan({"conv.weight": torch.ones(1)}, "file") is None
    assert recognise_vdsr(state, "file") is None
    both = {f"netG_{side}.{k}": v for k, v in state.items() for side in ("A", "B")}
    with pytest.raises(InputError, match="one generator, found several: netG_A, netG_B"):
        recognise_cyclegan(both, "file")
    with pytest.raises(InputError, match="RGB to RGB, found 1 to 3 channels"):
        recognise_cyclegan({**state, "model.1.weight": torch.ones(4, 1, 7, 7)}, "file")
    with pytest.raises(InputError, match="no last layer after 1 blocks"):
        recognise_cyclegan({k: v for k, v in state.items() if "18" not in k}, "file")
    with pytest.raises(InputError, match="CycleGAN generator with 1 blocks"):
        recognise_cyclegan({**state, "model.4.weight": torch.ones(8, 4, 5, 5)}, "file")


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1/0",)


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    torch.save({"model.1.weight": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="more than a state_dict's tensors"):
        read_state(tmp_path / "evil.pth")
    with pytest.raises(InputError, match="more than a state_dict's tensors"):
        load_teacher(str(tmp_path / "evil.pth"), 1)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_enlargement_under_vdsr_is_the_bicubic_one(scale: int) -> None:
    def nothing(x: torch.Tensor) -> torch.Tensor:
        return x

    low = photograph(20, 27, 2)
    x = torch.from_numpy(low).permute(2, 0, 1)[None] / 255
    large = LumaEnlarger(nothing, scale)(x)[0].permute(1, 2, 0).numpy() * 255  # type: ignore[arg-type]
    # Without mirrored edges, which metrics crop: the difference is beyond the border.
    difference = np.abs(np.rint(large) - bicubic(low, 20 * scale, 27 * scale))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01


def test_vdsr_changes_the_luma_and_nothing_else() -> None:
    class Brighter(torch.nn.Module):
        def forward(self, y: torch.Tensor) -> torch.Tensor:
            assert y.min() >= 16 / 255 and y.max() <= 235 / 255 + 1e-6
            return y + 8 / 255

    low = photograph(20, 27, 2) // 2 + 30
    x = torch.from_numpy(low).permute(2, 0, 1)[None] / 255
    large = LumaEnlarger(Brighter(), 2)(x)[0].permute(1, 2, 0).numpy() * 255
    base = upscale(low, 2)
    assert np.abs(luma(large) - luma(base) - 8).max() < 1.5
    assert np.ptp(large - np.rint(large - 8 * 255 / 219), axis=-1).max() < 0.01


def test_vdsr_reaches_its_published_31_35_db_on_set5(shared: Path) -> None:
    teacher = load_teacher(str(shared / "weights/vdsr_x4.safetensors"), 4)
    assert (teacher.architecture, teacher.params) == ("VDSR", 664_704)
    highs = [crop_to_multiple(read_photo(p), 4) for p in list_photos(shared / "data/sr/Set5")]
    scores = [psnr_y(teacher.answer(downscale(h, 4), 4), h, 4) for h in highs]
    assert abs(np.mean(scores) - 31.35) <= 0.02


def test_vdsr_enlarges_by_what_is_asked_unless_its_name_says_otherwise(tmp_path: Path) -> None:
    state = VDSR(4, 2).state_dict()
    for name in ("vdsr.safetensors", "vdsr_x3.safetensors"):
        save_file(state, tmp_path / name)
    for scale in (2, 4):
        teacher = load_teacher(str(tmp_path / "vdsr.safetensors"), scale)
        assert teacher.net(picture(9, 11)).shape == (1, 3, 9 * scale, 11 * scale)
    assert load_teacher(str(tmp_path / "vdsr_x3.safetensors"), 3).tiled
    with pytest.raises(InputError, match="scale 4, found scale 3"):
        load_teacher(str(tmp_path / "vdsr_x3.safetensors"), 4)
    with pytest.raises(InputError, match="scale 1, found VDSR"):
        load_teacher(str(tmp_path / "vdsr.safetensors"), 1)
    with pytest.raises(InputError, match="auto or unit"):
        load_teacher(str(tmp_path / "vdsr.safetensors"), 4, value_range="symmetric")
