"""RandAugment's operations on batches of uint8 images (n, 3, H, W), on any device, as Pillow computes them.

Each takes the images and one argument per image (n,), float32, in timm's meaning. Nothing waits for the device. The
pixels are Pillow's, but those of operations that move pixels differ by 1 of 255 levels in 0.2 % of the places, because
Pillow computes with numbers of double precision; tests/data/test_image_operations.py shows it for each operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

Operation = Callable[[Tensor, Tensor], Tensor]
SMOOTH = 13  # sum of the weights of Pillow's filter SMOOTH, 1 everywhere but 5 in the middle
GRAY = (19595, 38470, 7471)  # Pillow's weights of red, green and blue, in 65536ths


def auto_contrast(images: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel to the whole range."""
    count = _histogram(images) > 0
    level = torch.arange(256, device=images.device)
    low = torch.where(count, level, 255).amin(dim=2, keepdim=True).double()
    high = torch.where(count, level, 0).amax(dim=2, keepdim=True).double()
    width = (high - low).clamp(min=1)
    scale = torch.full_like(width, 255) / width  # a number divided by a tensor would be rounded twice
    stretched = torch.trunc(level * scale - low * scale).clamp(0, 255)
    return _look_up(images, torch.where(high > low, stretched, level.double()))


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Spread the levels of each channel so that all are about as frequent."""
    count = _histogram(images)
    level = torch.arange(256, device=images.device)
    last = torch.where(count > 0, level, 0).amax(dim=2, keepdim=True)
    step = (count.sum(dim=2, keepdim=True) - count.gather(2, last)) // 255
    below = count.cumsum(dim=2) - count
    spread = (step // 2 + below) // step.clamp(min=1)
    return _look_up(images, torch.where(step > 0, spread.clamp(max=255), level))


def invert(images: Tensor, _: Tensor) -> Tensor:
    """Return 255 minus the level."""
    return 255 - images


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the top bits of each channel; 0 bits give a black image."""
    return images & _each(256 - torch.exp2(8 - bits.clamp(max=8))).to(torch.uint8)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert levels from the threshold on."""
    return torch.where(images < _each(threshold), images, 255 - images)


def solarize_add(images: Tensor, added: Tensor) -> Tensor:
    """Add to levels below 128."""
    return torch.where(images < 128, (images + _each(added)).clamp(max=255).to(torch.uint8), images)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with black."""
    return _blend(torch.zeros_like(images), images, factor)


