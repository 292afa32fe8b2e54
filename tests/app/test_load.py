"""The server under load, as the command runs it: no request of 20 clients is lost, memory stays bounded."""

from __future__ import annotations

import io
import json
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra 'app' is not installed")
psutil = pytest.importorskip("psutil")

from tests.support.page_server import command_server  # noqa: E402
from tests.support.rendered_photos import bright_photo  # noqa: E402
from tests.support.small_model import write_model  # noqa: E402

CLIENTS, EACH = 20, 10


@pytest.mark.slow
def test_twenty_clients_lose_no_request_and_memory_is_bounded(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    bright_photo((40, 40, 160, 160), size=(640, 480)).save(buffer, "PNG")
    picture = buffer.getvalue()
    with command_server(str(write_model(tmp_path / "small.safetensors")), cwd=tmp_path) as (address, process):
        memory = psutil.Process(process.pid).memory_info

        def ask(_: int) -> str:
            request = urllib.request.Request(f"{address}/predict", picture, {"Content-Type": "image/png"})
            with urllib.request.urlopen(request, timeout=300) as answer:
                assert answer.status == 200
                return str(json.load(answer)["status"])

        [ask(i) for i in range(3)]  # what the first pictures load
        peaks = []
        for _ in range(2):
            stop, seen = threading.Event(), [0]

            def watch(stop: threading.Event = stop, seen: list[int] = seen) -> None:
                while not stop.wait(0.05):
                    seen[0] = max(seen[0], memory().rss)

            watcher = threading.Thread(target=watch)
            watcher.start()
            with ThreadPoolExecutor(CLIENTS) as clients:
                answers = list(clients.map(ask, range(CLIENTS * EACH)))
            stop.set()
            watcher.join()
            assert len(answers) == CLIENTS * EACH and set(answers) <= {"ok", "no_face"}
            peaks.append(seen[0])
        assert peaks[1] - peaks[0] < 50e6, peaks
