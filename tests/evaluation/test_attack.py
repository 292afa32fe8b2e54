"""Grad-CAM and masked FGSM: closed forms, invariant 19 of the specification, and the numbers of two libraries."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ssfer.core.pixels import normalize
from ssfer.evaluation.attack.batch import AttackedBatch, Setting
from ssfer.evaluation.attack.fgsm import ascent, perturb
from ssfer.evaluation.attack.forward import Triple, logits_of, predicted_class, to_pixels
from ssfer.evaluation.attack.gradcam import grad_cam, min_max
from ssfer.evaluation.attack.masks import REGIONS, regions
from ssfer.report.attack_pictures import Face, accuracy_png, faces_png
from tests.support.attack_golden import EPSILON, LABELS, MEAN, STD, images, tiny_vit

# As printed by tests/support/attack_golden.py with torchattacks 3.5.1 and grad-cam 1.5.7 (torch 2.14.1, CPU).
UPWARD = (  # per image: where torchattacks.FGSM brightens, 3 x 16 x 16 bits
    "27739dd915553eee33229999551562a63231991d15552eee7133dd995551eea3b31a8339c554baaabaab199a4444abbb"
    "ab3a9bbf5445bbaa3baaaf99454caaad3bbbaffa2222300133baaaaa22a25513bbbbaabea2221150bb33feaa222a0011",
    "2022aceea8cc3f7b2220ccec4cc0f7bf0202cecf8c48fbf32002fceecc8cbebbe6ce1333b7fb546564e633335ff74656"
    "4e5e33337b7f7545e4eeb333d7ff5655b9abefb2ffff3a339aa8fbbfffff23328a9abbfafffda323b8baafabdfdf3233",
    "cccc6666aeeaccccccdc66e6eaeacc8ccccc6666eaeacccccccc6666ebebccccc44d6774f77f64644d4c747c7b7b6464"
    "44447777777766464c4c7574777f446444445d545555eeaec4c455d55555eaea4c44d5555555eeea44c455555555aeae",
)
MAPS = (  # pytorch_grad_cam.GradCAM at pixels 1, 5, 9, 13 of each side
    [
        [0.601742, 0.150988, 0.010824, 0.0],
        [0.075218, 0.018873, 0.001353, 0.695685],
        [0.0, 0.776503, 0.401174, 0.140847],
        [0.875, 0.220304, 0.057311, 0.005923],
    ],
    [
        [1.0, 0.125, 0.718346, 0.102621],
        [0.125, 0.424446, 0.165374, 0.015282],
        [0.285886, 0.094139, 0.181213, 0.024696],
        [0.040841, 0.4784, 0.301434, 0.033403],
    ],
    [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]],
)


def fgsm(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, mean: Triple, std: Triple, *more: Any) -> Tensor:
    return perturb(x, ascent(model, x, y, mean, std), epsilon, std, *more)


class Linear(nn.Module):
    """Two classes, logits = W x over all pixels of 2 x 2 images: the gradient's sign is known without calculus."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(np.random.RandomState(3).standard_normal((2, 12))).float())

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


@pytest.fixture
def linear() -> nn.Module:
    return Linear().eval()


@pytest.fixture(scope="module")
def vit() -> VisionTransformer:
    return tiny_vit()


def squares() -> Tensor:
    return torch.from_numpy(np.random.RandomState(5).uniform(0, 1, (6, 3, 2, 2))).float()


def test_forward_is_that_of_evaluate_bit_for_bit(vit: VisionTransformer) -> None:
    stored = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (4, 3, 16, 16), dtype=np.uint8))
    with torch.inference_mode():
        assert torch.equal(logits_of(vit, to_pixels(stored), MEAN, STD), vit(normalize(stored, MEAN, STD)))


def test_training_mode_is_refused(linear: nn.Module) -> None:
    with pytest.raises(ValueError, match="eval mode"):
        fgsm(linear.train(), squares(), torch.zeros(6, dtype=torch.long), 0.1, MEAN, STD)


# FGSM


