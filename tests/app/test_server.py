"""The REST endpoint: answers, refusals, limits, and what protects it from other sites."""

from __future__ import annotations

import asyncio
import base64
import io
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the extra 'app' is not installed")
httpx2 = pytest.importorskip("httpx2")

from starlette.testclient import TestClient  # noqa: E402

from ssfer.app.answers import Answer  # noqa: E402
from ssfer.app.limits import CONTENT_TYPES, Limits  # noqa: E402
from ssfer.app.recognition import Recognition  # noqa: E402
from ssfer.app.server import STATIC, create_app  # noqa: E402
from tests.support.rendered_photos import bright_photo  # noqa: E402
from tests.support.small_model import small_recognizer  # noqa: E402

HERE = "http://127.0.0.1:7861"
BOXES = ((10, 10, 40, 40), (60, 20, 80, 40))


def png(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (100, 80)) -> bytes:
    buffer = io.BytesIO()
    bright_photo(*boxes, size=size).save(buffer, "PNG")
    return buffer.getvalue()


def client_of(folder: Path, limits: Limits | None = None) -> TestClient:
    return TestClient(create_app(Recognition(small_recognizer(folder), limits)), base_url=HERE)


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    return client_of(tmp_path)


def post(client: TestClient, data: bytes, kind: str = "image/png", **query: Any) -> Any:
    return client.post("/predict", content=data, headers={"Content-Type": kind}, params=query)


def test_the_answer_is_the_recognizers_table(client: TestClient, tmp_path: Path) -> None:
    answer = post(client, png(*BOXES))
    found = answer.json()
    assert answer.status_code == 200 and (found["status"], found["width"], found["height"]) == ("ok", 100, 80)
    table = small_recognizer(tmp_path).predict(bright_photo(*BOXES))
    assert len(found["faces"]) == len(table) == 2
    for face, (_, row) in zip(found["faces"], table.iterrows(), strict=True):
        assert face["expression"] == row["expression"] and face["overlay"] is None
        assert face["confidence"] == pytest.approx(row["confidence"], abs=1e-6)
        assert face["box"] == pytest.approx([row[name] for name in ("x1", "y1", "x2", "y2")], abs=0.01)
        assert face["probabilities"] == pytest.approx({n: row[f"p_{n}"] for n in face["probabilities"]}, abs=1e-6)


def test_parameters(client: TestClient) -> None:
    assert len(post(client, png(*BOXES), faces="largest").json()["faces"]) == 1
    assert [face["expression"] for face in post(client, png(*BOXES), abstain=1).json()["faces"]] == [None, None]
    assert post(client, png()).json() | {"seconds": 0} == {
        "status": "no_face", "width": 100, "height": 80, "faces": [], "seconds": 0,
    }  # fmt: skip


def test_explain_adds_the_map_over_the_crop(client: TestClient) -> None:
    overlays = [face["overlay"] for face in post(client, png(*BOXES), explain=True).json()["faces"]]
    for overlay in overlays:
        head, data = overlay.split(",")
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert head == "data:image/jpeg;base64" and picture.size == (176, 176)
    assert len(set(overlays)) == 2


def test_a_runtime_without_gradients_says_so(tmp_path: Path) -> None:
    recognizer: Any = small_recognizer(tmp_path)

    class Plain:
        classes, size, device, meta = recognizer.classes, 16, "cpu", recognizer.runtime.meta
        __call__ = staticmethod(recognizer.runtime.__call__)

    recognizer.runtime = Plain()
    client = TestClient(create_app(Recognition(recognizer)), base_url=HERE)
    assert client.get("/model").json()["explains"] is False
    answer = post(client, png(*BOXES), explain=True)
    assert answer.status_code == 400 and "no gradients for a Grad-CAM map; leave explain out" in answer.json()["error"]


def float_tiff() -> bytes:
    """Return a TIFF file of floating-point numbers."""
    buffer = io.BytesIO()
    Image.fromarray(np.ones((20, 20), np.float32)).save(buffer, "TIFF")
    return buffer.getvalue()


TRUNCATED = png(*BOXES)[:200]
SMALL = Limits(bytes=5000, pixels=9000)


@pytest.mark.parametrize(
    ("data", "kind", "query", "status", "sentence"),
    [
        (b"", "image/png", {}, 400, "the request has no body; expected the bytes of a picture"),
        (b"hello", "image/jpeg", {}, 415, "the body is no readable picture; expected a whole JPEG, PNG"),
        (TRUNCATED, "image/png", {}, 415, "the body is no readable picture"),
        (b"%!PS-Adobe", "image/png", {}, 415, "the body is no readable picture"),
        (png(), "multipart/form-data; boundary=x", {}, 415, "found 'multipart/form-data'; send the file itself, not a"),
        (png(), "text/html", {}, 415, "with Content-Type image/jpeg, image/png"),
        (float_tiff(), "image/tiff", {}, 415, "floating-point numbers, whose white is not defined; save it with 8"),
        (png(size=(8, 90)), "image/png", {}, 400, "too small; expected at least 16 pixels on each side"),
        (png(size=(100, 91)) [:4999], "image/png", {}, 413, "too large; expected at most 9,000 pixels"),
        (bytes(5001), "image/png", {}, 413, "expected at most 5,000 bytes, found 5,001; send a smaller picture"),
        (png(), "image/png", {"faces": "some"}, 400, "parameter faces: Input should be 'all' or 'largest', found \"so"),
        (png(), "image/png", {"explian": True}, 400, "unknown parameter 'explian'; did you mean 'explain'?"),
        (png(), "image/png", {"abstain": 2}, 400, "parameter abstain: Input should be less than or equal to 1, found"),
    ],
)  # fmt: skip
def test_bad_requests_get_one_sentence(
    tmp_path: Path, data: bytes, kind: str, query: dict[str, Any], status: int, sentence: str
) -> None:
    answer = post(client_of(tmp_path, SMALL), data, kind, **query)
    assert answer.status_code == status and list(answer.json()) == ["error"]
    assert sentence in answer.json()["error"] and "\n" not in answer.json()["error"]


