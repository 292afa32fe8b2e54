"""Photos in MXNet RecordIO files as insightface packs face sets (train.rec with train.idx): our own, bounded reader.

A .rec file is a sequence of records: magic number, a 32-bit word of 3 bits "which part" and 29 bits length, the bytes,
padding to 4 bytes. Bytes that contain the magic number at a 4-byte boundary are split there into first, middle and last
parts (about one photo in two million). A photo's bytes are a header <IfQQ (flag, label, id, id2), `flag` more float32
labels, then the JPEG file; the label is the person's number. The .idx file is text, "key<tab>offset" per record, in any
order. insightface's record 0 has no photo; its first extra label is the key of the first record that describes a person
instead of a photo, so photos are records 1 to that key - 1. Files without such a record 0 (shuffled for DALI) have
photos only.

The files come from anywhere: every key, offset and length is checked against the size of the file when it is opened,
records must not overlap, and nothing is unpickled. Offsets and labels are numpy arrays; bytes are read on demand.
"""

import os
import struct
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from ssfer.core.errors import SsferError
from ssfer.datasets.shared.archives import MAX_FILE_BYTES
from ssfer.datasets.shared.recordio_index import FRAME_BYTES, HEADER_BYTES, Index, file_state, read_index

MAGIC = 0xCED7230A
_MAGIC_BYTES = struct.pack("<I", MAGIC)
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_LENGTH_BITS = 29
# Start of a record: the two words of RecordIO, the header <IfQQ, and the first extra label (noise where flag is 0).
_START = np.dtype(
    [("magic", "<u4"), ("word", "<u4"), ("flag", "<u4"), ("label", "<f4"), ("ids", "<u8", 2), ("extra", "<f4")]
)
_MAX_PARTS = 1000  # a photo has one, rarely two
_MAX_LABEL = 2**24  # float32 counts no further
_BLOCK = 1 << 16  # records whose starts are checked together


