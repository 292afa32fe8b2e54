"""Text encoders: one sentence per class becomes one embedding of length one (SIT-FER, section 3 of its specification).

A text encoder is a module that is called without arguments and returns the class embeddings (C, D_t). `learned` has
parameters and is trained; the others hold a fixed matrix.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from ssfer.core.errors import SsferError
from ssfer.core.settings import Above, NonNegative, Positive, Section, Sha256, Text
from ssfer.formats.clip import embeddings
from ssfer.models.clip_text import clip_embeddings

PLACE = "{expression}"
CONTEXT = 77  # words a sentence may have; as CLIP
Sentences = Sequence[Sequence[str]]  # of each class, one per template


class TextSettings(Section):
    """The text level: one sentence per class."""

    encoder: Literal["learned", "open_clip", "prototype", "frozen_random"] = Field(
        "learned", description="learned | open_clip (frozen, weights needed) | prototype (no meaning) | frozen_random."
    )
    prompts: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        ("A face image of {expression}",), description="Sentences; several: their mean."
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
    tau: Above = Field(0.1, description="Temperature of the cosines.")
    seed: NonNegative = Field(2024, description="Seed of all that is drawn for the text level.")
    width: Positive = Field(
        96, description="Width of the embeddings, but for open_clip, whose model has one (paper: 512)."
    )
    layers: Positive = Field(3, description="Layers of encoders learned and frozen_random.")
    heads: Positive = Field(8, description="Attention heads of encoders learned and frozen_random.")
    lr_scale: Above = Field(1.0, description="Encoder learned: its learning rate, in semisup.lr's.")
    clip_model: str = Field("ViT-B-32", description="Encoder open_clip: its name there.")
    clip_weights: Text | None = Field(
        None, description="Encoder open_clip: file below the project's root; `ssfer fetch clip` gets one."
    )
    clip_sha256: Sha256 | None = Field(
        None, description="Encoder open_clip: that file's sha256 or its beginning; known embeddings need no file."
    )

    @model_validator(mode="after")
    def _check(self) -> TextSettings:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        if self.encoder == "open_clip" and (self.clip_weights is None or self.clip_sha256 is None):
            raise ValueError("encoder open_clip needs clip_weights and clip_sha256, a file and its hash")
        return self


def class_sentences(params: TextSettings, classes: Sequence[str]) -> list[list[str]]:
    """Return for each class, in index order, its sentence by each template.

    Raises:
        SsferError: a class without a word, two classes with the same one, a template that does not name the class.
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
    return [[template.replace(PLACE, params.words[name]) for template in params.prompts] for name in classes]


def tokens(sentence: str) -> list[str]:
    """Return the words of a sentence in lower case, without punctuation."""
    return re.findall(r"\w+(?:[-']\w+)*", sentence.lower())


class Vocabulary:
    """Numbers for all words of some sentences; 0 is padding and nothing else."""

    def __init__(self, sentences: Sequence[str]) -> None:
        words = sorted({word for sentence in sentences for word in tokens(sentence)})
        self.number = {word: i for i, word in enumerate(words, start=1)}

    def __len__(self) -> int:
        return len(self.number) + 1

    def encode(self, sentences: Sequence[str], length: int | None = None) -> Tensor:
        """Return word numbers (N, L), padded to the longest sentence or to `length`.

        Raises:
            SsferError: a sentence of more than CONTEXT words.
        """
        rows = [[self.number[word] for word in tokens(sentence)] for sentence in sentences]
        longest = max(map(len, rows))
        if longest > CONTEXT:
            raise SsferError(f"methods.sitfer.text.prompts: a sentence has {longest} words, expected at most {CONTEXT}")
        length = length or longest
        return torch.tensor([row + [0] * (length - len(row)) for row in rows])


