"""Whether a video file was cut: its outermost parts state more bytes than it has.

FFmpeg takes the end of a cut file for the end of the video. Frame counts and durations cannot tell, as frames may be
left out on purpose. AVI, MP4, MOV, Matroska and WebM state sizes; in others, and in streams of unknown size, a cut is
not seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

_MP4_FIRST = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # elements of Matroska and WebM


def is_cut(path: Path) -> bool:
    """Return whether a file has fewer bytes than it states; False where it does not say."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(8)
        if head[:4] == b"RIFF":
            return _end_of_riff(file, size) > size
        if head[4:] in _MP4_FIRST:
            return _end_of_boxes(file, size) > size
        if head[:4] == _EBML:
            return _end_of_segment(file) > size
    return False


def _end_of_riff(file: BinaryIO, size: int) -> int:
    """Return where the last RIFF chunk ends; large AVI files have several."""
    end = 0
    while end + 8 <= size:
        file.seek(end)
        head = file.read(8)
        if head[:4] != b"RIFF":
            break
        end += 8 + int.from_bytes(head[4:], "little")
    return end


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """Return where the last box of an MP4 or MOV file ends; 0 if it goes to the end of the file."""
    end = 0
    while end + 8 <= size:
        file.seek(end)
        length = int.from_bytes(file.read(8)[:4], "big")
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        if length < 8:
            return 0
        end += length
    return end


def _end_of_segment(file: BinaryIO) -> int:
    """Return where the segment of a Matroska or WebM file ends; 0 if it is not known."""
    file.seek(4)
    header = _number(file)
    if header is None:
        return 0
    file.seek(header, 1)
    if file.read(4) != _SEGMENT or (length := _number(file)) is None:
        return 0
    return file.tell() + length


def _number(file: BinaryIO) -> int | None:
    """Read a number whose first byte tells its length; None for the one that means "unknown"."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (1 << (7 - more)) - 1]) + file.read(more), "big")
    return None if value == (1 << 7 * (more + 1)) - 1 else value
