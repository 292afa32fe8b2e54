"""ssfer.data.augmentations: boxes that follow painted rectangles, pure views, RandAugment (4, 4.1, 17, 18.18)."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from PIL.Image import Resampling
from timm.data.auto_augment import AugmentOp
from torch import Tensor
from torch.testing import assert_close
from torchvision.transforms import RandomResizedCrop

from ssfer.config.identity import science, settings
from ssfer.config.schema import load_params, parse_params
from ssfer.core.errors import SsferError
from ssfer.core.pixels import denormalize, normalize
from ssfer.data.augmentations import affine
from ssfer.data.augmentations.affine import Affine
from ssfer.data.augmentations.base import Crop, View, apply_crop, draw_crop, map_box
from ssfer.data.augmentations.eval import Eval
from ssfer.data.augmentations.registry import AUGMENTATIONS, build_augmentation
from ssfer.data.augmentations.strong import Strong
from ssfer.data.augmentations.weak import Weak

ROOT = Path(__file__).resolve().parents[2]
MEAN, STD = (0.588, 0.459, 0.402), (0.228, 0.202, 0.190)
RANDAUGMENT = "rand-m9-mstd0.5-inc1"


def picture(seed: int = 0, size: int = 48) -> Tensor:
    """Smooth colours: neighbouring pixels are alike, so that resizing does not scramble them."""
    g = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, 6, 6, generator=g)
    return (torch.nn.functional.interpolate(small, (size, size), mode="bicubic")[0].clamp(0, 1) * 255).byte()


def crops(n: int, size: int, seed: int = 0) -> list[Crop]:
    rng = np.random.default_rng(seed)
    return [draw_crop(rng, size, size, 0.2) for _ in range(n)]


# --- the box ---


@pytest.mark.parametrize(("flip", "expected"), [(False, (50.0, 50.0, 224.0, 224.0)), (True, (0.0, 50.0, 174.0, 224.0))])
def test_box_mapping_has_the_worked_values(flip: bool, expected: tuple[float, ...]) -> None:
    box = map_box(torch.tensor([25.0, 25, 220, 220]), Crop(0, 0, 112, 112, flip), 224)
    assert_close(box, torch.tensor(expected), rtol=0, atol=1e-4)


def test_box_follows_a_rectangle_painted_into_the_image() -> None:
    rng = np.random.default_rng(2)
    checked = 0
    for crop in crops(60, 64, seed=2):
        x1, y1 = (int(v) for v in rng.integers(4, 30, 2))
        x2, y2 = x1 + int(rng.integers(12, 30)), y1 + int(rng.integers(12, 30))
        image = torch.zeros(3, 64, 64, dtype=torch.uint8)
        image[:, y1:y2, x1:x2] = 255
        size = 96
        rows, columns = torch.nonzero(apply_crop(image, crop, size)[0] > 127, as_tuple=True)
        box = map_box(torch.tensor([x1, y1, x2, y2]).float(), crop, size)
        if len(rows) < 60:  # (almost) cropped away
            continue
        found = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        assert_close(found, box, rtol=0, atol=1.5, msg=lambda m, crop=crop: f"{crop}: {m}")
        checked += 1
    assert checked > 40


@pytest.mark.parametrize("crop", [Crop(0, 32, 20, 20, False), Crop(32, 0, 20, 20, True)])
def test_box_outside_the_crop_becomes_the_fallback_box(crop: Crop) -> None:
    box = map_box(torch.tensor([2.0, 2, 30, 30]), crop, 64)
    assert_close(box, torch.tensor([25.0, 25, 220, 220]) * 64 / 224, rtol=1e-6, atol=1e-6)


# --- the crop ---


def test_drawn_windows_lie_inside_with_legal_area_and_aspect() -> None:
    for crop in crops(500, 224):
        assert crop.top >= 0
        assert crop.left >= 0
        assert crop.top + crop.height <= 224
        assert crop.left + crop.width <= 224
        assert 0.195 <= crop.height * crop.width / 224**2 <= 1
        assert 0.74 <= crop.width / crop.height <= 1.35


def test_drawn_windows_have_the_distribution_of_torchvisions_random_resized_crop() -> None:
    ours = np.array([(c.height * c.width / 224**2, math.log(c.width / c.height), c.left) for c in crops(4000, 224)])
    torch.manual_seed(0)
    image = torch.empty(3, 224, 224)
    drawn = [RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    theirs = np.array([(h * w / 224**2, math.log(w / h), left) for _, left, h, w in drawn])
    for column, tolerance in ((0, 0.02), (1, 0.015), (2, 2.0)):
        assert ours[:, column].mean() == pytest.approx(theirs[:, column].mean(), abs=tolerance)
        assert ours[:, column].std() == pytest.approx(theirs[:, column].std(), rel=0.06)


def test_half_of_the_views_are_mirrored_independently_of_the_window() -> None:
    drawn = crops(4000, 224, seed=3)
    flips = np.array([c.flip for c in drawn], dtype=float)
    assert flips.mean() == pytest.approx(0.5, abs=0.03)
    for values in ([c.height for c in drawn], [c.left for c in drawn]):
        assert abs(np.corrcoef(flips, values)[0, 1]) < 0.06


def test_a_window_that_never_fits_is_the_whole_image() -> None:
    crop = draw_crop(np.random.default_rng(0), 100, 10, 0.99)
    assert crop[:4] == (0, 0, 100, 10)


def test_cropping_to_the_whole_image_at_its_own_size_is_the_identity() -> None:
    image = picture()
    assert torch.equal(apply_crop(image, Crop(0, 0, 48, 48, False), 48), image)
    assert torch.equal(apply_crop(image, Crop(0, 0, 48, 48, True), 48), image.flip(-1))


def pillow_view(image: Tensor, crop: Crop, size: int) -> Tensor:
    """The reference: torchvision's RandomResizedCrop and flip on a PIL image, for a window already drawn."""
    box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).crop(box).resize((size, size), Resampling.BICUBIC)
    return torch.from_numpy(np.array(ImageOps.mirror(picture) if crop.flip else picture)).permute(2, 0, 1)


