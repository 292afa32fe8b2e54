"""PyTorch files of others, read without running any of their code: only tensors and plain values are accepted.

Training checkpoints also hold settings (argparse.Namespace), paths and the state of NumPy's random generators.
PyTorch's restricted reader refuses these. Here each is replaced by an empty object, so a checkpoint can be read as it
was published without calling argparse, pathlib or NumPy. Every other name is refused.
"""

import re
import warnings
import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from ssfer.core.errors import SsferError

MAX_BYTES = 32 * 2**30  # a ViT-H with both moments of its optimizer has 8 GB


class Ignored:
    """Replacement of a plain value that is not needed; stores nothing."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# Harmless names that checkpoints hold beside their tensors. They are never imported.
_HARMLESS = (
    "argparse.Namespace",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",  # Python 3.13
    "pathlib._local.WindowsPath",
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    "numpy._core.numeric._frombuffer",
    "numpy.core.numeric._frombuffer",
)
# Limits of a zip around a file of weights.
MAX_RATIO = 20
_RATIO_FREE_BYTES = 64 * 2**20
# What reading a damaged zip raises.
_DAMAGED = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError, RuntimeError)
_REFUSED_NAME = re.compile(r"GLOBAL (\S+)")


def read_torch_file(path: Path, most: int = MAX_BYTES) -> Any:
    """Return what `torch.save` wrote, on the CPU. Tensors of a zip-form file stay on disk until they are used.

    A zip that contains only one such file, as some publish, can also be read.

    Args:
        path: the file.
        most: largest size of the file, bytes.

    Raises:
        SsferError: missing, too large, damaged, or holds more than tensors and plain values.
    """
    size = file_size(path, most)
    source: Path | BytesIO = path
    zipped = zipfile.is_zipfile(path)
    if zipped and (inner := _wrapped(path, most)) is not None:
        source, size, zipped = BytesIO(inner), len(inner), zipfile.is_zipfile(BytesIO(inner))
    if zipped:
        _check_zip(source, path, size)
    if isinstance(source, BytesIO):
        source.seek(0)
    try:
        with torch.serialization.safe_globals([(Ignored, name) for name in _HARMLESS]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's protocol
            # Files of the format before PyTorch 1.6 cannot be memory-mapped.
            return torch.load(source, map_location="cpu", weights_only=True, mmap=zipped and source is path)
    except Exception as error:  # a damaged or hostile pickle fails in any way; none of its code has run
        named = _REFUSED_NAME.search(str(error))
        found = f"it names {named[1]}" if named else f"reading it ends in {first_line(error)}"
        raise SsferError(
            f"{path} is refused: expected a PyTorch file of tensors and plain values only, but {found}"
        ) from error


def file_size(path: Path, most: int = MAX_BYTES) -> int:
    """Return the size of a file of weights in bytes; SsferError if it is missing or has more than `most`."""
    if not path.is_file():
        raise SsferError(f"expected a file of weights at {path}, found {'a folder' if path.is_dir() else 'nothing'}")
    size = path.stat().st_size
    if size > most:
        raise SsferError(f"{path} has {size} bytes, expected weights of at most {most}")
    return size


def _wrapped(path: Path, most: int) -> bytes | None:
    """Return the only file in a zip; None: the zip itself was written by torch.save."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(member.filename.rpartition("/")[2] == "data.pkl" for member in members):
                return None
            if len(members) != 1:
                raise SsferError(f"{path}: expected a zip with one file of weights, found {len(members)} files")
            if members[0].file_size > max(_RATIO_FREE_BYTES, MAX_RATIO * members[0].compress_size):
                raise SsferError(
                    f"{path} is refused: it unpacks to {members[0].file_size} bytes, more than {MAX_RATIO} times its "
                    "size; weights hardly compress"
                )
            if members[0].file_size > most:
                raise SsferError(f"{path} unpacks to {members[0].file_size} bytes, expected weights of at most {most}")
            return archive.read(members[0])
    except _DAMAGED as error:
        raise SsferError(f"{path} is damaged ({first_line(error)}); get it again") from error


def _check_zip(source: Path | BytesIO, path: Path, size: int) -> None:
    """Refuse a zip with compressed members (torch.save never compresses) or wrong checksums."""
    try:
        with zipfile.ZipFile(source) as archive:
            if (unpacked := sum(member.file_size for member in archive.infolist())) > size:
                raise SsferError(f"{path} is refused: it unpacks to {unpacked} bytes, torch.save never compresses")
            if (damaged := archive.testzip()) is not None:
                raise SsferError(f"{path} is damaged: wrong checksum of its part {damaged}; get it again")
    except _DAMAGED as error:
        raise SsferError(f"{path} is damaged ({first_line(error)}); get it again") from error


def first_line(error: Exception) -> str:
    """Return an exception of torch.load in one line, without torch's advice to switch the restriction off."""
    lines = str(error).rpartition("WeightsUnpickler error:")[2].strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__
