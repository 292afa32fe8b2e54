"""ssfer.data.image_operations: the same pixels as Pillow's, by timm's functions, for every operation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.Image import Resampling
from timm.data.auto_augment import NAME_TO_OP
from torch import Tensor
from torch.nn.functional import interpolate

from ssfer.data.augmentations.strong import _posterize
from ssfer.data.image_operations import operations

FILL = (150, 117, 103)
SIDE = (37, 48)
WHOLE = {"Posterize": (0, 8), "Solarize": (0, 256), "SolarizeAdd": (0, 128)}  # arguments are whole numbers
RANGES = {"Rotate": (-30, 30), "Shear": (-0.3, 0.3), "Translate": (-25, 25), "Enhanced": (0.1, 1.9)}
PLAIN = ("AutoContrast", "Equalize", "Invert")  # no argument


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Smooth pictures, noise, one color, two levels, few dark levels."""
    g = torch.Generator().manual_seed(0)
    smooth = interpolate(torch.rand(12, 3, 6, 6, generator=g), SIDE, mode="bicubic").clamp(0, 1)
    noise = torch.rand(4, 3, *SIDE, generator=g)
    flat = torch.full((1, 3, *SIDE), 0.3)
    two = (noise[:1] > 0.5).float() * 0.2 + 0.4
    return (torch.cat([smooth, noise, flat, two, noise[:2] * 0.1]) * 255).to(torch.uint8)


def arguments(name: str, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    rng = np.random.default_rng(1)
    kind = name.removesuffix("Increasing").removesuffix("Original")
    if kind in WHOLE:
        low, high = WHOLE[kind]
        return np.r_[low, high, rng.integers(low, high, count - 2)].astype(float)
    if name.endswith("Rel"):
        return rng.uniform(-0.45, 0.45, count)
    low, high = RANGES.get(kind.rstrip("XY"), RANGES["Enhanced"])
    return np.r_[0.0 if low < 0 else 1.0, rng.uniform(low, high, count - 1)]


def by_pillow(name: str, picture: Tensor, by: float) -> Tensor:
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    work = _posterize if name.startswith("Posterize") else NAME_TO_OP[name]
    kind = name.removesuffix("Increasing").removesuffix("Original")
    given = () if name in PLAIN else (int(by),) if kind in WHOLE else (by,)
    out = work(image, *given, fillcolor=FILL, resample=Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(out).copy()).permute(2, 0, 1)


@pytest.mark.parametrize("name", operations(FILL))
def test_an_operation_gives_pillows_pixels(name: str, pictures: Tensor) -> None:
    by = arguments(name, len(pictures))
    expected = torch.stack([by_pillow(name, *each) for each in zip(pictures, by.tolist(), strict=True)])
    before = pictures.clone()
    found = operations(FILL)[name](pictures, torch.from_numpy(by).float())
    assert found.dtype == torch.uint8
    assert torch.equal(pictures, before)
    off = (found.int() - expected.int()).abs()
    if name.startswith(("Shear", "Translate", "Rotate")):
        assert off.max() <= 1
        assert (off > 0).double().mean() < 0.004
    else:
        assert not off.any()
    assert (found != pictures).any()
