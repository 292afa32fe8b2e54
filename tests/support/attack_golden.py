"""A small vision transformer with fixed weights, and what well-known libraries make of it.

`main` prints the golden numbers of tests/evaluation/test_attack.py. The libraries are no part of ssfer:

    pip install --target LIBS --no-deps torchattacks==3.5.1 grad-cam==1.5.7 ttach==0.0.3
    PYTHONPATH=LIBS:. python tests/support/attack_golden.py
"""

from __future__ import annotations

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

MEAN, STD = (0.588, 0.459, 0.402), (0.228, 0.202, 0.19)
LABELS = torch.tensor([0, 1, 2])
EPSILON = 0.04


def tiny_vit() -> VisionTransformer:
    """Return a ViT for 16-pixel images, 4 x 4 tokens and 3 classes; its weights depend on no torch generator."""
    model = VisionTransformer(img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=3)
    rng = np.random.RandomState(19)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and name != "cls_token":
                weight.copy_(torch.from_numpy(rng.standard_normal(weight.shape) * 0.2).float())
            else:
                weight.fill_(float("norm" in name and name.endswith("weight")))
    return model.eval()


def images() -> Tensor:
    """Return three smooth colour pictures in 0..1, (3, 3, 16, 16), the first mostly red, the others green and blue."""
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    waves = [torch.sin(0.3 * (i + 1) * x + 0.2 * (c + 1) * y + i - c) for i in range(3) for c in range(3)]
    return (0.45 + 0.15 * torch.stack(waves)).view(3, 3, 16, 16) + 0.3 * (torch.eye(3) - 0.3)[:, :, None, None]


class Normalized(nn.Module):
    """A model that takes pixels, as torchattacks wants it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        center, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
        logits: Tensor = self.model((pixels - center) / scale)
        return logits


def main() -> None:
    """Print the library's attacked images as signs in hexadecimal, and its maps at every fourth pixel."""
    from pytorch_grad_cam import GradCAM
    from torchattacks import FGSM

    model, pixels = tiny_vit(), images()
    attacked = FGSM(Normalized(model), eps=EPSILON)(pixels, LABELS)
    up = (attacked > pixels).numpy()
    for i in range(3):
        print("signs", i, np.packbits(up[i]).tobytes().hex(), int((attacked[i] == pixels[i]).sum()))

    def on_grid(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].reshape(len(tokens), 4, 4, -1).permute(0, 3, 1, 2)

    center, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    cam = GradCAM(model, [model.blocks[-1].norm1], on_grid)((pixels - center) / scale, targets=None)
    print("predicted", model((pixels - center) / scale).argmax(dim=1).tolist())
    for i in range(3):
        print("map", i, [[round(float(v), 6) for v in row] for row in cam[i, 1::4, 1::4]])


if __name__ == "__main__":
    main()
