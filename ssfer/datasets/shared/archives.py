"""A read-only view of a folder or of a zip file with the same interface; nothing is ever extracted to disk.

Folders are the user's own. Archives come from anywhere, so everything in them that could reach outside or exhaust
memory is refused before use: absolute names, '..', links, encryption, implausible sizes and compression ratios. Names
are POSIX paths below the root, sorted.
"""

import os
import stat
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from ssfer.core.errors import SsferError
from ssfer.datasets.base import FileMissing, FileTooLarge

# What reading a file raises if it cannot be read or its zip file is damaged.
UNREADABLE = (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)
# No photo is larger; it also bounds the memory that a hostile file can take.
MAX_FILE_BYTES = 256 * 2**20
# Limits of zip files. Photos hardly compress: a whole archive that grows a hundredfold is a bomb.
MAX_MEMBERS = 5_000_000
MAX_RATIO = 100
_RATIO_FREE_BYTES = 64 * 2**20
_UNPACK = {
    **dict.fromkeys((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst"), "tar -xf"),
    ".rar": "unrar x",
    ".7z": "7z x",
    ".gz": "gunzip",
}
_ENCRYPTED = "is encrypted"
_JUNK_NAMES = {"Thumbs.db", "desktop.ini"}


class Archive(Protocol):
    """Files by name."""

    label: str  # for messages

    def names(self) -> list[str]:
        """Return the names of all files, sorted, without directories and files of the operating system (.DS_Store)."""
        ...

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            FileMissing: there is none of this name.
            FileTooLarge: it is above the cap.
            OSError, zipfile.BadZipFile: it cannot be read.
        """
        ...

    def stamp(self, name: str) -> str:
        """Return a text that changes when the file changes."""
        ...


def open_archive(path: Path) -> Archive:
    """Return the view of a folder or zip file.

    Raises:
        SsferError: neither folder nor zip, or something inside is refused.
    """
    if path.is_dir():
        return FolderArchive(path)
    if path.is_file() and zipfile.is_zipfile(path):
        return ZipArchive(path)
    raise SsferError(why_not_opened(path))


def why_not_opened(path: Path) -> str:
    """Return a sentence that says why a path is not a folder or zip file, and what to do."""
    name = path.name.lower()
    if not path.is_file():
        return f"expected a folder or a zip file at {path}, found neither"
    if name.endswith(".zip"):
        return f"{path} is not a readable zip file (cut short or damaged); download or copy it again"
    unpack = next((how for ending, how in _UNPACK.items() if name.endswith(ending)), None)
    if unpack:
        return f"{path} is an archive that is not read in place; unpack it ({unpack} {path.name}) and give the folder"
    return f"expected a folder or a zip file at {path}, found another file"


def is_junk(name: str) -> bool:
    """Return whether a file is hidden or was written by an operating system (Thumbs.db)."""
    parts = PurePosixPath(name).parts
    return any(p.startswith(".") for p in parts) or "__MACOSX" in parts or parts[-1] in _JUNK_NAMES


class FolderArchive:
    """A folder of the user.

    Links out of it are followed; a folder inside that is also linked is listed once, a hidden one by its link.
    """

    def __init__(self, path: Path) -> None:
        self.label = str(path)
        self._root = path.resolve()
        self._names = sorted(self._walk(self._root, "", (self._root,)))

    def _walk(self, folder: Path, prefix: str, above: tuple[Path, ...]) -> Iterator[str]:
        """Yield the names of the files below a folder; `above` are the real folders that lead to it."""
        for entry in os.scandir(folder):
            name = f"{prefix}{entry.name}"
            if is_junk(name):
                continue
            if entry.is_dir():
                real = Path(entry.path).resolve() if entry.is_symlink() else Path(entry.path)
                listed = entry.is_symlink() and real.is_relative_to(self._root)
                listed = listed and not is_junk(f"{real.relative_to(self._root)}/photo")
                if not listed and real not in above:  # a link to a folder above it has no end
                    yield from self._walk(real, f"{name}/", (*above, real))
            elif entry.is_file():
                yield name
            elif os.path.exists(entry.path):  # reading a pipe would wait forever
                raise SsferError(f"{self.label}: expected files and folders only, found the device or pipe '{name}'")

    def names(self) -> list[str]:
        """See `Archive.names`."""
        return self._names

    def _has(self, name: str) -> bool:
        """Return whether a file was listed; tables may name anything, such as "../"."""
        at = bisect_left(self._names, name)
        return self._names[at : at + 1] == [name]

    def read(self, name: str) -> bytes:
        """See `Archive.read`."""
        if not self._has(name):
            raise FileMissing(name)
        try:
            file = open(self._root / name, "rb")  # noqa: SIM115 - closed below
        except FileNotFoundError as error:
            raise FileMissing(name) from error
        with file:
            info = os.fstat(file.fileno())
            if info.st_size > MAX_FILE_BYTES:
                raise FileTooLarge(f"'{name}' has {info.st_size} bytes")
            return file.read(MAX_FILE_BYTES)

    def stamp(self, name: str) -> str:
        """See `Archive.stamp`."""
        if not self._has(name):
            return "missing"
        try:
            info = os.stat(self._root / name)
        except OSError:
            return "missing"
        return f"{info.st_size}:{info.st_mtime_ns}"


class ZipArchive:
    """A zip file, checked as a whole when opened and opened anew in every process that unpickles it."""

    def __init__(self, path: Path) -> None:
        self.label = str(path)
        self._path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
            raise SsferError(f"{path} is not a readable zip file ({error}); download it again") from error
        self._files = self._checked(self._zip.infolist())

    def _checked(self, members: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
        if len(members) > MAX_MEMBERS:
            raise SsferError(f"{self.label} has {len(members)} members, at most {MAX_MEMBERS} are accepted")
        files: dict[str, zipfile.ZipInfo] = {}
        total = 0
        for member in members:
            name, problem = member.filename, _zip_problem(member)
            if problem == _ENCRYPTED:
                raise SsferError(
                    f"{self.label} is protected by a password, which is not asked for; unpack it with the password and "
                    "give the folder"
                )
            if problem:
                raise SsferError(f"{self.label}: member '{name[:80]}' {problem}; such an archive is not opened")
            if member.is_dir() or is_junk(name):
                continue
            if name in files:
                raise SsferError(f"{self.label}: member '{name}' occurs twice; such an archive is not opened")
            files[name] = member
            total += member.file_size
        packed = os.path.getsize(self._path)
        if total > _RATIO_FREE_BYTES and total > MAX_RATIO * packed:
            raise SsferError(
                f"{self.label} unpacks to {total} bytes from {packed}, more than {MAX_RATIO} times its size; it looks "
                "like a decompression bomb and is not opened"
            )
        return files

    def names(self) -> list[str]:
        """See `Archive.names`."""
        return sorted(self._files)

    def read(self, name: str) -> bytes:
        """See `Archive.read`."""
        if name not in self._files:
            raise FileMissing(name)
        return self._zip.read(self._files[name])

    def stamp(self, name: str) -> str:
        """See `Archive.stamp`."""
        member = self._files.get(name)
        return "missing" if member is None else f"{member.file_size}:{member.CRC:08x}"

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self._path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]


def _zip_problem(member: zipfile.ZipInfo) -> str | None:
    name = member.orig_filename
    parts = PurePosixPath(name).parts
    kind = stat.S_IFMT(member.external_attr >> 16)
    if not parts or "\0" in name:
        return "has no proper name"
    if name.startswith("/") or "\\" in name or ":" in parts[0]:
        return "has an absolute or non-portable name"
    if ".." in parts:
        return "leads out of the archive ('..')"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if member.flag_bits & 0x1:
        return _ENCRYPTED
    if member.file_size > MAX_FILE_BYTES:
        return f"unpacks to {member.file_size} bytes, at most {MAX_FILE_BYTES} are accepted"
    if member.file_size > _RATIO_FREE_BYTES and member.file_size > MAX_RATIO * max(1, member.compress_size):
        return f"unpacks to more than {MAX_RATIO} times its size"
    return None
