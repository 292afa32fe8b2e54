"""kappa, how much the two images of a FaceMix pair differ: by the overlap of faces, or by one of three image measures.

The partner of sample i in a batch of B is sample B-1-i. kappa is 1 - similarity, in [0, 1], the same for both images
of a pair, and constant for the gradient. The SSFER paper compares the four (its Table 14) without giving formulas for
the last three; these are the ones of the specification, section 8. Images are floats (n, 3, H, W) with pixels in 0..1.
"""

import math
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ssfer.core.errors import SsferError

IMAGE_KAPPAS = ("psnr", "ssim", "fsim")
HIGHEST_PSNR = 50.0  # dB; images at least this similar count as equal
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
# Of FSIM: constants of its article and of its authors' program.
_SCALES, _ORIENTATIONS = 4, 4
_SHORTEST_WAVE, _MULTIPLIER = 6, 2  # px, and from one scale to the next
_SIGMA_ON_F = 0.55  # bandwidth of a log-Gabor filter
_ANGLE_SIGMA = math.pi / _ORIENTATIONS / 1.2
_NOISE_SIGMAS = 2.0  # energy counts from this many deviations above the mean energy of noise
_NOISE_RESCALING = 1.7  # the estimate is for a simpler measure of congruency, and this much too high here
_EPSILON = 1e-4
_T1, _T2 = 0.85, 160.0  # of phase congruency, and of gradients on a scale of 255
_LUMINANCE = (0.299, 0.587, 0.114)


def paired_iou(boxes: Tensor) -> Tensor:
    """Return the intersection over union of each box with its partner's (SSFER, section on FaceMix).

    Args:
        boxes: (B, 4) with x2 > x1 and y2 > y1.

    Returns:
        (B,) in [0, 1], symmetric: value i equals value B-1-i; no gradient.
    """
    boxes = boxes.detach().float()
    partner = boxes.flip(0)
    width = torch.minimum(boxes[:, 2], partner[:, 2]) - torch.maximum(boxes[:, 0], partner[:, 0])
    height = torch.minimum(boxes[:, 3], partner[:, 3]) - torch.maximum(boxes[:, 1], partner[:, 1])
    intersection = width.clamp(min=0) * height.clamp(min=0)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return intersection / (area + area.flip(0) - intersection)


@torch.no_grad()
def image_kappa(images: Tensor, measure: str) -> Tensor:
    """Return kappa of each image and its partner, (B,); every pair is compared once.

    Args:
        images: (B, 3, H, W) with pixels in 0..1.
        measure: psnr, ssim or fsim.

    Raises:
        ValueError: odd batch or unknown measure.
        SsferError: images smaller than the window of SSIM.
    """
    if len(images) % 2:
        raise ValueError(f"a batch is paired with its reverse and needs an even size, found {len(images)}")
    with torch.autocast(images.device.type, enabled=False):  # variances are small differences of large numbers
        first, second = images.float().chunk(2)
        second = second.flip(0)
        if measure == "psnr":
            similarity = psnr(first, second) / HIGHEST_PSNR
        elif measure == "ssim":
            similarity = ssim(first, second)
        elif measure == "fsim":
            similarity = fsim(first, second)
        else:
            raise ValueError(f"unknown measure '{measure}' (known: {', '.join(IMAGE_KAPPAS)})")
    kappa = 1 - similarity.clamp(0, 1)
    return torch.cat([kappa, kappa.flip(0)])


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Return peak signal-to-noise ratios (n,) in dB for a peak of 1; infinite for equal images."""
    return -10 * torch.log10((first - second).square().mean(dim=(1, 2, 3)))


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Return structural similarities (n,), means over channels and pixels (Wang et al. 2004, equation 13).

    Means and variances are those of a Gaussian window of 11 x 11 pixels, where it lies inside the image; K1 is 0.01,
    K2 0.03.

    Raises:
        SsferError: a side below 11 px.
    """
    if min(first.shape[2:]) < _WINDOW:
        raise SsferError(
            f"SSIM compares images of at least {_WINDOW} px, found {min(first.shape[2:])} px; "
            "choose another finetune.facemix.kappa or a larger model.img_size"
        )
    squares = (first * first, second * second, first * second)
    m1, m2, m11, m22, m12 = _window(torch.stack([first, second, *squares]))
    variances, covariance = m11 - m1 * m1 + m22 - m2 * m2, m12 - m1 * m2
    structure = (2 * covariance + _C2) / (variances + _C2)
    return ((2 * m1 * m2 + _C1) / (m1 * m1 + m2 * m2 + _C1) * structure).mean(dim=(1, 2, 3))


