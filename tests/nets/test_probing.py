from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from evo_agd.errors import InputError
from evo_agd.nets.probing import Fitted, Symmetric, fit, picture, takes_symmetric


def halving(times: int) -> nn.Module:
    """A U-shape without care for odd sizes."""
    down = [nn.Conv2d(3, 3, 3, stride=2, padding=1) for _ in range(times)]
    up = [nn.ConvTranspose2d(3, 3, 2, stride=2) for _ in range(times)]
    return nn.Sequential(*down, nn.InstanceNorm2d(3), *up).eval()


@pytest.mark.parametrize("times", range(7))
def test_what_divides_the_sizes_is_found(times: int) -> None:
    fitted = fit(halving(times), 1, "net")
    assert fitted.multiple == 2**times
    for height, width in ((8, 9), (37, 50), (64, 65)):
        assert fitted(picture(height, width)).shape == (1, 3, height, width)


@pytest.mark.parametrize("times", [2, 3])
def test_networks_that_refuse_other_sizes_are_fitted_too(times: int) -> None:
    net = nn.Sequential(nn.PixelUnshuffle(2**times), nn.PixelShuffle(2**times))
    assert fit(net, 1, "net").multiple == 2**times


def test_networks_with_a_least_size_are_fitted() -> None:
    def net(x: Tensor) -> Tensor:
        return F.interpolate(F.pad(x, (12, 12, 12, 12), "reflect")[..., 12:-12, 12:-12], (64, 64))

    def enlarging(x: Tensor) -> Tensor:
        return F.pad(x, (12, 12, 12, 12), "reflect")[..., 12:-12, 12:-12].repeat(1, 1, 2, 2)

    assert fit(enlarging, 2, "net")(picture(8, 10)).shape == (1, 3, 16, 20)
    with pytest.raises(InputError, match="64x64 pixels in answer"):
        fit(net, 1, "net")


def test_views_that_channels_last_forbids_are_no_obstacle() -> None:
    class Views(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(-1).view(x.shape)

    assert fit(Views(), 1, "net")(picture(9, 9)).shape == (1, 3, 9, 9)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 4, 8, 32]))
@settings(deadline=None, max_examples=30)
def test_padding_reflects_as_numpy_does_and_is_cropped(height: int, width: int, m: int) -> None:
    seen: list[Tensor] = []

    def net(x: Tensor) -> Tensor:
        seen.append(x)
        return x

    x = torch.rand(2, 3, height, width)
    assert torch.equal(Fitted(net, 1, m, m, torch.contiguous_format)(x), x)
    (one, _) = seen
    assert all(side % m == 0 for side in one.shape[2:])
    rows, columns = (a - b for a, b in zip(one.shape[2:], (height, width), strict=True))
    if rows < height and columns < width:
        assert torch.equal(one, F.pad(x[:1], (0, columns, 0, rows), "reflect"))


def test_the_range_is_read_off_the_answers() -> None:
    for times in (0, 2):
        net = fit(nn.Sequential(halving(times), nn.Tanh()), 1, "net")
        assert takes_symmetric(net)
        assert not takes_symmetric(fit(nn.Sequential(halving(times), nn.Sigmoid()), 1, "net"))
    x = picture(9, 9)
    assert torch.allclose(Symmetric(lambda v: v)(x), x, atol=1e-6)
    assert 0 == x.min() < x.max() == 1


def test_scale_and_channels_are_told() -> None:
    with pytest.raises(InputError, match=r"scale 1, found scale 0\.5"):
        fit(nn.AvgPool2d(2), 1, "net")
    with pytest.raises(InputError, match="scale 4, found scale 2"):
        fit(nn.Upsample(scale_factor=2), 4, "net")
    with pytest.raises(InputError, match="RGB to RGB, found 3 to 5 channels"):
        fit(nn.Conv2d(3, 5, 1), 1, "net")
    with pytest.raises(InputError, match=r"RGB to RGB.* found 4 to 3 channels"):
        fit(nn.Conv2d(4, 3, 1), 1, "net")
