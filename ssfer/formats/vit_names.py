"""Names of vision transformers in others' files, as timm's VisionTransformer and the MAE release call the tensors.

Known are Hugging Face's ViT, ViTMAE and DINOv2, and CLIP's vision tower as OpenAI, open_clip and Hugging Face name it.
Names are those of the conversion scripts of transformers (vit_mae, dinov2, clip) and of open_clip's visual tower.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ssfer.core.errors import SsferError

# Parts of a layer in Hugging Face's ViTs, and in CLIP's.
_LAYER = {
    "attention.attention.query": "attn.q",
    "attention.attention.key": "attn.k",
    "attention.attention.value": "attn.v",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
}
_CLIP_LAYER = {
    "attn.in_proj_": "attn.qkv.",
    "attn.out_proj.": "attn.proj.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
    "ln_1.": "norm1.",
    "ln_2.": "norm2.",
    "self_attn.q_proj.": "attn.q.",
    "self_attn.k_proj.": "attn.k.",
    "self_attn.v_proj.": "attn.v.",
    "self_attn.out_proj.": "attn.proj.",
    "layer_norm1.": "norm1.",
    "layer_norm2.": "norm2.",
    "mlp.": "mlp.",
}
_HF = re.compile(
    r"(?P<before>(?:.*?\.)??)(?:(?:vit|dinov2)\.)?(?P<name>(?:embeddings|encoder\.layer|layernorm|pooler)\..*)"
)
_HF_DECODER = re.compile(r"(?P<before>(?:.*?\.)??)decoder\.(?P<name>mask_token|decoder_.*)")
_CLIP = re.compile(r"(?P<before>(?:.*?\.)??)(?:visual|vision_model)\.(?P<name>.*)")
_HF_NAMES = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.mask_token", "mask_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"layernorm\.", "norm."),
    (r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"decoder_layers\.(\d+)\.", r"decoder_blocks.\1."),
)
_CLIP_NAMES = (
    (r"class_embedding|embeddings\.class_embedding", "cls_token"),
    (r"positional_embedding|embeddings\.position_embedding\.weight", "pos_embed"),
    (r"conv1\.|embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"ln_pre\.|pre_layrnorm\.", "norm_pre."),
    (r"ln_post\.|post_layernorm\.", "norm."),
    (r"transformer\.resblocks\.(\d+)\.|encoder\.layers\.(\d+)\.", "blocks."),
)


def timm_names(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return the tensors by timm's names, and the library whose names they had ("" if nothing is renamed).

    Prefixes of the whole network (`model.`) stay, and CLIP's vision tower keeps `visual.`; queries, keys and values
    become one tensor.

    Args:
        state: names and tensors of a file.
    """
    if any(name.endswith("embeddings.cls_token") for name in state):
        renamed, whose = {_hugging_face(name): value for name, value in state.items()}, "Hugging Face"
    elif any(name.endswith(("visual.class_embedding", "embeddings.class_embedding")) for name in state):
        renamed, whose = {_clip(name): value for name, value in state.items()}, "CLIP"
        for name in renamed:
            if name.endswith(("cls_token", "pos_embed")):  # without a dimension for the batch there
                renamed[name] = renamed[name].reshape(1, -1, renamed[name].shape[-1])
    else:
        return dict(state), ""
    return _joined(renamed), whose


def refuse_clip(state: Mapping[str, Tensor], where: str) -> None:
    """Refuse a network with a norm before its blocks, which the project's own ViT does not have.

    Raises:
        SsferError: it has such a norm; says how to read it.
    """
    if "norm_pre.weight" in state:
        raise SsferError(
            f"{where} is the vision tower of a CLIP, which has a norm before its blocks; read it into timm's network "
            "of that kind: --backbone vit_base_patch16_clip_224 (open_clip's), or "
            "vit_base_patch16_clip_quickgelu_224 (OpenAI's)"
        )


def fold_scales(state: dict[str, Tensor]) -> dict[str, str]:
    """Multiply LayerScale factors (DINOv2) into the linear maps before them, in place; return their names -> reason.

    gamma * (W x + b) is (gamma W) x + gamma b, so the network computes the same.
    """
    folded = [name for name in state if re.fullmatch(r"blocks\.\d+\.ls[12]\.gamma", name)]
    for name in folded:
        block, scale, _ = name.rsplit(".", 2)
        before = f"{block}.{'attn.proj' if scale == 'ls1' else 'mlp.fc2'}"
        weight, gamma = state.get(f"{before}.weight"), state[name]
        if weight is None or gamma.ndim != 1 or weight.shape[0] != len(gamma):
            continue  # named as unexpected
        state[f"{before}.weight"] = weight * gamma[:, None]
        if f"{before}.bias" in state:
            state[f"{before}.bias"] = state[f"{before}.bias"] * gamma
        del state[name]
    return {name: "scale of a layer, multiplied into the map before it" for name in folded if name not in state}


def _hugging_face(name: str) -> str:
    found = _HF_DECODER.fullmatch(name) or _HF.fullmatch(name)
    if found is None:
        return re.sub(r"((?:^|\.))classifier\.(weight|bias)$", r"\1head.\2", name)
    new = found["name"]
    for pattern, plain in _HF_NAMES:
        new = re.sub(f"^{pattern}", plain, new)
    for part, plain in _LAYER.items():
        new = re.sub(rf"^((?:decoder_)?blocks\.\d+)\.{re.escape(part)}\.", rf"\1.{plain}.", new)
    return found["before"] + new


def _clip(name: str) -> str:
    found = _CLIP.fullmatch(name)
    if found is None:
        return name
    new = found["name"]
    for pattern, plain in _CLIP_NAMES:
        if (place := re.match(pattern, new)) is not None:
            number = next((g for g in place.groups() if g is not None), None)
            rest = new[place.end() :]
            if number is None:
                return f"{found['before']}visual.{plain}{rest}"
            part = next((p for p in _CLIP_LAYER if rest.startswith(p)), "")
            return f"{found['before']}visual.blocks.{number}.{_CLIP_LAYER.get(part, '')}{rest[len(part) :]}"
    return f"{found['before']}visual.{new}"


def _joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with queries, keys and values of a layer as one."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        match = re.fullmatch(r"(.*\.attn\.)([qkv])(\.weight|\.bias)", name)
        parts = [state.get(f"{match[1]}{part}{match[3]}") for part in "qkv"] if match else []
        if match is None or any(part is None or part.shape != value.shape for part in parts):
            found[name] = value
        elif match[2] == "q":
            found[f"{match[1]}qkv{match[3]}"] = torch.cat([part for part in parts if part is not None])
    return found
