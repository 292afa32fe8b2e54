"""FSIM, the feature similarity index of Zhang et al. 2011 (IEEE TIP 20(8)), on luminance.

Two images are alike where their phase congruency (Kovesi 1999: how well the Fourier components agree in phase, which
marks edges and lines whatever their contrast) and their gradients are; pixels count by phase congruency. Constants are
those of the article and of its authors' program. Images are floats (n, 3, H, W) with pixels in 0..1.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

_SCALES, _ORIENTATIONS = 4, 4
_SHORTEST_WAVE, _MULTIPLIER = 6, 2  # px, and from one scale to the next
_SIGMA_ON_F = 0.55  # bandwidth of a log-Gabor filter
_ANGLE_SIGMA = math.pi / _ORIENTATIONS / 1.2
_NOISE_SIGMAS = 2.0  # energy counts from this many deviations above the mean energy of noise
_NOISE_RESCALING = 1.7  # the estimate is for a simpler measure of congruency, and this much too high here
_EPSILON = 1e-4
_T1, _T2 = 0.85, 160.0  # of phase congruency, and of gradients on a scale of 255
_LUMINANCE = (0.299, 0.587, 0.114)


def fsim(first: Tensor, second: Tensor) -> Tensor:
    """Return feature similarities (n,) in [0, 1]; images without any feature are alike."""
    grey = luminance(torch.cat([first, second]))
    factor = max(1, round(min(grey.shape[1:]) / 256))
    if factor > 1:
        grey = F.avg_pool2d(grey[:, None], factor)[:, 0]
    pc1, pc2 = phase_congruency(grey).chunk(2)
    g1, g2 = gradient(grey).chunk(2)
    weight = torch.maximum(pc1, pc2)
    score = (weight * _alike(pc1, pc2, _T1) * _alike(g1, g2, _T2)).sum(dim=(1, 2))
    tiny = torch.finfo(grey.dtype).tiny  # for 0 / 0
    return (score + tiny) / (weight.sum(dim=(1, 2)) + tiny)


def luminance(images: Tensor) -> Tensor:
    """Return Y of YIQ on a scale of 255, (n, H, W)."""
    red, green, blue = images.unbind(dim=1)
    return 255 * (_LUMINANCE[0] * red + _LUMINANCE[1] * green + _LUMINANCE[2] * blue)


def _alike(a: Tensor, b: Tensor, constant: float) -> Tensor:
    return (2 * a * b + constant) / (a * a + b * b + constant)


def gradient(grey: Tensor) -> Tensor:
    """Return gradient magnitudes (n, H, W) by Scharr's filters (3, 10, 3) / 16; outside the image is black."""
    padded = F.pad(grey, (1, 1, 1, 1))
    rows = (3 * padded[:, :-2] + 10 * padded[:, 1:-1] + 3 * padded[:, 2:]) / 16
    columns = (3 * padded[:, :, :-2] + 10 * padded[:, :, 1:-1] + 3 * padded[:, :, 2:]) / 16
    return torch.hypot(rows[:, :, 2:] - rows[:, :, :-2], columns[:, 2:] - columns[:, :-2])


def phase_congruency(grey: Tensor) -> Tensor:
    """Return phase congruency (n, H, W) in [0, 1], Kovesi's second measure (FSIM's equation 3)."""
    spectrum = torch.fft.fft2(grey)[:, None]
    energy, amplitude = torch.zeros_like(grey), torch.zeros_like(grey)
    filters, noise_gains = _log_gabor(grey.shape[1], grey.shape[2], grey.device)
    for bank, noise_gain in zip(filters, noise_gains, strict=True):  # one orientation after the other saves memory
        response = torch.fft.ifft2(spectrum * bank)  # (n, scales, H, W), even part + i odd part
        size = response.abs()
        total = response.sum(dim=1, keepdim=True)
        turned = response * (total / (total.abs() + _EPSILON)).conj()
        congruent = (turned.real - turned.imag.abs()).sum(dim=1)
        # The median amplitude at the finest scale is taken for noise, of which a known share reaches the energy.
        threshold = size[:, 0].flatten(1).median(dim=1).values * noise_gain
        energy += (congruent - threshold[:, None, None]).clamp(min=0)
        amplitude += size.sum(dim=1)
    return energy / (amplitude + _EPSILON)


@cache
def _log_gabor(height: int, width: int, device: torch.device) -> tuple[Tensor, list[float]]:
    """Return the filters (orientations, scales, H, W) in the frequency domain, and what each lets through of noise.

    The second: noise whose median amplitude is m at the finest scale has an energy of mean + 2 deviations = gain * m,
    with amplitudes of a Rayleigh distribution (Kovesi 1999, section 6).
    """
    fy = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
    fx = torch.fft.fftfreq(width, dtype=torch.float64)[None]
    radius, angle = torch.hypot(fx, fy), torch.atan2(-fy, fx)
    low_pass = 1 / (1 + (radius / 0.45) ** 30)  # Butterworth: the corners of the spectrum are left out
    radius[0, 0] = 1
    waves = [_SHORTEST_WAVE * _MULTIPLIER**s for s in range(_SCALES)]
    radial = [torch.exp(-(torch.log(radius * w) ** 2) / (2 * math.log(_SIGMA_ON_F) ** 2)) * low_pass for w in waves]
    for band in radial:
        band[0, 0] = 0
    banks, gains = [], []
    for o in range(_ORIENTATIONS):
        away = angle - o * math.pi / _ORIENTATIONS
        away = torch.atan2(away.sin(), away.cos())  # -pi..pi
        spread = torch.exp(-(away**2) / (2 * _ANGLE_SIGMA**2))
        bank = torch.stack([spread * band for band in radial])
        # Noise of power 1 gives the finest scale this mean square, and the sum over scales that one.
        finest = bank[0].square().sum()
        summed = (torch.fft.ifft2(bank).real.sum(dim=0) * math.sqrt(height * width)).square().sum()
        tau = math.sqrt(float(summed / finest) / math.log(2))
        above_zero = math.sqrt(math.pi / 2) + _NOISE_SIGMAS * math.sqrt(2 - math.pi / 2)
        gains.append(tau * above_zero / _NOISE_RESCALING)
        banks.append(bank)
    return torch.stack(banks).float().to(device), gains
