"""The sentences of SIT-FER's text level: their settings, and which ones each class gets (specification, section 3)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ssfer.core.errors import SsferError
from ssfer.core.labels import EXPRESSIONS
from ssfer.core.settings import Above, Layers, NonNegative, Positive, Section, Sha256, Temperature, Text

PLACE = "{expression}"
Sentences = Sequence[Sequence[str]]  # of each class


class TextSettings(Section):
    """The text level: one sentence per class, or several."""

    encoder: Literal["learned", "open_clip", "prototype", "frozen_random"] = Field(
        "learned", description="learned | open_clip (frozen, weights needed) | prototype (no meaning) | frozen_random."
    )
    prompts: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        ("A face image of {expression}",), description="Sentences; the embeddings of several are averaged."
    )
    words: dict[str, str] = Field(
        {
            "neutral": "neutral",
            "happiness": "happy",
            "surprise": "surprise",
            "sadness": "sad",
            "anger": "angry",
            "disgust": "disgust",
            "fear": "fear",
            "contempt": "contempt",
        },
        description="What each class is called in a sentence; every class needs a word of its own.",
    )
    descriptions: dict[str, tuple[str, ...]] = Field(
        {name: () for name in EXPRESSIONS},
        description="Further sentences per class, also averaged; profile sitfer_descriptions has four each.",
    )
    tau: Temperature = Field(0.1, description="Temperature of the cosines.")
    seed: NonNegative = Field(2024, description="Seed of all that is drawn for the text level.")
    width: Positive = Field(
        96, description="Width of the embeddings; not for open_clip, whose model sets it (paper: 512)."
    )
    layers: Layers = Field(3, description="Layers of encoders learned and frozen_random.")
    heads: Positive = Field(8, description="Attention heads of encoders learned and frozen_random.")
    lr_scale: Above = Field(1.0, description="Encoder learned: its learning rate as a multiple of semisup.lr.")
    clip_model: str = Field("ViT-B-32", description="Encoder open_clip: its name of the model.")
    clip_weights: Text | None = Field(
        None, description="Encoder open_clip: file below the project's root; `ssfer fetch clip` gets one."
    )
    clip_sha256: Sha256 | None = Field(
        None, description="Encoder open_clip: that file's sha256 or its beginning; cached embeddings need no file."
    )

    @field_validator("descriptions", mode="before")
    @classmethod
    def _lists(cls, raw: Any) -> Any:
        """Turn lists, which YAML has, into tuples."""
        return {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()} if isinstance(raw, dict) else raw

    @model_validator(mode="after")
    def _check(self) -> TextSettings:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        if self.encoder == "open_clip" and (self.clip_weights is None or self.clip_sha256 is None):
            raise ValueError("encoder open_clip needs clip_weights and clip_sha256, a file and its hash")
        return self


def class_sentences(params: TextSettings, classes: Sequence[str]) -> list[list[str]]:
    """Return for each class, in index order, its sentence from each template and its descriptions.

    Raises:
        SsferError: a class without a word, two classes with the same word or description, a template that does not name
            the class.
    """
    where = "methods.sitfer.text"
    if not classes:
        raise SsferError(f"{where}: class names are needed for sentences, and none are known")
    for template in params.prompts:
        if PLACE not in template:
            raise SsferError(f"{where}.prompts: '{template}' lacks {PLACE}, so it would say the same of every class")
    missing = [name for name in classes if name not in params.words]
    if missing:
        raise SsferError(
            f"{where}.words has no word for {', '.join(missing)}; expected one for each of the {len(classes)} classes"
        )
    words = [" ".join(tokens(params.words[name])) for name in classes]
    for i, word in enumerate(words):
        if not word or word in words[:i]:
            raise SsferError(
                f"{where}.words: '{params.words[classes[i]]}' for {classes[i]} is empty or that of another class; "
                "the classes need words that differ"
            )
    of: dict[str, str] = {}
    for name in classes:
        for sentence in params.descriptions.get(name, ()):
            plain = " ".join(tokens(sentence))
            if not plain or of.setdefault(plain, name) != name:
                raise SsferError(
                    f"{where}.descriptions: '{sentence}' for {name} is empty or that of another class; a description "
                    "must tell its class from the others"
                )
    named = [[template.replace(PLACE, params.words[name]) for template in params.prompts] for name in classes]
    return [[*own, *params.descriptions.get(name, ())] for own, name in zip(named, classes, strict=True)]


def tokens(sentence: str) -> list[str]:
    """Return the words of a sentence in lower case, without punctuation."""
    return re.findall(r"\w+(?:[-']\w+)*", sentence.lower())