def color(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the gray image."""
    return _blend(_gray(images), images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean of the gray image."""
    mean = _gray(images).double().mean(dim=(1, 2, 3), keepdim=True)
    return _blend(torch.floor(mean + 0.5), images, factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the smoothed image, whose border is not smoothed."""
    rows = images[:, :, :-2].int() + images[:, :, 1:-1] + images[:, :, 2:]
    inner = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * images[:, :, 1:-1, 1:-1].int()
    smooth = images.clone()
    smooth[:, :, 1:-1, 1:-1] = torch.floor(inner.float() / SMOOTH + 0.5).to(torch.uint8)
    return _blend(smooth, images, factor)


@cache
def operations(fill: tuple[int, ...]) -> dict[str, Operation]:
    """Return the operations by timm's names.

    Those that move pixels are bicubic with Pillow's coefficient for transformations, -1; what comes from outside an
    image gets the color `fill`, 0..255.
    """

    def moved(matrix: Callable[[Tensor, int, int], Sequence[Tensor | float]]) -> Operation:
        return lambda images, by: _affine(images, matrix(by, *images.shape[2:]), fill)

    return {
        **_COLORS,
        "ShearX": moved(lambda by, *_: (1, by, 0, 0, 1, 0)),
        "ShearY": moved(lambda by, *_: (1, 0, 0, by, 1, 0)),
        "TranslateX": moved(lambda by, *_: (1, 0, by, 0, 1, 0)),
        "TranslateY": moved(lambda by, *_: (1, 0, 0, 0, 1, by)),
        "TranslateXRel": moved(lambda by, height, width: (1, 0, by * width, 0, 1, 0)),
        "TranslateYRel": moved(lambda by, height, width: (1, 0, 0, 0, 1, by * height)),
        "Rotate": moved(_rotation),
    }


_COLORS: dict[str, Operation] = {
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Invert": invert,
    **dict.fromkeys(("Posterize", "PosterizeIncreasing", "PosterizeOriginal"), posterize),
    **dict.fromkeys(("Solarize", "SolarizeIncreasing"), solarize),
    "SolarizeAdd": solarize_add,
    **dict.fromkeys(("Brightness", "BrightnessIncreasing"), brightness),
    **dict.fromkeys(("Color", "ColorIncreasing"), color),
    **dict.fromkeys(("Contrast", "ContrastIncreasing"), contrast),
    **dict.fromkeys(("Sharpness", "SharpnessIncreasing"), sharpness),
}


def _rotation(degrees: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
    """Return the map from a pixel of the rotated image to one of the image; rotation is about the center."""
    angle = -degrees * (math.pi / 180)
    cos, sin, x, y = torch.cos(angle), torch.sin(angle), width / 2, height / 2
    return cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y


def _affine(images: Tensor, matrix: Sequence[Tensor | float], fill: Sequence[int]) -> Tensor:
    n, channels, height, width = images.shape
    a, b, c, d, e, f = (_each(v)[:, 0] if isinstance(v, Tensor) else v for v in matrix)
    column = torch.arange(width, device=images.device) + 0.5
    row = torch.arange(height, device=images.device)[:, None] + 0.5
    x, y = (a * column + b * row + c).expand(n, -1, -1), (d * column + e * row + f).expand(n, -1, -1)
    inside = ((x >= 0) & (x < width) & (y >= 0) & (y < height))[:, None]
    (left, across), (top, down) = ((torch.floor(v - 0.5), v - 0.5 - torch.floor(v - 0.5)) for v in (x, y))
    pixels = images.flatten(2)
    total = torch.zeros(images.shape, device=images.device)
    across_weights, down_weights = _cubic(across), _cubic(down)
    columns = [(left + i - 1).clamp(0, width - 1) for i in range(4)]
    for j, vertical in enumerate(down_weights):
        base = (top + j - 1).clamp(0, height - 1) * width
        line = torch.zeros_like(total)
        for at, horizontal in zip(columns, across_weights, strict=True):
            index = (base + at).long().flatten(1)[:, None].expand(-1, channels, -1)
            line += pixels.gather(2, index).view(images.shape) * horizontal[:, None]
        total += line * vertical[:, None]
    outside = torch.stack([torch.full((), float(v), device=images.device) for v in fill]).view(1, -1, 1, 1)
    total += 1e-3  # Pillow cuts off what follows the point, of more exact numbers
    return torch.where(inside, total, outside).clamp(0, 255).to(torch.uint8)


def _cubic(part: Tensor) -> tuple[Tensor, ...]:
    """Return the weights of the four neighbors of a point that lies `part` of a pixel beyond the second."""
    square, cube = part**2, part**3
    return -part + 2 * square - cube, 1 - 2 * square + cube, part + square - cube, cube - square


def _blend(first: Tensor, second: Tensor, factor: Tensor) -> Tensor:
    return (first + _each(factor) * (second.float() - first)).clamp(0, 255).to(torch.uint8)


def _gray(images: Tensor) -> Tensor:
    red, green, blue = images.int().unbind(dim=1)
    return ((GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue + 0x8000) >> 16)[:, None].to(torch.uint8)


def _each(values: Tensor) -> Tensor:
    """Return one value per image as (n, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def _histogram(images: Tensor) -> Tensor:
    """Return the number of pixels of each level (n, 3, 256), int64."""
    pixels = images.flatten(2).long()
    return torch.zeros(*pixels.shape[:2], 256, dtype=torch.int64, device=images.device).scatter_add_(
        2, pixels, torch.ones((), dtype=torch.int64, device=images.device).expand(pixels.shape)
    )


def _look_up(images: Tensor, table: Tensor) -> Tensor:
    """Return the levels of `table` (n, 3, 256) at the images' levels."""
    return table.to(torch.uint8).gather(2, images.flatten(2).long()).view(images.shape)