def test_step_of_a_linear_model_is_known(linear: nn.Module) -> None:
    """Two classes: CE falls with the logit of the truth and grows with the other, whatever the probabilities are."""
    x, y = squares(), torch.tensor([0, 1, 0, 1, 0, 1])
    toward_one = (linear.weight[1] - linear.weight[0]).sign().view(3, 2, 2)
    expected = torch.where(y.view(-1, 1, 1, 1) == 0, x + 0.3 * toward_one, x - 0.3 * toward_one)
    found = fgsm(linear, x, y, 0.3, MEAN, STD)
    assert torch.equal(found, expected.clamp(0, 1))
    assert bool((expected < 0).any()) and bool((expected > 1).any()), "both ends are clipped somewhere"


def test_a_pixel_without_influence_stays(linear: nn.Module) -> None:
    with torch.no_grad():
        linear.weight[:, 5] = 0
    x = squares()
    moved = fgsm(linear, x, torch.zeros(6, dtype=torch.long), 0.1, MEAN, STD) - x
    assert bool((moved.flatten(1)[:, 5] == 0).all())
    assert (moved == 0).sum() == 6


def test_epsilon_inside_the_mask_nothing_outside(vit: VisionTransformer) -> None:
    mask = torch.from_numpy(np.random.RandomState(1).rand(3, 1, 16, 16) < 0.4)
    moved = (fgsm(vit, images(), LABELS, EPSILON, MEAN, STD, mask) - images()).abs()
    inside = mask.expand_as(moved)
    assert bool((moved[~inside] == 0).all())
    torch.testing.assert_close(moved[inside], torch.full_like(moved[inside], EPSILON), rtol=0, atol=1e-6)


def test_normalized_space_is_fgsm_on_the_networks_input(vit: VisionTransformer) -> None:
    """Oracle: take the gradient with respect to the normalized input, step there, keep it a possible picture."""
    center, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    z = ((images() - center) / scale).requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(vit(z), LABELS), z)
    attacked = (z + 0.5 * gradient.sign()).clamp((0 - center) / scale, (1 - center) / scale)
    found = fgsm(vit, images(), LABELS, 0.5, MEAN, STD, None, "normalized")
    torch.testing.assert_close((found - center) / scale, attacked, rtol=0, atol=2e-6)
    moved = (found - images()).abs().amax(dim=(0, 2, 3))
    torch.testing.assert_close(moved, 0.5 * torch.tensor(STD), rtol=0, atol=1e-6)


def test_images_of_a_batch_do_not_influence_each_other(vit: VisionTransformer) -> None:
    one_by_one = [ascent(vit, images()[i : i + 1], LABELS[i : i + 1], MEAN, STD) for i in range(3)]
    assert torch.equal(torch.cat(one_by_one), ascent(vit, images(), LABELS, MEAN, STD))
    maps = [grad_cam(vit, images()[i : i + 1], MEAN, STD) for i in range(3)]
    torch.testing.assert_close(torch.cat(maps), grad_cam(vit, images(), MEAN, STD), rtol=0, atol=1e-5)


@pytest.mark.parametrize("frozen", [True, False])
def test_inputs_and_parameters_are_left_alone(frozen: bool) -> None:
    model, x = tiny_vit().requires_grad_(not frozen), images()
    for p in model.parameters():
        p.grad = torch.full_like(p, 3.0)
    hooks = len(model.blocks[-1].norm1._forward_hooks)
    with torch.no_grad():  # the caller's grad mode does not matter, either
        fgsm(model, x, LABELS, EPSILON, MEAN, STD)
        cam = grad_cam(model, x, MEAN, STD)
    assert torch.equal(x, images()) and not x.requires_grad and not cam.requires_grad
    assert all(bool((p.grad == 3).all()) and p.requires_grad is not frozen for p in model.parameters())
    assert len(model.blocks[-1].norm1._forward_hooks) == hooks


def test_hook_is_removed_when_the_model_fails(vit: VisionTransformer) -> None:
    with pytest.raises(AssertionError):
        grad_cam(vit, torch.zeros(1, 3, 8, 8), MEAN, STD)
    assert not vit.blocks[-1].norm1._forward_hooks