def _window(maps: Tensor) -> Tensor:
    """Return Gaussian means over windows of 11 x 11 pixels, (..., H - 10, W - 10)."""
    weights = [torch.exp(torch.tensor(-((i - _WINDOW // 2) ** 2) / (2 * _SIGMA**2))).item() for i in range(_WINDOW)]
    total = sum(weights)
    for dim in (-2, -1):
        maps = _correlate(maps, [w / total for w in weights], dim)
    return maps


def _correlate(maps: Tensor, weights: Sequence[float], dim: int) -> Tensor:
    """Return the correlation with a row of weights along one dimension, without padding.

    A convolution may run in TF32 on a GPU, which is not precise enough for variances.
    """
    length = maps.shape[dim] - len(weights) + 1
    out = maps.narrow(dim, 0, length) * weights[0]
    for i, weight in enumerate(weights[1:], start=1):
        out = out.add_(maps.narrow(dim, i, length), alpha=weight)
    return out


def fsim(first: Tensor, second: Tensor) -> Tensor:
    """Return feature similarities (n,) in [0, 1]; 1 for two images without any feature (Zhang et al. 2011).

    The similarity of a pixel is that of the phase congruencies (Kovesi 1999: how well the Fourier components agree in
    phase, which marks edges and lines whatever their contrast) times that of the gradients; the mean is weighted by
    phase congruency. Source: IEEE TIP 20(8), on luminance.
    """
    gray = luminance(torch.cat([first, second]))
    factor = max(1, round(min(gray.shape[1:]) / 256))
    if factor > 1:
        gray = F.avg_pool2d(gray[:, None], factor)[:, 0]
    pc1, pc2 = phase_congruency(gray).chunk(2)
    g1, g2 = gradient(gray).chunk(2)
    weight = torch.maximum(pc1, pc2)
    score = (weight * _alike(pc1, pc2, _T1) * _alike(g1, g2, _T2)).sum(dim=(1, 2))
    tiny = torch.finfo(gray.dtype).tiny  # for 0 / 0
    return (score + tiny) / (weight.sum(dim=(1, 2)) + tiny)


def luminance(images: Tensor) -> Tensor:
    """Return Y of YIQ on a scale of 255, (n, H, W)."""
    red, green, blue = images.unbind(dim=1)
    return 255 * (_LUMINANCE[0] * red + _LUMINANCE[1] * green + _LUMINANCE[2] * blue)


def _alike(a: Tensor, b: Tensor, constant: float) -> Tensor:
    return (2 * a * b + constant) / (a * a + b * b + constant)


def gradient(gray: Tensor) -> Tensor:
    """Return gradient magnitudes (n, H, W) by Scharr's filters (3, 10, 3) / 16; outside the image is black."""
    padded = F.pad(gray, (1, 1, 1, 1))
    rows = (3 * padded[:, :-2] + 10 * padded[:, 1:-1] + 3 * padded[:, 2:]) / 16
    columns = (3 * padded[:, :, :-2] + 10 * padded[:, :, 1:-1] + 3 * padded[:, :, 2:]) / 16
    return torch.hypot(rows[:, :, 2:] - rows[:, :, :-2], columns[:, 2:] - columns[:, :-2])


def phase_congruency(gray: Tensor) -> Tensor:
    """Return phase congruency (n, H, W) in [0, 1], Kovesi's second measure (FSIM's equation 3)."""
    spectrum = torch.fft.fft2(gray)[:, None]
    energy, amplitude = torch.zeros_like(gray), torch.zeros_like(gray)
    filters, noise_gains = _log_gabor(gray.shape[1], gray.shape[2], gray.device)
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
