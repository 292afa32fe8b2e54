"""SIT-FER's text encoder open_clip: cached, deterministic, from local weights only, and what it refuses.

The package is played by a stand-in; TestRealOpenClip runs where the real one is installed (extra clip).
"""

from __future__ import annotations

import importlib.util
import logging
import socket
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing import assert_close

from ssfer.core.errors import SsferError
from ssfer.core.files import scratch_dir, sha256_file, sha256_json
from ssfer.core.labels import CLASS_SETS
from ssfer.formats.clip import KIND
from ssfer.formats.weights import save_weights
from ssfer.models.text import TextSettings, build_text, class_sentences
from tests.support import factory

TEMPLATE = "This is a face image of {expression}"
CLASSES = CLASS_SETS["rafdb"]


def settings(**changes: Any) -> TextSettings:
    shipped = factory.tiny_params().methods["sitfer"].text.model_dump()
    chosen = {"encoder": "open_clip", "clip_weights": "clip.safetensors", "clip_sha256": "0" * 64}
    return TextSettings(**shipped | chosen | changes)


class TinyClip(nn.Module):
    """Named as open_clip names its networks; the embedding of a sentence depends on its words and their order."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.visual = nn.Linear(3, 2)
        self.token_embedding = nn.Embedding(99, width)
        self.text_projection = nn.Parameter(torch.randn(width, 5))
        self.register_buffer("attn_mask", torch.zeros(12, 12), persistent=True)

    def encode_text(self, ids: Tensor) -> Tensor:
        place = torch.arange(1, ids.shape[1] + 1)[None, :, None]
        return (self.token_embedding(ids) * place).sum(dim=1) @ self.text_projection


class Tokenizer:
    """A word's number is the sum of its bytes; cuts at 12 as the real one does at 77."""

    context_length = 12

    def encode(self, sentence: str) -> list[int]:
        return [sum(word.encode()) % 97 + 1 for word in sentence.split()]

    def __call__(self, sentences: list[str]) -> Tensor:
        rows = [[*[97, *self.encode(sentence)][:11], 98] for sentence in sentences]
        return torch.tensor([row + [0] * (12 - len(row)) for row in rows])


WIDTHS = {"Tiny": 8, "Wide": 9, "Foreign": 8}


class StandIn(ModuleType):
    """The functions of open_clip that are called."""

    list_models = staticmethod(lambda: list(WIDTHS))

    def __init__(self) -> None:
        super().__init__("open_clip")
        self.__spec__ = ModuleSpec("open_clip", None)
        self.made: list[str] = []

    def get_model_config(self, name: str) -> dict[str, Any]:
        return {"text_cfg": {"hf_tokenizer_name": "far/away"} if name == "Foreign" else {"width": WIDTHS[name]}}

    def get_tokenizer(self, name: str) -> Tokenizer:
        logging.info("Using default SimpleTokenizer.")  # as it does, with the root logger
        return Tokenizer()

    def create_model(self, name: str, *, pretrained: str | None, device: str) -> TinyClip:
        assert (pretrained, device) == (None, "cpu")
        self.made.append(name)
        logging.warning("No pretrained weights loaded")
        return TinyClip(WIDTHS[name])


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    module = StandIn()
    monkeypatch.setitem(sys.modules, "open_clip", module)
    return module


@pytest.fixture
def model() -> TinyClip:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TinyClip(8)


def written(root: Path, state: Any, name: str = "clip.safetensors") -> dict[str, Any]:
    """Write weights; return the settings for them."""
    path = root / name
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return {"clip_model": "Tiny", "clip_weights": name, "clip_sha256": sha256_file(path)}