def test_fgsm_equals_torchattacks(vit: VisionTransformer) -> None:
    expected = np.stack([np.unpackbits(np.frombuffer(bytes.fromhex(row), np.uint8)) for row in UPWARD]).astype(bool)
    moved = (fgsm(vit, images(), LABELS, EPSILON, MEAN, STD) - images()).numpy().reshape(3, -1)
    assert np.array_equal(moved > 0, expected)
    np.testing.assert_allclose(np.abs(moved), EPSILON, rtol=0, atol=1e-6)


# Grad-CAM


def test_grad_cam_equals_the_library(vit: VisionTransformer) -> None:
    """The library scales to 0..1 once more after enlarging; ours stays as the specification has it."""
    assert predicted_class(vit, images(), MEAN, STD).tolist() == [1, 2, 0]  # other than LABELS: the target is this
    cam = grad_cam(vit, images(), MEAN, STD)
    assert cam.shape == (3, 16, 16)
    np.testing.assert_allclose(min_max(cam)[:, 1::4, 1::4], MAPS, rtol=0, atol=2e-5)
    assert 0.98 < float(cam[0].max()) < 0.99, "scaled before it is enlarged, once"
    assert bool((cam[2] == 0).all()), "nothing speaks for the class: no focus, not NaN"


class OnTokens(nn.Module):
    """A stand-in for a ViT whose gradients are plain: the four pixels of a 2 x 2 image are its tokens, after one more.

    logits_k = sum over tokens n of A[k, n] . token_n, so d logit_k / d token_n = A[k, n].
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        block = nn.Module()
        block.norm1 = nn.Identity()
        self.blocks, self.weight = nn.ModuleList([block]), weight
        self.num_prefix_tokens = 1
        self.patch_embed = nn.Module()
        self.patch_embed.grid_size = (2, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = F.pad(x.flatten(2).transpose(1, 2), (0, 0, 1, 0), value=9.0)  # (B, 1 + 4, 3)
        return torch.einsum("knd,bnd->bk", self.weight, self.blocks[0].norm1(tokens))


def test_map_of_a_hand_built_model() -> None:
    weight = torch.zeros(2, 5, 3)
    weight[0, 0] = 100.0  # the class token's gradient must not count
    weight[0, 1:, 0] = torch.tensor([4.0, 0.0, 0.0, 0.0])  # red: mean 1
    weight[0, 1:, 1] = torch.tensor([0.0, -2.0, 0.0, -6.0])  # green: mean -2
    weight[1, 1:, 2] = 1.0  # blue speaks for the other class only
    x = torch.tensor([[[0.2, 0.8], [0.4, 0.5]], [[0.0, 0.1], [0.4, 0.05]], [[0.9, 0.1], [0.3, 0.2]]])[None]
    # class 0: relu(red - 2 green) = .2, .6, relu(-.4) = 0, .4; scaled by .6
    cam = grad_cam(OnTokens(weight).eval(), x, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # type: ignore[arg-type]
    torch.testing.assert_close(cam[0], torch.tensor([[0.2, 0.6], [0.0, 0.4]]) / 0.6)
    weight[0, 0] = -100.0  # now class 1 wins: blue = .9, .1, .3, .2
    cam = grad_cam(OnTokens(weight).eval(), x, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # type: ignore[arg-type]
    torch.testing.assert_close(cam[0], (torch.tensor([[0.9, 0.1], [0.3, 0.2]]) - 0.1) / 0.8)


# Regions and batches


def test_regions_partition_the_image_and_the_threshold_itself_is_not_focused() -> None:
    cam = torch.tensor([[[0.0, 0.3], [0.3001, 1.0]]])
    found = regions(cam, 0.3, torch.tensor([5]))
    assert tuple(found) == REGIONS == ("focused", "unfocused", "random")
    assert found["focused"].tolist() == [[[[False, False], [True, True]]]]
    assert bool((found["focused"] ^ found["unfocused"]).all())


def test_random_pixels_are_as_many_as_the_focused_ones_and_follow_from_the_images_key_alone() -> None:
    cam = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(4))
    cam *= torch.tensor([1.0, 0.5, 0.1])[:, None, None]
    keys = torch.tensor([7, 8, 9])
    found = regions(cam, 0.3, keys)
    count = found["focused"].sum(dim=(1, 2, 3))
    assert torch.equal(found["random"].sum(dim=(1, 2, 3)), count) and count[0] > count[1] > count[2] == 0
    assert torch.equal(regions(cam[1:2], 0.3, keys[1:2])["random"][0], found["random"][1])
    assert not torch.equal(regions(cam[1:2], 0.3, keys[:1])["random"][0], found["random"][1])
    share = regions(torch.ones(400, 4, 4) * (torch.arange(16).view(4, 4) < 4), 0.3, torch.arange(400))["random"]
    assert share.float().mean(dim=0).sub(0.25).abs().max() < 0.08, "every place is drawn equally often"


KEYS = torch.arange(len(LABELS))
SETTING = Setting(0.3, "pixel", MEAN, STD)


def test_batch_attacks_the_region_it_names(vit: VisionTransformer) -> None:
    batch = AttackedBatch(vit, images(), LABELS, KEYS, SETTING)
    assert torch.equal(batch.cam, grad_cam(vit, images(), MEAN, STD))
    for region in REGIONS:
        expected = fgsm(vit, images(), LABELS, 0.06, MEAN, STD, regions(batch.cam, 0.3, KEYS)[region])
        assert torch.equal(batch.images(region, 0.06), expected)
        assert torch.equal(batch.predicted(region, 0.06), predicted_class(vit, expected, MEAN, STD))
    both = batch.images("focused", 0.06) + batch.images("unfocused", 0.06) - images()
    torch.testing.assert_close(both, fgsm(vit, images(), LABELS, 0.06, MEAN, STD), rtol=0, atol=1e-6)


def test_both_settings_of_a_batch_matter(vit: VisionTransformer) -> None:
    base = AttackedBatch(vit, images(), LABELS, KEYS, SETTING)
    strict = AttackedBatch(vit, images(), LABELS, KEYS, Setting(0.6, "pixel", MEAN, STD))
    assert 0 < strict.masks["focused"].sum() < base.masks["focused"].sum()
    other = AttackedBatch(vit, images(), LABELS, KEYS, Setting(0.3, "normalized", MEAN, STD))
    direction = ascent(vit, images(), LABELS, MEAN, STD)
    expected = perturb(images(), direction, 0.06, STD, base.masks["focused"], "normalized")
    assert torch.equal(other.images("focused", 0.06), expected)
    assert not torch.equal(expected, base.images("focused", 0.06))


def test_clean_predictions_at_epsilon_zero(vit: VisionTransformer) -> None:
    batch = AttackedBatch(vit, images(), LABELS, KEYS, SETTING)
    for region in REGIONS:
        assert torch.equal(batch.predicted(region, 0.0), predicted_class(vit, images(), MEAN, STD))


# Pictures


def measured(lowest: float) -> dict[str, object]:
    found = {e: {"accuracy": a, "accuracy_ci95": [a - 0.05, a + 0.05]} for e, a in (("0", 0.8), ("0.1", lowest))}
    return {**dict.fromkeys(REGIONS, found), "focused_share": 0.2, "without_focus": 0}


def face(cam: Tensor, predicted: str = "fear") -> Face:
    picture = np.full((16, 16, 3), 0.5)
    return Face("anger", (picture, "anger"), cam.numpy(), {region: (picture, predicted) for region in REGIONS})


def test_pictures_have_equal_bytes_each_time_and_follow_the_numbers() -> None:
    curves = [accuracy_png({"teacher": measured(low)}, 0.14) for low in (0.3, 0.3, 0.2)]
    assert curves[0][:8] == b"\x89PNG\r\n\x1a\n"
    assert curves[0] == curves[1] != curves[2]
    cam = torch.rand(16, 16, generator=torch.Generator().manual_seed(1))
    first, again, *others = (
        faces_png([face(of, predicted)], threshold, 0.1)
        for of, predicted, threshold in (
            (cam, "fear", 0.3), (cam, "fear", 0.3), (cam.flip(0), "fear", 0.3), (cam, "anger", 0.3), (cam, "fear", 0.6),
        )
    )  # fmt: skip
    assert first == again
    assert first not in others


def test_a_map_without_border_draws_without_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for level in (0.0, 1.0):
            assert faces_png([face(torch.full((16, 16), level))], 0.3, 0.1)
