"""Plain tar shards: readable by any WebDataset reader, read here by (shard, offset, size) with `pread`.

Members carry fixed metadata (mtime 0, owner 0, mode 644), so the same input gives the same bytes. Reading by offset
gives random access, exact epochs and exact resume, which streaming readers do not.
"""

from __future__ import annotations

import os
import tarfile
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

from ssfer.core.errors import SsferError, shortened

PLACE = ("shard", "offset", "size", "crc32")  # columns of the manifest that say where the bytes lie, and their checksum
_WAY_BACK = "restore it with dvc checkout --force or rebuild it"


def crc32(data: bytes) -> int:
    """Return the CRC-32 of a stored picture, which detects damage, not forgery."""
    return zlib.crc32(data)


class ShardWriter:
    """Write members into one tar file; the file appears under its final name only when complete.

    Use as a context manager. An exception inside the block removes the partial file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tmp = path.with_name(path.name + ".tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self._tmp, "wb")  # noqa: SIM115 - closed in __exit__
        self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)

    def add(self, name: str, data: bytes) -> tuple[str, int, int]:
        """Append one member; return (shard file name, offset of the data, size in bytes)."""
        info = tarfile.TarInfo(name)  # TarInfo's defaults are mtime 0, uid 0, gid 0, mode 644
        info.size = len(data)
        self._tar.addfile(info, BytesIO(data))
        # Data is padded to 512-byte blocks and is the last thing written; names here never need a long-name record.
        padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        return self.path.name, self._tar.offset - padded, len(data)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            self._tar.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except BaseException:  # the disk is full
            self._discard()
            raise
        self._tmp.replace(self.path)

    def _discard(self) -> None:
        with suppress(OSError):  # closing writes what is buffered, which fails on a full disk as well
            self._file.close()
        self._tmp.unlink(missing_ok=True)


class ShardReader:
    """Random access to members of the shards in one folder; file handles are opened once per process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._handles: dict[tuple[int, str], tuple[int, int]] = {}  # descriptor, bytes

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}  # another process, perhaps of another machine, opens its own

    def read(self, shard: str, offset: int, size: int, crc32: int | None = None) -> bytes:
        """Return `size` bytes at `offset` of `shard`.

        Args:
            shard: name of a file in the folder.
            crc32: of the bytes; None: not known, in manifests of older versions.

        Raises:
            SsferError: the shard is missing, outside the folder, shorter than the manifest says, or damaged.
        """
        key = (os.getpid(), shard)  # a forked worker must not share a handle's lifetime with its parent
        if key not in self._handles:
            self._handles[key] = self._open(shard)
        handle, length = self._handles[key]
        # A wrong size is never read: it may be larger than the memory.
        data = os.pread(handle, size, offset) if offset >= 0 and 0 <= size <= length - offset else b""
        if len(data) != size:
            raise SsferError(
                f"shard {self.folder / shard} is cut short: expected {size} bytes at {offset}, found "
                f"{min(max(length - max(offset, 0), 0), max(size, 0))}; {_WAY_BACK}"
            )
        if crc32 is not None and zlib.crc32(data) != crc32:
            raise SsferError(
                f"shard {self.folder / shard} is damaged: the {size} bytes at {offset} have another checksum than "
                f"their manifest says; {_WAY_BACK}"
            )
        return data

    def _open(self, shard: str) -> tuple[int, int]:
        if not plain_name(shard):
            raise SsferError(
                f"the manifest in {self.folder} names the shard '{shortened(shard)}'; expected the plain name of a "
                "file beside it"
            )
        try:
            handle = os.open(self.folder / shard, os.O_RDONLY)
        except FileNotFoundError as error:
            raise SsferError(f"shard {self.folder / shard} is missing; run dvc checkout or dvc repro") from error
        return handle, os.fstat(handle).st_size

    def close(self) -> None:
        """Close the handles of this process."""
        for key in [k for k in self._handles if k[0] == os.getpid()]:
            os.close(self._handles.pop(key)[0])


def plain_name(shard: str) -> bool:
    """Return whether a shard's name is that of a file in the folder itself."""
    return bool(shard) and shard.isprintable() and not shard.startswith(".") and not set(shard) & set("/\\:")