def noise(seed: int, size: int) -> Tensor:
    return torch.randint(256, (3, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.mark.parametrize("kind", [picture, noise])
@pytest.mark.parametrize(("side", "size", "largest", "average"), [(224, 224, 2, 0.02), (64, 32, 24, 0.5)])
def test_weak_views_are_pillows_within_the_stated_tolerance(
    kind: Callable[[int, int], Tensor], side: int, size: int, largest: int, average: float
) -> None:
    flips = 0
    for key in range(25):
        image = kind(key, side)
        crop = Weak(size, 0.2).draw(key, side, side)
        flips += crop.flip
        found = Weak(size, 0.2)(image, BOX, key).image
        difference = (found.int() - pillow_view(image, crop, size).int()).abs()
        assert difference.max() <= largest
        assert difference.float().mean() < average
    assert 5 < flips < 20


def test_mirroring_before_resizing_gives_the_same_bits_as_after() -> None:
    rng = np.random.default_rng(5)
    for seed in range(200):
        image, (h, w) = noise(seed, 64), rng.integers(5, 65, 2).tolist()
        size = int(rng.integers(8, 80))
        plain, mirrored = (apply_crop(image, Crop(0, 64 - w, h, w, flip), size) for flip in (False, True))
        assert torch.equal(mirrored, plain.flip(-1))


def test_memory_layout_of_the_image_changes_nothing_and_views_are_channels_last() -> None:
    for size in (32, 80):
        for crop in crops(20, 64, seed=4):
            image = noise(1, 64)
            channels_last = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
            out = apply_crop(channels_last, crop, size)
            assert torch.equal(out, apply_crop(image, crop, size))
            assert out.permute(1, 2, 0).is_contiguous()


# --- views ---


def transforms() -> dict[str, Weak | Strong | Eval]:
    return {"weak": Weak(32, 0.2), "strong": Strong(32, 0.2, RANDAUGMENT, MEAN), "eval": Eval(32)}


BOX = torch.tensor([6.0, 5, 40, 44])


def same(a: View, b: View) -> bool:
    return torch.equal(a.image, b.image) and torch.equal(a.box, b.box)


@pytest.mark.parametrize("name", sorted(transforms()))
def test_a_view_is_a_function_of_image_and_key_alone(name: str) -> None:
    image, before, box = picture(), picture(), BOX.clone()
    first = [transforms()[name](image, box, key) for key in range(20)]
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)
    transform = transforms()[name]
    second = {key: transform(image, box, key) for key in reversed(range(20))}
    assert all(same(first[key], second[key]) for key in range(20))
    assert torch.equal(image, before)
    assert torch.equal(box, BOX)


@pytest.mark.parametrize("name", ["weak", "strong"])
def test_other_keys_give_other_views(name: str) -> None:
    views = [transforms()[name](picture(), BOX, key) for key in range(30)]
    assert len({v.image.numpy().tobytes() for v in views}) == 30
    assert len({tuple(v.box.tolist()) for v in views}) > 20


@pytest.mark.parametrize("name", sorted(transforms()))
def test_views_are_bytes_of_the_asked_size_with_a_legal_box(name: str) -> None:
    for key in (0, 1, 2**62 + 3, 2**63 - 1):
        view = transforms()[name](picture(), BOX, key)
        assert view.image.shape == (3, 32, 32)
        assert view.image.dtype == torch.uint8
        assert view.box.dtype == torch.float32
        x1, y1, x2, y2 = view.box.tolist()
        assert 0 <= x1 < x2 <= 32
        assert 0 <= y1 < y2 <= 32


def test_weak_view_is_the_drawn_crop_and_its_box() -> None:
    image = picture()
    for key in range(10):
        crop = draw_crop(np.random.Generator(np.random.Philox(key)), 48, 48, 0.2)
        assert same(Weak(32, 0.2)(image, BOX, key), View(apply_crop(image, crop, 32), map_box(BOX, crop, 32)))


def test_strong_view_has_the_crop_and_the_box_of_a_weak_view_and_other_pixels() -> None:
    weak, strong = transforms()["weak"], transforms()["strong"]
    pairs = [(weak(picture(), BOX, key), strong(picture(), BOX, key)) for key in range(60)]
    assert all(torch.equal(w.box, s.box) for w, s in pairs)
    # Neither of two operations is applied with probability 1/4; some operations change nothing.
    unchanged = sum(torch.equal(w.image, s.image) for w, s in pairs)
    assert 5 <= unchanged <= 35


# --- RandAugment ---


def ops(randaugment: str = RANDAUGMENT) -> dict[str, AugmentOp]:
    return {op.name: op for op in Strong(32, 0.2, randaugment, MEAN).augment.ops}


def test_randaugment_draws_two_of_the_fifteen_operations() -> None:
    augment = Strong(32, 0.2, RANDAUGMENT, MEAN).augment
    assert augment.num_layers == 2
    assert augment.choice_weights is None  # uniform, with replacement
    assert {op.name for op in augment.ops} == {
        *("AutoContrast", "Equalize", "Invert", "Rotate", "PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd"),
        *("ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing"),
        *("ShearX", "ShearY", "TranslateXRel", "TranslateYRel"),
    }
    assert len(augment.ops) == 15


def test_every_operation_has_the_specified_probability_magnitude_and_fill() -> None:
    for op in ops().values():
        assert (op.prob, op.magnitude, op.magnitude_std, op.magnitude_max) == (0.5, 9, 0.5, None)
        assert op.kwargs == {"fillcolor": (150, 117, 103), "resample": Resampling.BICUBIC}


def test_geometric_gaps_are_filled_with_the_mean_colour() -> None:
    op = ops("rand-m10-mstd0-inc1-p1")["TranslateXRel"]
    random.seed(0)
    moved = np.array(op(Image.new("RGB", (40, 40))))  # 18 of 40 black columns leave the picture
    filled = (moved == (150, 117, 103)).all(axis=2).sum(axis=1)
    assert filled.tolist() == [18] * 40


# --- evaluation and normalisation ---


def test_eval_transform_only_normalises_an_image_of_the_right_size() -> None:
    image = torch.arange(3 * 224 * 224).remainder(256).byte().view(3, 224, 224)
    box = torch.tensor([25.0, 25, 220, 220])
    view = Eval(224)(image, box, 5)
    assert torch.equal(view.image, image)
    assert torch.equal(view.box, box)
    back = denormalize(normalize(view.image[None], MEAN, STD), MEAN, STD)[0]
    assert (back - image.float() / 255).abs().max() < 1e-5 < 1 / 255


@pytest.mark.parametrize("size", [24, 96])
def test_eval_transform_resizes_image_and_box_bilinearly_without_cropping(size: int) -> None:
    image = picture(2)
    view = Eval(size)(image, BOX, 0)
    pil = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((size, size), Resampling.BILINEAR)
    assert (view.image.int() - torch.from_numpy(np.array(pil)).permute(2, 0, 1).int()).abs().max() <= 1
    assert_close(view.box, BOX * size / 48, rtol=1e-6, atol=1e-6)


def test_normalize_agrees_with_the_loop_and_keeps_its_input() -> None:
    images = torch.stack([picture(3, 4), picture(4, 4)])
    before = images.clone()
    out = normalize(images, MEAN, STD)
    for c in range(3):
        for value, found in zip(images[:, c].flatten().tolist(), out[:, c].flatten().tolist(), strict=True):
            assert found == pytest.approx((value / 255 - MEAN[c]) / STD[c], abs=1e-5)
    assert torch.equal(images, before)


def test_normalized_images_are_contiguous_whatever_they_were() -> None:
    images = torch.stack([noise(1, 8), noise(2, 8)])
    out = normalize(images.contiguous(memory_format=torch.channels_last), MEAN, STD)
    assert out.is_contiguous()
    assert torch.equal(out, normalize(images, MEAN, STD))


def test_denormalize_clips_to_zero_and_one() -> None:
    out = denormalize(torch.tensor([-100.0, 0, 100]).view(1, 3, 1, 1).expand(1, 3, 2, 2), MEAN, STD)
    assert_close(out[0, :, 0, 0], torch.tensor([0.0, MEAN[1], 1.0]), rtol=1e-6, atol=1e-6)


# --- by name

OWN = """
from pydantic import Field
from ssfer.data.augmentations.eval import Eval

class Dark(Eval):
    class Settings(Eval.Settings):
        min_scale: float = Field(1.0)

    def __init__(self, size, min_scale):
        super().__init__(size)
        self.min_scale = min_scale

    def render(self, image, crop, key):
        return super().render(image, crop, key) // 2

class Bright:
    pass
"""


def test_views_are_built_by_name_from_the_stages_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    stage = load_params(ROOT / "params.yaml").semisup
    image = picture()
    named = {name: build_augmentation(name, stage, {}, 32, MEAN)(image, BOX, 3) for name in AUGMENTATIONS}
    made = {"weak": Weak(32, 0.7), "strong": Strong(32, 0.7, stage.randaugment, MEAN), "eval": Eval(32)}
    assert all(same(named[name], view(image, BOX, 3)) for name, view in made.items())
    own = build_augmentation("./own.py:Dark", stage, {}, 32, MEAN)
    assert own.min_scale == 0.7
    assert torch.equal(own(image, BOX, 3).image, named["eval"].image // 2)


SHADE = """
from ssfer.data.augmentations.weak import Weak

class Shade(Weak):
    class Settings(Weak.Settings):
        divisor: int

    def __init__(self, size, min_scale, divisor):
        super().__init__(size, min_scale)
        self.divisor = divisor
"""


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    values = load_params(ROOT / "params.yaml").model_dump(mode="json")
    (tmp_path / "shade.py").write_text(SHADE)
    monkeypatch.chdir(tmp_path)
    values["finetune"]["view"] = "./shade.py:Shade"
    values["augmentations"] = {"shade": {"divisor": 3}, "strong": {"min_scale": 0.4}}
    return values


def test_an_augmentations_section_comes_before_the_stages_keys(raw: dict[str, Any]) -> None:
    params = parse_params(raw)
    shade = build_augmentation(params.finetune.view, params.finetune, params.augmentations, 32, MEAN)
    assert (shade.divisor, shade.min_scale) == (3, 0.7)
    strong = build_augmentation("strong", params.semisup, params.augmentations, 32, MEAN)
    assert strong.min_scale == 0.4


def test_an_augmentations_settings_count_where_it_is_used(raw: dict[str, Any]) -> None:
    before = {stage: settings(stage, parse_params(raw)) for stage in ("finetune", "semisup", "evaluate")}
    science_before = science(parse_params(raw))
    raw["augmentations"]["shade"]["divisor"] = 4
    after = {stage: settings(stage, parse_params(raw)) for stage in before}
    assert {stage for stage in before if before[stage] != after[stage]} == {"finetune"}
    assert science_before != science(parse_params(raw))
    raw["finetune"]["view"] = "weak"  # the section may stay
    assert not any(key.startswith("augmentations.shade") for key in science(parse_params(raw)))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({}, "key 'augmentations.shade.divisor' is missing"),
        ({"shade": {"divisor": 3, "minscale": 0.4}}, "'augmentations.shade.minscale'; did you mean 'min_scale'?"),
        ({"shade": {"divisor": 0.5}}, r"'augmentations.shade.divisor': .* \(found 0.5\)"),
        ({"shade": 3}, "'augmentations.shade': .*dictionary"),
        (
            {"shade": {"divisor": 3}, "affine": {"min_scal": 0.4}},
            "'augmentations.affine.min_scal'; did you mean 'min_scale'",
        ),
        ({"shade": {"divisor": 3}, "stong": {}}, "'augmentations.stong': unknown augmentation 'stong'; .* 'strong'"),
    ],
)
def test_a_bad_section_of_an_augmentation_is_one_sentence(raw: dict[str, Any], sections: Any, message: str) -> None:
    with pytest.raises(SsferError, match=message):
        parse_params(raw | {"augmentations": sections})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./own.py", "names a file; expected the class in it too, as ./own.py:Name"),
        ("wek", r"unknown augmentation 'wek'; did you mean 'weak'\? \(known: affine, eval, strong, weak\)"),
        ("./own.py:Bright", "is no augmentation: expected a class derived from Transform"),
        ("./own.py:Blur", "own.py has no class Blur"),
        ("./none.py:Blur", "there is no file ./none.py"),
    ],
)
def test_a_wrong_view_is_refused_in_params(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = load_params(ROOT / "params.yaml").model_dump(mode="json")
    raw["semisup"]["strong_view"] = name
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SsferError, match=message):
        parse_params(raw)


