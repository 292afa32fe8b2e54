"""Text encoders: they map a class's sentences to one embedding of length one (SIT-FER specification, section 3).

A text encoder is a module that is called without arguments and returns the class embeddings (C, D_t). `learned` has
parameters and is trained; the others hold a fixed matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssfer.core.errors import SsferError
from ssfer.formats.clip import embeddings
from ssfer.models.clip_text import clip_embeddings
from ssfer.models.sentences import Sentences, TextSettings, class_sentences, tokens

CONTEXT = 77  # most words of a sentence, as in CLIP


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
            raise SsferError(f"methods.sitfer.text: a sentence has {longest} words, expected at most {CONTEXT}")
        length = length or longest
        return torch.tensor([row + [0] * (length - len(row)) for row in rows])


class LearnedText(nn.Module):
    """A small transformer over words, trained with the network; its output is averaged over a sentence's words.

    Args:
        sentences: of each class, one or several.
        width, layers, heads: of the transformer; D_t = width.
    """

    ids: Tensor

    def __init__(self, sentences: Sentences, width: int, layers: int, heads: int) -> None:
        super().__init__()
        flat = [sentence for own in sentences for sentence in own]
        self.vocabulary, self.counts = Vocabulary(flat), [len(own) for own in sentences]
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
        return mean_by_class(self.encode(self.ids), self.counts)


class FixedText(nn.Module):
    """Class embeddings that never change, (C, D_t)."""

    matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix.detach().clone())

    def forward(self) -> Tensor:
        """Return the class embeddings."""
        return self.matrix


def mean_by_class(embedded: Tensor, counts: Sequence[int]) -> Tensor:
    """Return class embeddings of length one (C, D_t) from those of the sentences (N, D_t); `counts` are per class."""
    if set(counts) == {1}:
        return embedded
    if len(set(counts)) == 1:
        return F.normalize(embedded.unflatten(0, (-1, counts[0])).mean(dim=1), dim=1)
    return F.normalize(torch.stack([own.mean(dim=0) for own in embedded.split(list(counts))]), dim=1)


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
    """Return the output of the release's text encoder, (C, D_t): random vectors whose cosines are about 0.75.

    Its vocabulary has only the class words, and the number of the first one is also used as padding, without a mask. So
    the sentence of class c is [c, 0, 0, ...], whatever the template, in a transformer that is never trained and has no
    positions; the first token is the output (specification, section 7, rows 1 to 4).
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

    The same seed gives the same encoder; the caller's random state is not changed.

    Raises:
        SsferError: sentences that do not distinguish the classes; open_clip without its package or weights.
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
        return FixedText(mean_by_class(embedded, [len(own) for own in sentences]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(p.seed)
        return LearnedText(sentences, p.width, p.layers, p.heads)
