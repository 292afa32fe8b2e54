"""ssfer.models.mae: checkpoint keys, masks, targets and a second forward pass in loops (specification 6, 18.15)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ssfer.models.mae import MaskedAutoencoder, sincos_position

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def tiny(img_size: int = 16, patch_size: int = 4, norm_pix_loss: bool = True, seed: int = 0) -> MaskedAutoencoder:
    torch.manual_seed(seed)
    return MaskedAutoencoder(img_size, patch_size, 16, 2, 4, 12, 1, 3, norm_pix_loss=norm_pix_loss)


def images(seed: int, n: int = 3, size: int = 16) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def noise(seed: int, n: int = 3, patches: int = 16) -> Tensor:
    return torch.rand(n, patches, generator=torch.Generator().manual_seed(seed))


# --- checkpoints ---

BLOCK = [
    f"{part}.{kind}"
    for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    for kind in ("weight", "bias")
]
PUBLISHED_KEYS = {
    *("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias"),
    *(f"blocks.{n}.{k}" for n in range(2) for k in BLOCK),
    *("mask_token", "decoder_pos_embed", "decoder_embed.weight", "decoder_embed.bias"),
    *("decoder_norm.weight", "decoder_norm.bias", "decoder_pred.weight", "decoder_pred.bias"),
    *(f"decoder_blocks.0.{k}" for k in BLOCK),
}


def test_state_dict_has_the_keys_of_the_published_checkpoints() -> None:
    assert set(tiny().state_dict()) == PUBLISHED_KEYS


def test_base_model_has_the_published_shapes_and_number_of_parameters() -> None:
    with torch.device("meta"):
        model = MaskedAutoencoder(224, 16, 768, 12, 12, 512, 8, 16)
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    assert shapes["pos_embed"] == (1, 197, 768)
    assert shapes["decoder_pos_embed"] == (1, 197, 512)
    assert shapes["decoder_pred.weight"] == (768, 512)
    assert shapes["blocks.11.mlp.fc1.weight"] == (3072, 768)
    assert len({k.split(".")[1] for k in shapes if k.startswith("decoder_blocks.")}) == 8
    # Encoder 85 798 656 and decoder 26 109 184: what facebookresearch/mae's mae_vit_base_patch16 has.
    assert sum(p.numel() for p in model.parameters()) == 111_907_840


# --- position tables and initialisation ---


@pytest.mark.parametrize(("dim", "grid"), [(8, 3), (16, 4)])
def test_position_table_agrees_with_the_loop(dim: int, grid: int) -> None:
    table = sincos_position(dim, grid)
    assert table.shape == (1, 1 + grid * grid, dim)
    assert table[0, 0].abs().max() == 0
    for row in range(grid):
        for column in range(grid):
            expected = []
            for position in (column, row):  # the column comes first
                for function in (math.sin, math.cos):
                    expected += [function(position * 10000 ** (-i / (dim / 4))) for i in range(dim // 4)]
            assert_close(table[0, 1 + row * grid + column], torch.tensor(expected), rtol=0, atol=1e-6)


def test_only_the_position_tables_are_frozen() -> None:
    model = tiny()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"pos_embed", "decoder_pos_embed"}
    model(images(1), 0.75, noise(1)).loss.backward()
    assert model.pos_embed.grad is None
    assert model.decoder_pos_embed.grad is None
    without = {n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    assert without == set()


def test_initialisation_is_that_of_the_specification() -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(32, 8, 128, 1, 4, 256, 1, 4)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            bound = math.sqrt(6 / (module.in_features + module.out_features))
            assert 0.98 * bound < module.weight.abs().max() <= bound, name
            assert not module.bias.any(), name
        if isinstance(module, torch.nn.LayerNorm):
            assert module.eps == 1e-6, name
            assert (module.weight == 1).all(), name
            assert not module.bias.any(), name
    weight = model.patch_embed.proj.weight  # Xavier of the flattened (128, 3*8*8) matrix
    assert 0.98 * math.sqrt(6 / (128 + 192)) < weight.abs().max() <= math.sqrt(6 / (128 + 192))
    assert model.cls_token.std().item() == pytest.approx(0.02, rel=0.25)
    assert model.mask_token.std().item() == pytest.approx(0.02, rel=0.25)


# --- patches and targets ---


def test_patchify_agrees_with_plain_slicing() -> None:
    x = images(2, size=12)
    patches = tiny(12).patchify(x)
    assert patches.shape == (3, 9, 48)
    for b in range(3):
        for n in range(9):
            row, column = divmod(n, 3)
            patch = x[b, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            flat = torch.stack([patch[c, i, j] for i in range(4) for j in range(4) for c in range(3)])
            assert torch.equal(patches[b, n], flat)


def test_unpatchify_inverts_patchify() -> None:
    x = images(3)
    assert torch.equal(tiny().unpatchify(tiny().patchify(x)), x)


def test_normalised_targets_have_mean_zero_and_unbiased_variance_one() -> None:
    x = images(4) * 3 + 5
    target = tiny().target(x)
    assert_close(target.mean(dim=-1), torch.zeros(3, 16), rtol=0, atol=1e-5)
    # 48 values a patch: the biased variance would be 1.0213
    assert_close(target.var(dim=-1, correction=1), torch.ones(3, 16), rtol=0, atol=1e-4)


def test_a_constant_patch_has_a_finite_target() -> None:
    assert torch.isfinite(tiny().target(torch.full((1, 3, 16, 16), 0.3))).all()


# --- masks ---


@pytest.mark.parametrize(
    ("img_size", "ratio", "kept"),
    [
        *((28, 0.75, 49), (28, 0.9, 19), (28, 0.5, 98)),
        *((28, 0.99, 1), (28, 0.999, 0), (28, 0.001, 195), (28, 0.0, 196)),
        # 100 patches: 100 * (1 - 0.9) is 9.999999999999998 in floating point.
        *((20, 0.9, 10), (20, 0.8, 20), (20, 0.7, 30)),
    ],
)
def test_the_stated_number_of_patches_stays_visible(img_size: int, ratio: float, kept: int) -> None:
    n = (img_size // 2) ** 2
    tokens, mask, _ = tiny(img_size, 2).encode(images(6, 2, img_size), ratio, noise(6, 2, n))
    assert tokens.shape == (2, 1 + kept, 16)
    assert mask.sum(dim=1).tolist() == [n - kept, n - kept]


def test_the_patches_of_smallest_noise_stay_visible() -> None:
    u = noise(7)
    _, mask, _ = tiny().encode(images(7), 0.75, u)
    for b in range(3):
        smallest = sorted(range(16), key=lambda n, b=b: u[b, n].item())[:4]
        assert sorted(smallest) == torch.nonzero(mask[b] == 0).flatten().tolist()
    assert not torch.equal(mask[0], mask[1])


def test_the_encoder_sees_visible_patches_and_nothing_else() -> None:
    model, x, u = tiny(), images(8), noise(8)
    tokens, mask, _ = model.encode(x, 0.75, u)
    hidden = model.unpatchify(mask[:, :, None].expand(-1, -1, 48).contiguous())
    assert torch.equal(model.encode(x + 9 * hidden, 0.75, u)[0], tokens)
    assert not torch.allclose(model.encode(x + 9 * (1 - hidden), 0.75, u)[0], tokens)


def test_masks_come_from_the_torch_generator_when_no_noise_is_given() -> None:
    model, x = tiny(), images(9)
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(model(x).mask)
    assert masks[0].sum(dim=1).tolist() == [12, 12, 12]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


# --- forward pass ---


def forward_in_loops(model: MaskedAutoencoder, x: Tensor, ratio: float, u: Tensor) -> tuple[Tensor, Tensor]:
    """The pseudo-code of section 6, one sample and one patch at a time; returns loss and predictions."""
    preds, errors = [], []
    for b in range(len(x)):
        flat = x[b : b + 1]
        n = u.shape[1]
        side, p = math.isqrt(n), model.patch_size
        tokens = []
        for i in range(n):
            row, column = divmod(i, side)
            patch = flat[:, :, p * row : p * row + p, p * column : p * column + p]
            tokens.append(model.patch_embed.proj(patch).flatten() + model.pos_embed[0, 1 + i])
        order = sorted(range(n), key=lambda i, b=b: u[b, i].item())
        visible = order[: math.floor(n * (1 - ratio))]
        t = torch.stack([model.cls_token[0, 0] + model.pos_embed[0, 0], *(tokens[i] for i in visible)])[None]
        for block in model.blocks:
            t = block(t)
        d = model.decoder_embed(model.norm(t))[0]
        full = [model.mask_token[0, 0]] * n
        for rank, i in enumerate(visible):
            full[i] = d[1 + rank]
        t = (torch.stack([d[0], *full]) + model.decoder_pos_embed[0])[None]
        for block in model.decoder_blocks:
            t = block(t)
        pred = model.decoder_pred(model.decoder_norm(t))[0, 1:]
        preds.append(pred)
        for i in set(range(n)) - set(visible):
            row, column = divmod(i, side)
            pixels = x[b, :, p * row : p * row + p, p * column : p * column + p].permute(1, 2, 0).flatten()
            if model.norm_pix_loss:
                pixels = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
            errors.append(((pred[i] - pixels) ** 2).mean())
    return torch.stack(errors).mean(), torch.stack(preds)


@pytest.mark.parametrize("norm_pix_loss", [True, False])
@pytest.mark.parametrize("ratio", [0.75, 0.4])
def test_forward_agrees_with_the_loop(norm_pix_loss: bool, ratio: float) -> None:
    model, x, u = tiny(norm_pix_loss=norm_pix_loss), images(10), noise(10)
    with torch.no_grad():
        out = model(x, ratio, u)
        loss, pred = forward_in_loops(model, x, ratio, u)
    assert_close(out.pred, pred, **TOLERANCE)
    assert_close(out.loss, loss, **TOLERANCE)
