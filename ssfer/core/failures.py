"""Failures of the machine (memory, processes, GPU, disk), recognized by their exceptions, as one sentence each."""

from __future__ import annotations

import errno
import re

from ssfer.core.errors import shortened

_MEMORY = "there is not enough memory"
# Pattern in the message of an exception of torch or the system -> sentence; {0} is the message's first line.
_SENTENCES = (
    (
        r"DataLoader worker .*(Bus error|shared memory)|unable to (open|mmap|allocate) shared memory|shm_open",
        "shared memory (/dev/shm) is full or not available; make it larger (docker: --shm-size), or set "
        "machine.num_workers: 0",
    ),
    (
        r"DataLoader worker \(pid.*\) (exited unexpectedly|is killed by signal)|DataLoader worker .* exited",
        "a process that prepares batches died, most likely for lack of memory; run again with a smaller "
        "machine.num_workers",
    ),
    (
        r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED",
        "the GPU has not enough memory ({0}); set machine.max_batch, which changes no result, or use a smaller network",
    ),
    (r"CUDA error|cuDNN error|CUDNN_STATUS|CUBLAS_STATUS|CUDA driver|NVML", "the GPU failed ({0}); look at nvidia-smi"),
    (r"NCCL|Connection (closed by|reset by) peer.*Gloo|gloo", "the processes of the run lost each other ({0})"),
    (
        r"can't allocate memory|not enough memory|[Cc]annot allocate memory|bad_alloc|Unable to allocate",
        f"{_MEMORY} ({{0}}); use a smaller batch, network or machine.num_workers",
    ),
    (r"can't start new thread", "the system starts no more threads; lower machine.num_workers and machine.threads"),
    (r"received \d+ items of ancdata|Too many open files", "too many files are open; raise the limit: ulimit -n 4096"),
)
_CAUSES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "there is no permission",
    errno.EPERM: "it is not permitted",
    errno.EFBIG: "the file would be larger than the system allows",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "symbolic links form a loop",
    errno.EMFILE: "too many files are open (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine",
    errno.EAGAIN: "the system starts no more processes or threads",
    errno.ENOMEM: _MEMORY,
    errno.ENOENT: "it is not there: it was moved or deleted, or an earlier stage has not run (dvc repro)",
    errno.EIO: "the disk fails",
    errno.ENOTDIR: "a part of the path is not a folder",
    errno.EISDIR: "a file was expected, a folder was found",
}


def sentence(error: BaseException) -> str | None:
    """Return what happened and what to do, for failures that are not defects of ssfer; None for all others."""
    return next(filter(None, (tell(error) for tell in (_of_system, _of_libraries, _of_content))), None)


def _of_system(error: BaseException) -> str | None:
    if isinstance(error, MemoryError):
        return f"{_MEMORY}{_reason(error)}; use a smaller batch or machine.num_workers"
    if not isinstance(error, OSError) or _pattern(_said(error)):
        return None
    names = " and ".join(f"'{name}'" for name in (error.filename, error.filename2) if name is not None)
    cause = _CAUSES.get(error.errno or 0, "")
    shown = f"{names}: {cause}" if names and cause else cause or str(error)
    return f"{type(error).__name__}: {shortened(shown or type(error).__name__, 400)}"


def _of_libraries(error: BaseException) -> str | None:
    told = _pattern(_said(error)) if isinstance(error, (RuntimeError, OSError, MemoryError)) else None
    return told and told.format(_first_line(error))


def _of_content(error: BaseException) -> str | None:
    if isinstance(error, UnicodeDecodeError):
        return f"a file is not UTF-8 text (byte {error.start}: {error.reason}); restore it, or save it as UTF-8"
    if isinstance(error, RecursionError):
        return "folders or data are nested too deeply; make them flatter"
    return None


def _said(error: BaseException) -> str:
    """Return an exception's message, for one about a file without the file's name."""
    return error.strerror or "" if isinstance(error, OSError) and error.filename is not None else str(error)


def _pattern(text: str) -> str | None:
    return next((told for pattern, told in _SENTENCES if re.search(pattern, text)), None)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160].replace("{", "(").replace("}", ")") if lines else type(error).__name__


def _reason(error: BaseException) -> str:
    return f" ({_first_line(error)})" if str(error) else ""