def test_the_decoder_decides_what_picture_it_can_read_and_parameters_are_given_once(client: TestClient) -> None:
    assert post(client, png(*BOXES), "image/heic").status_code == 200  # what a phone's photo is called
    answer = client.post("/predict?faces=all&faces=largest", content=png(), headers={"Content-Type": "image/png"})
    assert answer.status_code == 400 and "given twice" in answer.json()["error"]


def test_other_paths_and_methods_get_one_sentence(client: TestClient) -> None:
    for answer, status in (
        (client.get("/predict"), 405),
        (client.get("/faces.csv"), 404),
        (client.get("/static/../server.py"), 404),
        (client.get("/static/%2e%2e/server.py"), 404),
    ):
        assert answer.status_code == status and "see /docs for what there is" in answer.json()["error"]


def test_only_this_machine_is_answered(client: TestClient) -> None:
    for headers in ({"Host": "evil.example:7861"}, {"Host": "127.0.0.1.evil.example"}, {"Host": ""}, {"Host": "[::1"}):
        answer = client.get("/model", headers=headers)
        assert answer.status_code == 403 and "the Host header names another machine" in answer.json()["error"]
    for origin in ("http://evil.example", "http://127.0.0.1:8000", "null", "http://[x"):
        answer = client.post("/predict", content=png(), headers={"Origin": origin, "Content-Type": "image/png"})
        assert answer.status_code == 403 and "not pages of other sites" in answer.json()["error"]
    for headers in ({"Host": "localhost:7861"}, {"Host": "[::1]:7861"}, {"Origin": HERE}):
        assert client.get("/model", headers=headers).status_code == 200


def test_every_answer_has_the_headers_that_bind_a_browser(client: TestClient) -> None:
    for answer in (
        client.get("/"),
        client.get("/nothing"),
        client.get("/model", headers={"Host": "x"}),
        post(client, png()),
    ):
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src")
        assert answer.headers["cache-control"] == "no-store" and answer.headers["x-content-type-options"] == "nosniff"
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    preflight = client.options("/predict", headers={"Access-Control-Request-Method": "POST"})
    assert preflight.status_code == 405 and "access-control-allow-methods" not in preflight.headers


def test_nothing_is_stored(client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    before = set(tmp_path.rglob("*"))
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (900, 900, 3), dtype=np.uint8)).save(noise, "PNG")
    assert len(noise.getvalue()) > 2_000_000 and post(client, noise.getvalue()).status_code == 200
    assert set(tmp_path.rglob("*")) == before


def test_the_page_needs_no_other_computer(client: TestClient) -> None:
    for path in ("/", "/docs", "/static/app.js", "/static/csv.js", "/static/docs.js", "/static/style.css"):
        assert client.get(path).status_code == 200
    texts = {path.name: path.read_text() for path in STATIC.iterdir()}
    assert len(texts) == 7
    for name, text in texts.items():
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text), name
        assert "innerHTML" not in text and not re.search(r"<script(?! type=\"module\" src)| on\w+=|style=", text), name


def test_the_endpoint_is_described(client: TestClient) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    assert tuple(operation["requestBody"]["content"]) == CONTENT_TYPES
    assert {p["name"] for p in operation["parameters"]} == {"faces", "explain", "abstain"}
    assert {"400", "403", "408", "413", "415", "503", "504"} <= set(operation["responses"])
    model = client.get("/model").json()
    assert model["classes"] == ["anger", "happiness", "surprise"] and "not what a person feels" in model["notice"]


class Slow:
    """Stands for a recognition that takes its time."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits

    def __call__(self, data: bytes, *options: Any) -> Answer:
        import time

        time.sleep(0.2)
        return Answer(status="no_face", width=1, height=1, faces=[], seconds=0)


def ask(limits: Limits, requests: list[Any]) -> list[Any]:
    """Return the answers to requests that are sent at the same time."""

    async def run() -> list[Any]:
        transport = httpx2.ASGITransport(app=create_app(Slow(limits)))  # type: ignore[arg-type]
        async with httpx2.AsyncClient(transport=transport, base_url=HERE) as client:
            send = [client.post("/predict", content=c, headers={"Content-Type": "image/png"}) for c in requests]
            return list(await asyncio.gather(*send))

    return asyncio.run(run())


def test_who_does_not_fit_into_the_line_is_told_when_to_try_again() -> None:
    answers = ask(Limits(waiting=2), [b"x"] * 4)
    assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503]
    (first, _) = [answer for answer in answers if answer.status_code == 503]
    assert first.headers["retry-after"] == "1" and "2 requests are being processed already" in first.json()["error"]


def test_what_takes_too_long_gets_one_sentence() -> None:
    (late,) = ask(Limits(work_seconds=0.05), [b"x"])
    assert late.status_code == 504 and "no answer within 0.05 s" in late.json()["error"]

    async def dripping() -> Any:
        for _ in range(100):
            yield b"x"
            await asyncio.sleep(0.02)

    (slow,) = ask(Limits(upload_seconds=0.1), [dripping()])
    assert slow.status_code == 408 and "the upload took longer than 0.1 s" in slow.json()["error"]
