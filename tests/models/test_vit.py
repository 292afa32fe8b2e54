"""ssfer.models.vit: sizes and structure of the classifier, the way from pretraining into it (5, 18.15-16)."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.testing import assert_close

from ssfer.core.errors import SsferError
from ssfer.models.mae import sincos_position
from ssfer.models.vit import build_classifier, build_mae, encoder_state, load_encoder
from tests.support.factory import tiny_params

HEAD = {"head.weight", "head.bias"}


def classifier(seed: int = 0, classes: int = 3, **model: object) -> VisionTransformer:
    torch.manual_seed(seed)
    return build_classifier(tiny_params(model=model).model, classes)


def pretrained(seed: int = 1, **model: object) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    params = tiny_params(model=model)
    return build_mae(params.model, params.pretrain).state_dict()


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


# --- structure ---


def test_the_network_is_a_plain_vit_without_dropout() -> None:
    model = classifier()
    assert {m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)} == {1e-6}
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} <= {0.0}
    assert not any("DropPath" in type(m).__name__ for m in model.modules())
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.train()(x), model.eval()(x))


def test_logits_are_the_head_on_the_normalised_class_token() -> None:
    model = classifier(head_init="torch_default").eval()
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    tokens = model.patch_embed.proj(x).flatten(2).transpose(1, 2)  # (B, N, D), row by row
    tokens = torch.cat([model.cls_token.expand(2, -1, -1), tokens], dim=1) + model.pos_embed
    for block in model.blocks:  # pre-norm attention and MLP, written out
        h = block.norm1(tokens)
        qkv = nn.functional.linear(h, block.attn.qkv.weight, block.attn.qkv.bias)
        q, k, v = qkv.reshape(2, 17, 3, 2, 8).permute(2, 0, 3, 1, 4)
        h = ((q @ k.transpose(-2, -1)) * 8**-0.5).softmax(dim=-1) @ v
        tokens = tokens + block.attn.proj(h.transpose(1, 2).reshape(2, 17, 16))
        tokens = tokens + block.mlp.fc2(nn.functional.gelu(block.mlp.fc1(block.norm2(tokens))))
    logits = model.head(model.norm(tokens)[:, 0])
    assert_close(model(x), logits, rtol=1e-4, atol=1e-5)


def test_small_head_initialisation_starts_near_uniform_probabilities() -> None:
    model = classifier(classes=7, embed_dim=768, num_heads=2)
    assert model.head.weight.std().item() == pytest.approx(2e-5, rel=0.1)
    assert not model.head.bias.any()
    probs = model(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))).softmax(dim=1)
    assert_close(probs, torch.full((2, 7), 1 / 7), rtol=0, atol=1e-3)


def test_torch_default_head_initialisation_is_that_of_a_linear_layer() -> None:
    head = classifier(classes=7, embed_dim=768, num_heads=2, head_init="torch_default").head
    bound = 768**-0.5
    assert 0.95 * bound < head.weight.abs().max() <= bound
    assert head.bias.any()


# --- loading the encoder ---


def test_encoder_state_drops_the_decoder_and_the_mask_token_only() -> None:
    state = pretrained()
    assert set(encoder_state(state)) == set(classifier().state_dict()) - HEAD


def test_loading_fills_everything_but_the_head() -> None:
    model, state = classifier(), pretrained()
    before = snapshot(model)
    load_encoder(model, state)
    after = model.state_dict()
    assert {k for k in after if k not in state} == HEAD
    assert all(torch.equal(after[k], before[k]) for k in HEAD)
    assert all(torch.equal(after[k], state[k]) for k in after if k not in HEAD)


def test_loaded_classifier_computes_the_features_of_the_autoencoder() -> None:
    params = tiny_params()
    torch.manual_seed(3)
    mae = build_mae(params.model, params.pretrain).eval()
    model = classifier().eval()
    load_encoder(model, mae.state_dict())
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        tokens, _, _ = mae.encode(x, 0.0, torch.arange(16.0).expand(2, 16))  # nothing masked, order kept
        assert_close(model.forward_features(x), tokens, rtol=1e-5, atol=1e-5)


def test_position_table_is_trainable_in_the_classifier() -> None:
    model = classifier(head_init="torch_default")
    load_encoder(model, pretrained())
    model(torch.randn(2, 3, 16, 16)).square().sum().backward()
    assert model.pos_embed.requires_grad
    assert model.pos_embed.grad.abs().sum() > 0
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(("trained", "wanted"), [(16, 24), (24, 16), (16, 20)])
def test_position_table_of_another_grid_is_resized(trained: int, wanted: int) -> None:
    state = pretrained(img_size=trained)
    # Columns 0 and 1 hold a ramp along x and along y, the others a constant: both must survive the resizing.
    old, new = trained // 4, wanted // 4
    ramp = (torch.arange(old) + 0.5) / old
    grid = torch.full((old, old, 16), 0.25)
    grid[:, :, 0], grid[:, :, 1] = ramp[None, :], ramp[:, None]
    state["pos_embed"] = torch.cat([torch.full((1, 1, 16), 7.0), grid.reshape(1, old * old, 16)], dim=1)
    model = classifier(img_size=wanted)
    load_encoder(model, state)
    table = model.pos_embed[0].detach()
    assert table.shape == (1 + new * new, 16)
    assert (table[0] == 7).all()  # class token untouched
    resized = table[1:].reshape(new, new, 16)
    assert_close(resized[:, :, 2:], torch.full((new, new, 14), 0.25), rtol=0, atol=1e-5)
    middle = (torch.arange(new) + 0.5) / new
    assert_close(resized[:, :, 0], middle[None, :].expand(new, new), rtol=0, atol=0.05)
    assert_close(resized[:, :, 1], middle[:, None].expand(new, new), rtol=0, atol=0.05)


def test_position_table_of_a_smaller_grid_is_not_smoothed_first() -> None:
    """As MAE's and DeiT's code resize: bicubic interpolation of the table, which skips values when it shrinks."""
    state = pretrained(img_size=24)
    state["pos_embed"] = torch.randn(1, 37, 16, generator=torch.Generator().manual_seed(1))
    model = classifier(img_size=16)
    load_encoder(model, state)
    grid = state["pos_embed"][:, 1:].reshape(1, 6, 6, 16).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, size=(4, 4), mode="bicubic").permute(0, 2, 3, 1).reshape(1, 16, 16)
    assert_close(model.pos_embed.detach()[:, 1:], expected)


def test_position_table_of_the_same_grid_is_copied_bit_by_bit() -> None:
    model = classifier()
    load_encoder(model, pretrained())
    assert torch.equal(model.pos_embed.detach(), sincos_position(16, 4))


def _other_architectures() -> dict[str, dict[str, Tensor]]:
    good = pretrained()
    return {
        "keys missing": {k: v for k, v in good.items() if k != "blocks.0.attn.qkv.bias"},
        "no position table": {k: v for k, v in good.items() if k != "pos_embed"},
        "keys unexpected": good | {"blocks.1.norm1.weight": torch.ones(16)},
        "deeper": pretrained(depth=2),
        "wider": pretrained(embed_dim=32),
        "other patches": pretrained(patch_size=8),
        "table without class token": good | {"pos_embed": torch.zeros(1, 16, 16)},
        "table of no grid": good | {"pos_embed": torch.zeros(1, 20, 16)},
        "table of the class token alone": good | {"pos_embed": torch.zeros(1, 1, 16)},
        "table without batch": good | {"pos_embed": torch.zeros(17, 16)},
        "nothing": {},
    }


@pytest.mark.parametrize("case", sorted(_other_architectures()))
def test_other_architectures_are_refused_and_leave_the_model_unchanged(case: str) -> None:
    model = classifier()
    before = snapshot(model)
    with pytest.raises(SsferError, match=r"checkpoint.*check params section 'model'"):
        load_encoder(model, _other_architectures()[case])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