class LearnedText(nn.Module):
    """A small transformer over words, trained with the network; the mean over a sentence's words, never padding.

    Args:
        sentences: of each class, one per template.
        width, layers, heads: of the transformer; D_t = width.
    """

    ids: Tensor

    def __init__(self, sentences: Sentences, width: int, layers: int, heads: int) -> None:
        super().__init__()
        flat = [sentence for own in sentences for sentence in own]
        self.vocabulary, self.templates = Vocabulary(flat), len(sentences[0])
        self.register_buffer("ids", self.vocabulary.encode(flat), persistent=False)
        self.embed = nn.Embedding(len(self.vocabulary), width, padding_idx=0)
        self.positions = nn.Parameter(torch.randn(CONTEXT, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True)
        norm = nn.LayerNorm(width)
        self.transformer = nn.TransformerEncoder(layer, layers, norm=norm, enable_nested_tensor=False)
        self.project = nn.Linear(width, width, bias=False)
        for parameter in self.transformer.layers.parameters():  # its layers are copies of one
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def encode(self, ids: Tensor) -> Tensor:
        """Return embeddings of length one (N, D_t) of sentences given as word numbers (N, L)."""
        padding = ids == 0
        hidden = self.embed(ids) + self.positions[: ids.shape[1]]
        hidden = self.transformer(hidden, src_key_padding_mask=padding)
        real = (~padding)[:, :, None]
        pooled = hidden.masked_fill(~real, 0.0).sum(dim=1) / real.sum(dim=1)
        return F.normalize(self.project(pooled).float(), dim=1)

    def forward(self) -> Tensor:
        """Return the class embeddings (C, D_t)."""
        return mean_of_templates(self.encode(self.ids), self.templates)


class FixedText(nn.Module):
    """Class embeddings that never change, (C, D_t)."""

    matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix.detach().clone())

    def forward(self) -> Tensor:
        """Return the class embeddings."""
        return self.matrix


def mean_of_templates(embedded: Tensor, templates: int) -> Tensor:
    """Return class embeddings of length one (C, D_t) from those of the sentences (C * templates, D_t)."""
    if templates == 1:
        return embedded
    return F.normalize(embedded.unflatten(0, (-1, templates)).mean(dim=1), dim=1)


def prototypes(num_classes: int, width: int, seed: int) -> Tensor:
    """Return C orthonormal vectors (C, D_t) without meaning.

    Raises:
        SsferError: more classes than dimensions.
    """
    if num_classes > width:
        raise SsferError(
            f"methods.sitfer.text: {num_classes} classes cannot be orthogonal in width {width}; raise width"
        )
    random = torch.randn(width, num_classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(random).Q.T.float().contiguous()


@torch.no_grad()
def frozen_random(num_classes: int, width: int, layers: int, heads: int, seed: int) -> Tensor:
    """Return what the release's text encoder says, (C, D_t): random vectors whose cosines are about 0.75.

    Its vocabulary is the class words alone and the number of the first of them is also its padding, without a mask. So
    the sentence of class c is [c, 0, 0, ...], whatever the template, in a transformer that is never trained and has no
    positions; the first token is read (specification, section 7, rows 1 to 4).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        embed = nn.Embedding(num_classes, width)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, batch_first=True)
        encoder = nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False).eval()
        for parameter in encoder.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)  # as torch.nn.Transformer, of which this is the encoder
        project = nn.Linear(width, width)
        ids = torch.zeros(num_classes, CONTEXT, dtype=torch.int64)
        ids[:, 0] = torch.arange(num_classes)
        return F.normalize(project(encoder(embed(ids))[:, 0]), dim=1)


def build_text(params: TextSettings, classes: Sequence[str]) -> nn.Module:
    """Return the text encoder that `params.encoder` names, for these classes in index order.

    The same seed gives the same encoder, and the caller's random numbers stay as they are.

    Raises:
        SsferError: sentences that do not tell the classes apart; open_clip without its package or weights.
    """
    sentences, p = class_sentences(params, classes), params
    if p.encoder == "prototype":
        return FixedText(prototypes(len(classes), p.width, p.seed))
    if p.encoder == "frozen_random":
        return FixedText(frozen_random(len(classes), p.width, p.layers, p.heads, p.seed))
    if p.encoder == "open_clip":
        assert p.clip_weights is not None and p.clip_sha256 is not None
        flat = [sentence for own in sentences for sentence in own]
        compute = partial(clip_embeddings, flat, p.clip_model)
        embedded = embeddings(flat, p.clip_model, p.clip_weights, p.clip_sha256, compute)
        return FixedText(mean_of_templates(embedded, len(p.prompts)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(p.seed)
        return LearnedText(sentences, p.width, p.layers, p.heads)
