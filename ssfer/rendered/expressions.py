"""Expressions as recipes of facial actions (FACS's action units), named as the head's 52 actions.

After Ekman and Friesen's prototypes: happiness 6+12 (25, 26), surprise 1+2+5+26, sadness 1+4+15(+17),
anger 4+5+7+23/24, disgust 9+10(+17, 25), fear 1+2+4+5+20(+26). Values are those of the full expression (1 is the
artist's full action; the brow actions are small in these assets, so their values are larger). A rendering scales them
by an intensity and varies every action and side independently, so that pictures of a class differ.
"""

from collections.abc import Mapping

import numpy as np

from ssfer.core.labels import ANGER, DISGUST, FEAR, HAPPINESS, NEUTRAL, SADNESS, SURPRISE

RENDERED = (NEUTRAL, HAPPINESS, SURPRISE, SADNESS, ANGER, DISGUST, FEAR)

# Several variants per expression, drawn with equal probability. Names in ONE_SIDED without a side move both sides.
# fmt: off
RECIPES: Mapping[str, tuple[Mapping[str, float], ...]] = {
    NEUTRAL: (
        {"mouthClose": 0.06},
    ),
    HAPPINESS: (
        {"mouthSmile": 1.35, "cheekSquint": 1.0, "browOuterUp": 0.4, "eyeSquint": 0.4, "mouthDimple": 0.4,
         "mouthClose": 0.05},
        {"mouthSmile": 1.35, "cheekSquint": 1.0, "browOuterUp": 0.4, "eyeSquint": 0.4, "mouthUpperUp": 0.8,
         "jawOpen": 0.12},
        {"mouthSmile": 1.35, "cheekSquint": 1.1, "browOuterUp": 0.4, "eyeSquint": 0.5, "mouthUpperUp": 0.7,
         "jawOpen": 0.32},
    ),
    SURPRISE: (
        {"browInnerUp": 2.0, "browOuterUp": 1.4, "eyeWide": 1.2, "jawOpen": 0.5, "mouthFunnel": 0.3},
        {"browInnerUp": 2.0, "browOuterUp": 1.4, "eyeWide": 1.2, "jawOpen": 0.85},
    ),
    SADNESS: (
        {"browInnerUp": 1.9, "browDown": 0.4, "mouthFrown": 1.5, "mouthShrugLower": 0.5, "eyeSquint": 0.3,
         "mouthClose": 0.05},
        {"browInnerUp": 1.9, "browDown": 0.3, "mouthFrown": 1.7, "eyeLookDown": 0.5, "eyeBlink": 0.2,
         "mouthClose": 0.05},
    ),
    ANGER: (
        {"browDown": 2.0, "eyeSquint": 0.5, "eyeWide": 0.3, "mouthPress": 1.2, "mouthRollLower": 0.7,
         "mouthRollUpper": 0.5, "mouthClose": 0.06},
        {"browDown": 2.0, "eyeSquint": 0.5, "eyeWide": 0.3, "mouthLowerDown": 1.2, "mouthUpperUp": 0.6,
         "mouthStretch": 0.3, "mouthFunnel": 0.3},
    ),
    DISGUST: (
        {"noseSneer": 1.9, "mouthUpperUp": 1.5, "browDown": 0.4, "cheekSquint": 0.9, "eyeSquint": 0.8,
         "mouthFrown": 0.4},
        {"noseSneer": 1.9, "mouthUpperUp": 1.6, "browDown": 0.3, "cheekSquint": 0.8, "eyeSquint": 0.9,
         "mouthShrugLower": 0.6, "jawOpen": 0.08},
    ),
    FEAR: (
        {"browInnerUp": 1.8, "browOuterUp": 0.5, "browDown": 0.4, "eyeWide": 1.3, "mouthStretch": 1.5,
         "mouthLowerDown": 0.8, "jawOpen": 0.15},
        {"browInnerUp": 1.8, "browOuterUp": 0.5, "browDown": 0.4, "eyeWide": 1.3, "mouthStretch": 1.6,
         "jawOpen": 0.3},
    ),
}
ONE_SIDED = frozenset({
    "browDown", "browOuterUp", "cheekSquint", "eyeBlink", "eyeLookDown", "eyeLookIn", "eyeLookOut", "eyeLookUp",
    "eyeSquint", "eyeWide", "mouthDimple", "mouthFrown", "mouthLowerDown", "mouthPress", "mouthSmile", "mouthStretch",
    "mouthUpperUp", "noseSneer",
})
# Movements that are independent of the expression: (action, standard deviation), half-normal.
_IDLE = (
    ("jawOpen", 0.04), ("mouthPress", 0.2), ("mouthFrown", 0.12), ("mouthSmile", 0.08), ("eyeBlink", 0.08),
    ("browDown", 0.15), ("browInnerUp", 0.25), ("browOuterUp", 0.2), ("eyeSquint", 0.15), ("eyeWide", 0.15),
    ("noseSneer", 0.12), ("mouthUpperUp", 0.12), ("mouthStretch", 0.15), ("mouthPucker", 0.15),
)
# fmt: on


def both_sides(recipe: Mapping[str, float]) -> dict[str, float]:
    """Return the recipe with every one-sided action written out as Left and Right."""
    actions: dict[str, float] = {}
    for name, value in recipe.items():
        for full in (f"{name}Left", f"{name}Right") if name in ONE_SIDED else (name,):
            actions[full] = actions.get(full, 0.0) + value
    return actions


def draw_actions(rng: np.random.Generator, expression: str, intensity: float) -> dict[str, float]:
    """Return one person's facial actions (name -> weight) for an expression of the given intensity (0..1).

    Each action varies by 25 % and each side by another 8 %; idle movements and gaze are added to every expression.
    """
    variants = RECIPES[expression]
    recipe = variants[int(rng.integers(len(variants)))]
    moves = {name: value * intensity * rng.normal(1.0, 0.25) for name, value in recipe.items()}
    for name, sigma in _IDLE:
        moves[name] = moves.get(name, 0.0) + abs(rng.normal(0.0, sigma))
    actions = {name: value * rng.normal(1.0, 0.08) for name, value in both_sides(moves).items()}
    for name, value in _gaze(*rng.normal(0.0, 0.3, size=2)).items():
        actions[name] = actions.get(name, 0.0) + value
    return {name: float(max(value, 0.0)) for name, value in actions.items()}


def _gaze(right: float, up: float) -> dict[str, float]:
    """Return the actions that turn both eyes: `right` to image-right, `up` upward, in units of a full look action."""
    side, other = ("Left", "Right") if right > 0 else ("Right", "Left")
    vertical = "eyeLookUp" if up > 0 else "eyeLookDown"
    return {
        f"eyeLookOut{side}": abs(right),
        f"eyeLookIn{other}": abs(right),
        f"{vertical}Left": abs(up),
        f"{vertical}Right": abs(up),
    }
