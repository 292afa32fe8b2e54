"""`ssfer fetch clip`: kept as published with its origin, by https only; what is wrong is refused, nothing is left."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ssfer.cli.fetch import PUBLISHED, fetch
from ssfer.core import files
from ssfer.core.download import Published, StaysSecure
from ssfer.core.errors import SsferError
from ssfer.core.files import sha256_file
from ssfer.formats import clip
from ssfer.models.text import TextSettings
from tests.support import factory

NAME = "open_clip_model.safetensors"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """A text tower of the expected names, and much smaller than the real one's."""
    shapes = {name: tuple(min(n, 6) for n in shape) for name, shape in clip._SHAPES.items()}
    monkeypatch.setattr(clip, "_SHAPES", shapes)
    drawn = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=drawn) for name, shape in shapes.items()}
    return state | {"visual.conv1.weight": torch.ones(2, 2), "logit_scale": torch.ones(())}


class Handler(SimpleHTTPRequestHandler):
    """Sends half of short.safetensors, and from moved.safetensors on to the file."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", f"/{NAME}")
            self.end_headers()
        elif self.path.startswith("/short"):
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"x" * 50)
        else:
            super().do_GET()


@pytest.fixture
def served(
    tmp_path: Path, small: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, Published]]:
    """The published file, and `clip` with the address under which a server on this machine shows it."""
    folder = tmp_path / "served"
    folder.mkdir()
    save_file(small, folder / NAME, metadata={"format": "pt"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    entry = replace(PUBLISHED["clip"], url=f"http://127.0.0.1:{server.server_port}/{NAME}")
    monkeypatch.setitem(PUBLISHED, "clip", entry)
    yield folder / NAME, entry
    server.shutdown()
    server.server_close()


def check_refused(folder: Path, match: str, **settings: Any) -> None:
    """Fetching fails with a sentence and leaves older files, and nothing else, where they were."""
    out = folder / "out" / "c.safetensors"
    out.parent.mkdir(parents=True)
    out.write_bytes(b"older")
    out.with_suffix(".json").write_bytes(b"of it")
    with pytest.raises(SsferError, match=match) as error:
        fetch("clip", out, say=lambda line: None, **settings)
    assert "\n" not in str(error.value)
    assert {p.name: p.read_bytes() for p in out.parent.iterdir()} == {"c.safetensors": b"older", "c.json": b"of it"}


def test_the_entry_is_https_and_claims_no_hash_that_nobody_here_has_seen() -> None:
    entry = PUBLISHED["clip"]
    assert entry.url.startswith("https://huggingface.co/laion/") and entry.url.endswith(NAME)
    assert entry.sha256 == "" and entry.license.startswith("MIT")
    assert 605_143_284 < entry.most < 2 * 605_143_284  # bytes of ViT-B-32's numbers


def test_the_file_is_kept_as_it_is_with_its_origin_and_the_settings_are_said(
    served: tuple[Path, Published], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, entry = served
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    lines: list[str] = []
    out = fetch("clip", say=lines.append)
    assert out == tmp_path / "data/weights/text/clip.safetensors"
    assert out.read_bytes() == file.read_bytes()
    origin = {"source": entry.url, "source_bytes": file.stat().st_size, "source_sha256": sha256_file(file)}
    assert json.loads(out.with_suffix(".json").read_text()) == {**origin, "license": entry.license}
    assert sorted(p.name for p in out.parent.iterdir()) == ["clip.json", "clip.safetensors"]
    said = "\n".join(lines)
    for text in (entry.url, "MIT", "about 605 MB", "sha256 not known here", f"sha256 {sha256_file(file)}"):
        assert text in said
    settings = dict(line.strip().split(": ") for line in said.splitlines()[-4:])
    shipped = factory.tiny_params().methods["sitfer"].text.model_dump()
    params = TextSettings(**shipped | settings)
    assert (params.encoder, params.clip_model, params.clip_sha256) == ("open_clip", "ViT-B-32", sha256_file(file))
    assert files.project_root() / str(params.clip_weights) == out


@pytest.mark.parametrize("kind", ["another model", "not finite", "a page"])
def test_what_is_not_the_text_tower_is_refused(
    kind: str, served: tuple[Path, Published], small: dict[str, Tensor], tmp_path: Path
) -> None:
    file, message = served[0], "is not a readable safetensors file"
    if kind == "another model":
        save_file({**small, "text_projection": torch.ones(6, 7)}, file)
        message = r"as the text tower of CLIP ViT-B-32: expected text_projection of shape \(6, 6\), found \(6, 7\)$"
    elif kind == "not finite":
        save_file({**small, "text_projection": torch.full((6, 6), torch.inf)}, file)
        message = "'text_projection' holds values that are not finite numbers"
    else:
        file.write_text("<html>moved</html>")
    check_refused(tmp_path, message)


def test_an_answer_that_ends_early_is_refused(
    served: tuple[Path, Published], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, entry = served
    short = replace(entry, url=entry.url.replace(NAME, "short.safetensors"))
    monkeypatch.setitem(PUBLISHED, "clip", short)
    check_refused(tmp_path / "a", "cannot download .*the connection ended after 50 of 100 bytes.*as --file")


def test_redirections_are_followed_but_never_out_of_https(
    served: tuple[Path, Published], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a file of Hugging Face's lies under another address."""
    file, entry = served
    monkeypatch.setitem(PUBLISHED, "clip", replace(entry, url=entry.url.replace(NAME, "moved.safetensors")))
    out = fetch("clip", tmp_path / "c.safetensors", say=lambda line: None)
    assert out.read_bytes() == file.read_bytes()
    asked = urllib.request.Request("https://a/b")
    follow = partial(StaysSecure().redirect_request, asked, None, 302, "Found", {})
    assert follow("https://cdn/b").full_url == "https://cdn/b"
    for address in ("http://a/b", "ftp://a/b", "file:///etc/passwd"):
        with pytest.raises(OSError, match="which is not https"):
            follow(address)