class RecordFile:
    """The photos of one .rec file: `keys` ascending and `labels`, both (n,) int64; `others` counts other records.

    It may be forked and pickled: every process opens the file on its first read.
    """

    def __init__(self, path: Path) -> None:
        """Open `path` and the .idx beside it, and read the start of every photo's record once, in order of place.

        Raises:
            SsferError: the files are missing, damaged, or do not belong together.
        """
        self.path = path
        self._descriptor: int | None = None
        try:
            self._state = file_state(path)
            index = read_index(path.with_suffix(".idx"), path, self._state[0])
            photos = self._photos(index)
            self.others = int((~photos).sum())
            index = index.take(photos)
            self.keys, self._offsets = index.keys, index.offsets
            self.labels, self._sizes = self._scan(index)
        except OSError as error:
            raise SsferError(f"cannot read {path} and {path.stem}.idx ({error}); copy both again") from error

    def read(self, key: int) -> bytes:
        """Return the photo's file.

        Raises:
            KeyError: there is no such photo.
            OSError: the .rec file was changed since it was opened.
        """
        row = self._row(key)
        data = os.pread(self._file(), int(self._sizes[row]), int(self._offsets[row]))
        content = _join(data)
        (flag,) = struct.unpack_from("<I", content)
        return content[HEADER_BYTES + 4 * flag :]

    def stamp(self, key: int) -> str:
        """Return offset and size of the photo in the file, and the file's size and time."""
        row = self._row(key)
        return f"{self._offsets[row]}+{self._sizes[row]}:{self._state[0]}:{self._state[1]}"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptor": None}

    def _row(self, key: int) -> int:
        row = int(np.searchsorted(self.keys, key))
        if row == len(self.keys) or self.keys[row] != key:
            raise KeyError(key)
        return row

    def _file(self) -> int:
        if self._descriptor is None:
            descriptor = os.open(self.path, os.O_RDONLY)
            weakref.finalize(self, os.close, descriptor)
            info = os.fstat(descriptor)
            if (info.st_size, info.st_mtime_ns) != self._state:
                raise OSError(f"{self.path} was changed while it was in use")
            self._descriptor = descriptor
        return self._descriptor

    def _photos(self, index: Index) -> np.ndarray:
        """Return which records are photos, (n,) bool: those before the key named by record 0, or all."""
        if index.keys[0] != 0:
            raise SsferError(
                f"{self.path}: expected record 0 in {self.path.stem}.idx, found {index.keys[0]} as the first; the file "
                "is incomplete, copy it again"
            )
        start, lengths, _ = self._starts(index.take(np.array([0])))
        if start["flag"][0] == 0 or lengths[0] > HEADER_BYTES + 4 * int(start["flag"][0]):
            return self._everything(index)  # record 0 is a photo itself
        end = float(start["extra"][0])
        if not 2 <= end < 2**32 or end != int(end):
            raise SsferError(
                f"{self.path}: expected record 0 to name the first record that is no photo, found {end}; the file is "
                "damaged, copy it again"
            )
        photos = (index.keys >= 1) & (index.keys < end)
        if photos.sum() != end - 1:
            raise SsferError(
                f"{self.path}: expected photos 1 to {int(end) - 1:,}, as record 0 says, found {photos.sum():,} "
                f"of them in {self.path.stem}.idx; one file is incomplete or they do not belong together, copy both"
            )
        return photos

    def _everything(self, index: Index) -> np.ndarray:
        """Return (n,) ones, after checking that the index reaches the end of the file: it is incomplete otherwise."""
        last = index.take(np.array([np.argmax(index.offsets)]))
        over = int(last.rooms[0] - self._starts(last)[2][0])
        if over >= 4:  # more than padding
            raise SsferError(
                f"{self.path}: expected {self.path.stem}.idx to name all records, found {over:,} bytes behind record "
                f"{last.keys[0]}, its last; one file is incomplete or they do not belong together, copy both again"
            )
        return np.ones(len(index.keys), dtype=bool)

    def _scan(self, index: Index) -> tuple[np.ndarray, np.ndarray]:
        """Return labels and sizes in the file (frames included), both (n,) int64."""
        labels, sizes = np.zeros(len(index.keys), dtype=np.int64), np.zeros(len(index.keys), dtype=np.int64)
        order = np.argsort(index.offsets)  # once through the file from front to back
        for begin in range(0, len(order), _BLOCK):
            rows = order[begin : begin + _BLOCK]
            start, _, sizes[rows] = self._starts(index.take(rows))
            label = np.where(start["flag"] > 0, start["extra"], start["label"])
            wrong = ~((label >= 0) & (label <= _MAX_LABEL) & (label == np.floor(label)))
            if wrong.any():
                i = int(np.argmax(wrong))
                raise SsferError(
                    f"{self.path}: expected the number of a person (0 to {_MAX_LABEL:,}) as label of record "
                    f"{index.keys[rows[i]]}, found {label[i]}; this is no face collection, or it is damaged"
                )
            labels[rows] = label
        return labels, sizes

    def _starts(self, index: Index) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (n,) starts (_START), lengths of the records' bytes and their sizes in the file, all checked."""
        file, width = self._file(), _START.itemsize
        raw = b"".join(os.pread(file, width, at).ljust(width, b"\0") for at in index.offsets.tolist())
        start = np.frombuffer(raw, dtype=_START).copy()
        word = start["word"].astype(np.int64)
        part, lengths = word >> _LENGTH_BITS, word % 2**_LENGTH_BITS
        sizes = FRAME_BYTES + lengths
        wrong = (start["magic"] != MAGIC) | (part > _FIRST) | (sizes > index.rooms) | (lengths > MAX_FILE_BYTES)
        for row in np.flatnonzero(wrong | (part == _FIRST)).tolist():  # rare
            sizes[row] = self._walk(int(index.keys[row]), int(index.offsets[row]), int(index.rooms[row]))
            content = _join(os.pread(file, int(sizes[row]), int(index.offsets[row])))
            lengths[row] = len(content)
            begin = bytes(FRAME_BYTES) + content[: width - FRAME_BYTES].ljust(width - FRAME_BYTES, b"\0")
            start[row] = np.frombuffer(begin, dtype=_START)[0]
        needed = HEADER_BYTES + 4 * start["flag"].astype(np.int64)
        if (needed > lengths).any():
            i = int(np.argmax(needed > lengths))
            raise SsferError(
                f"{self.path}: record {index.keys[i]} has {start['flag'][i]:,} extra labels, expected at least "
                f"{needed[i]:,} bytes for its header, found {lengths[i]:,}; the file is damaged, copy it again"
            )
        return start, lengths, sizes

    def _walk(self, key: int, offset: int, room: int) -> int:
        """Return a record's size in the file, from its first part to its last; every part is checked."""
        at, room = 0, min(room, MAX_FILE_BYTES)
        for n in range(_MAX_PARTS):
            frame = os.pread(self._file(), FRAME_BYTES, offset + at).ljust(FRAME_BYTES, b"\0")
            magic, word = struct.unpack("<II", frame)
            part, length = word >> _LENGTH_BITS, word % 2**_LENGTH_BITS
            if magic != MAGIC:
                problem = f"expected the magic number {MAGIC:#x}, found {magic:#x}"
            elif length > room - at - FRAME_BYTES:
                problem = f"expected a length of at most {max(0, room - at - FRAME_BYTES):,} bytes, found {length:,}"
            elif part not in ((_WHOLE, _FIRST) if n == 0 else (_MIDDLE, _LAST)):
                problem = f"expected {'the beginning' if n == 0 else 'another part'} of a record, found type {part}"
            elif part in (_WHOLE, _LAST):
                return at + FRAME_BYTES + length
            else:
                at += FRAME_BYTES + length + -length % 4
                continue
            raise SsferError(
                f"{self.path}, byte {offset + at:,} (record {key}): {problem}; the .rec and .idx files are damaged or "
                "do not belong together, copy both again"
            )
        raise SsferError(
            f"{self.path}, byte {offset:,} (record {key}): expected one part or a few, found more than {_MAX_PARTS}; "
            "the file is damaged, copy it again"
        )


def _join(data: bytes) -> bytes:
    """Return a record's bytes from its parts in the file; OSError if the file has changed."""
    parts, at = [], 0
    while at + FRAME_BYTES <= len(data):
        magic, word = struct.unpack_from("<II", data, at)
        length = word % 2**_LENGTH_BITS
        parts.append(data[at + FRAME_BYTES : at + FRAME_BYTES + length])
        at += FRAME_BYTES + length
        if magic != MAGIC or at > len(data):
            break
        if at == len(data) and word >> _LENGTH_BITS in (_WHOLE, _LAST):
            return _MAGIC_BYTES.join(parts)
        at += -length % 4
    raise OSError("the .rec file was changed while it was in use")
