"""Pictures of a masked autoencoder's reconstructions."""

import io
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from ssfer.core.pixels import denormalize, normalize
from ssfer.core.rng import counter_uniform
from ssfer.data.augmentations.eval import Eval
from ssfer.models.mae import MaskedAutoencoder
from ssfer.models.settings import ModelSettings

SHOWN = 8  # faces in a picture


@torch.inference_mode()
def reconstruct(mae: MaskedAutoencoder, images: Tensor, model: ModelSettings, mask_ratio: float) -> list[Tensor]:
    """Return the masked input, the reconstruction and the original, (N, 3, S, S) in 0..1 each.

    With normalized-pixel targets a prediction is a standardized patch. It is scaled back with the mean and standard
    deviation of the true patch (otherwise it would look like noise); visible patches are shown as they are.

    Args:
        mae: in eval mode; any device.
        images: uint8 (N, 3, S, S). The masked patches of image i depend only on i.
        model: mean and std of its input.
        mask_ratio: share of masked patches.
    """
    x = normalize(images, model.mean, model.std).to(mae.cls_token.device)
    noise = counter_uniform(torch.arange(len(x)), mae.patch_embed.num_patches).to(x.device)
    out = mae(x, mask_ratio, noise)
    patches, pred = mae.patchify(x), out.pred.float()
    if mae.norm_pix_loss:
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        pred = pred * (variance + 1e-6).sqrt() + mean
    mask = out.mask[:, :, None]
    rows = [patches * (1 - mask), patches * (1 - mask) + pred * mask, patches]
    return [denormalize(mae.unpatchify(r), model.mean, model.std) for r in rows]


def reconstruction_png(
    mae: MaskedAutoencoder, images: Sequence[Tensor], model: ModelSettings, mask_ratio: float, side: int = 96
) -> bytes:
    """Return a PNG of the three rows of `reconstruct` for stored crops (3, H, W), faces about `side` pixels wide."""
    training = mae.training
    mae.eval()
    views = torch.stack([Eval(model.img_size)(image, torch.zeros(4), 0).image for image in images])
    rows = reconstruct(mae, views, model, mask_ratio)
    mae.train(training)
    grid = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)  # (3, rows * S, n * S)
    array = (grid * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(array)
    zoom = max(1, side // model.img_size)
    buffer = io.BytesIO()
    picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()