@pytest.mark.parametrize(("name", "form"), [("clip.safetensors", "plain"), ("clip.pt", "plain"), ("c.pt", "trainer")])
def test_the_matrix_is_what_the_package_says_of_the_sentences(
    package: StandIn, model: TinyClip, project: Path, name: str, form: str
) -> None:
    state: Any = model.state_dict()
    state = {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}} if form == "trainer" else state
    given = written(project, state, name)
    sentences = [s for own in class_sentences(settings(), CLASSES) for s in own]
    with torch.no_grad():
        expected = nn.functional.normalize(model.encode_text(Tokenizer()(sentences)), dim=1)
    encoder = build_text(settings(**given), CLASSES)
    assert_close(encoder(), expected)
    assert not list(encoder.parameters())
    assert_close(build_text(settings(**given, tau=0.5), CLASSES[::-1])(), expected.flip(0))


def test_it_is_computed_once_and_moves_no_random_numbers(
    package: StandIn, model: TinyClip, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a run that finds the embeddings would train otherwise than the one that made them."""
    given = written(project, model.state_dict())
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first = build_text(settings(**given), CLASSES)()
    assert torch.equal(torch.random.get_rng_state(), before)
    (project / "clip.safetensors").unlink()
    monkeypatch.delitem(sys.modules, "open_clip")
    assert torch.equal(build_text(settings(**given), CLASSES)(), first)
    assert package.made == ["Tiny"]


def test_the_packages_warning_of_a_random_network_is_not_shown(
    package: StandIn,
    model: TinyClip,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    level = logging.root.manager.disable
    build_text(settings(**written(project, model.state_dict())), CLASSES)
    assert (logging.root.handlers, logging.root.manager.disable) == ([], level)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip_sha256": "0" * 12}, "clip_weights: .*clip.safetensors has sha256 [0-9a-f]{64}, expected 000000000000"),
        ({"clip_model": "Tini"}, "unknown CLIP model 'Tini'; did you mean 'Tiny'"),
        ({"clip_model": "Wide"}, "as Wide: expected text_projection of shape"),
        ({"clip_model": "Foreign"}, "clip_model Foreign has a tokenizer that is not part of open_clip; expected"),
        ({"prompts": ("so " * 10 + "{expression}",)}, "prompts: a sentence has 11 tokens, expected at most 10"),
    ],
)
def test_other_files_models_and_sentences_are_refused(
    package: StandIn, model: TinyClip, project: Path, changes: dict[str, Any], message: str
) -> None:
    given = written(project, model.state_dict())
    with pytest.raises(SsferError, match=message) as error:
        build_text(settings(**given | changes), CLASSES)
    assert "\n" not in str(error.value)
    assert not list((project / ".scratch").rglob("*.safetensors"))


class Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_what_is_no_state_dict_of_numbers_is_refused(package: StandIn, model: TinyClip, project: Path) -> None:
    state = model.state_dict()
    broken = {**state, "text_projection": state["text_projection"] / 0}
    for content, message in (
        ([1, 2], "c.pt: expected a checkpoint of a CLIP, found a list"),
        (state | {"extra": Harm(project / "harm")}, "c.pt is refused: expected a PyTorch file of tensors and plain"),
        (broken, "'text_projection' holds values that are not finite numbers"),
        (
            {k: v for k, v in state.items() if k != "text_projection"},
            "as Tiny: expected 2 tensors, found 1, 1 missing .text_projection.",
        ),
    ):
        with pytest.raises(SsferError, match=message):
            build_text(settings(**written(project, content, "c.pt")), CLASSES)
    assert not (project / "harm").exists()
    (project / "d.safetensors").write_bytes(b"\x08" * 40)
    given = {"clip_model": "Tiny", "clip_weights": "d.safetensors"}
    given["clip_sha256"] = sha256_file(project / "d.safetensors")
    with pytest.raises(SsferError, match="d.safetensors is not a readable safetensors file"):
        build_text(settings(**given), CLASSES)


def test_absent_weights_are_refused(project: Path) -> None:
    p = settings(clip_weights="clip.pt", clip_sha256="0" * 64)
    with pytest.raises(SsferError, match=r"clip_weights: no file at .*clip\.pt; get one with `ssfer fetch clip`"):
        build_text(p, CLASSES)


def test_the_absent_package_is_refused(project: Path, model: TinyClip, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "open_clip" else find(name))
    with pytest.raises(SsferError, match="open_clip needs the package open_clip_torch .*; install it with make setup"):
        build_text(settings(**written(project, model.state_dict())), CLASSES)


def test_known_embeddings_need_neither_package_nor_weights(project: Path) -> None:
    p = settings(clip_weights="gone.pt", clip_sha256="ab" * 32, prompts=(TEMPLATE, "{expression}"))
    sentences = [s for own in class_sentences(p, CLASSES) for s in own]
    asked = {"model": p.clip_model, "sha256": p.clip_sha256, "sentences": sentences}
    folder = scratch_dir(KIND, sha256_json(asked)[:16])
    stored = torch.nn.functional.normalize(torch.randn(14, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    save_weights(folder / "embeddings.safetensors", {"embeddings": stored}, {"kind": KIND})
    matrix = build_text(p, CLASSES)
    mean = stored.view(7, 2, 5).sum(dim=1)
    assert_close(matrix(), mean / mean.norm(dim=1, keepdim=True))
    other = p.model_copy(update={"prompts": (TEMPLATE, "{expression}!")})
    with pytest.raises(SsferError, match="no file at"):
        build_text(other, CLASSES)  # other sentences are others


@pytest.mark.slow
class TestRealOpenClip:
    """With the package, and weights that it made: its smallest text tower, with nothing to connect to."""

    MODEL = "ViT-S-32-alt"

    @pytest.fixture(autouse=True)
    def no_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError("a connection was tried")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)

    @pytest.fixture(params=["pt", "safetensors"])
    def made(self, project: Path, request: pytest.FixtureRequest) -> tuple[Any, dict[str, Any]]:
        open_clip = pytest.importorskip("open_clip")
        torch.manual_seed(0)
        model = open_clip.create_model(self.MODEL, pretrained=None).eval()
        return model, written(project, model.state_dict(), f"clip.{request.param}") | {"clip_model": self.MODEL}

    def test_embeddings_are_those_of_the_package(self, made: tuple[Any, dict[str, Any]], project: Path) -> None:
        import open_clip

        model, given = made
        torch.manual_seed(9)
        before = torch.random.get_rng_state()
        matrix = build_text(settings(**given), CLASSES)()
        assert torch.equal(torch.random.get_rng_state(), before)
        sentences = [s for own in class_sentences(settings(), CLASSES) for s in own]
        with torch.no_grad():
            expected = model.encode_text(open_clip.get_tokenizer(self.MODEL)(sentences), normalize=True)
        assert_close(matrix, expected, rtol=1e-4, atol=1e-5)
        (project / given["clip_weights"]).unlink()
        assert torch.equal(build_text(settings(**given), CLASSES)(), matrix)

    def test_other_models_and_sentences_are_refused(self, made: tuple[Any, dict[str, Any]]) -> None:
        _, given = made
        for changes, message in (
            ({"clip_model": "ViT-S-33"}, "unknown CLIP model 'ViT-S-33'; did you mean"),
            ({"clip_model": "ViT-S-32"}, "as ViT-S-32: expected .*"),
            ({"clip_model": "ViT-B-16-SigLIP"}, "has a tokenizer that is not part of open_clip"),
            ({"prompts": ("so " * 75 + "{expression}",)}, "a sentence has 7. tokens, expected at most 75"),
        ):
            with pytest.raises(SsferError, match=message):
                build_text(settings(**given | changes), CLASSES)

    def test_models_that_are_not_refused_have_a_tokenizer_in_the_package(self) -> None:
        open_clip = pytest.importorskip("open_clip")
        for name in open_clip.list_models():
            if not any(key.startswith("hf_") for key in open_clip.get_model_config(name)["text_cfg"]):
                assert open_clip.get_tokenizer(name).encode("happy")