# --- the affine view ---


def test_affine_without_turn_and_light_is_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affine, "TURN", 0.0)
    monkeypatch.setattr(affine, "LIGHT", 0.0)
    image = picture(3)
    for key in range(8):
        view = Affine(40, 0.6)(image, torch.tensor([8.0, 8, 40, 40]), key)
        plain = Weak(40, 0.6)(image, torch.tensor([8.0, 8, 40, 40]), key)
        assert torch.equal(view.box, plain.box)
        assert (view.image.float() - plain.image.float()).abs().mean() < 2  # bilinear against bicubic, of 255


def test_affine_turns_about_the_middle_both_ways() -> None:
    image = torch.zeros(3, 49, 49, dtype=torch.uint8)
    image[:, 4, 24] = 255  # a point above the middle
    view = Affine(49, 1.0)
    places = []
    for key in range(60):
        found = view.render(image, Crop(0, 0, 49, 49, False), key).float()
        y, x = divmod(int(found[0].argmax()), 49)
        places.append(x - 24)
        assert abs(math.hypot(y - 24, x - 24) - 20) < 1.5
    limit = 20 * math.sin(math.radians(affine.TURN)) + 1
    assert -limit <= min(places) < -2 and 2 < max(places) <= limit


def test_affine_draws_light_evenly_about_none_and_is_a_function_of_the_key() -> None:
    view, crop = Affine(32, 1.0), Crop(0, 0, 32, 32, False)
    grey = torch.full((3, 32, 32), 128, dtype=torch.uint8)
    levels = torch.stack([view.render(grey, crop, key)[0, 0, 0] for key in range(200)]).float()
    assert 75 < levels.min() < 90 and 165 < levels.max() < 181 and 122 < levels.mean() < 134
    assert torch.equal(view.render(picture(), crop, 5), view.render(picture(), crop, 5))
