"""What video files state of their size."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssfer.predict.cut_videos import is_cut

BOX = b"\0\0\0\x10ftypisom" + bytes(4)
EBML = b"\x1a\x45\xdf\xa3\x84" + bytes(4) + b"\x18\x53\x80\x67"


@pytest.mark.parametrize(
    ("data", "states"),
    [
        (b"RIFF\x10\0\0\0" + bytes(16), True),
        (b"RIFF\x08\0\0\0" + bytes(8) + b"RIFF\x08\0\0\0" + bytes(8), True),  # in two parts, as of 2 GB on
        (b"RIFF\0\0\0\0" + bytes(16), False),  # the program that wrote it did not end
        (BOX + b"\0\0\0\x10mdat" + bytes(8), True),
        (BOX + b"\0\0\0\x01mdat\0\0\0\0\0\0\0\x20" + bytes(16), True),
        (BOX + b"\0\0\0\0mdat" + bytes(8), False),  # to the end of the file
        (EBML + b"\x90" + bytes(16), True),
        (EBML + b"\x01\0\0\0\0\0\0\x10" + bytes(16), True),
        (EBML + b"\x01" + b"\xff" * 7 + bytes(16), False),  # a live stream
        (b"GIF89a" + bytes(20), False),
        (b"", False),
    ],
)
def test_a_file_that_states_its_size_is_cut_where_a_byte_lacks(tmp_path: Path, data: bytes, states: bool) -> None:
    path = tmp_path / "v"
    path.write_bytes(data)
    assert not is_cut(path)
    path.write_bytes(data[:-1])
    assert is_cut(path) == states
