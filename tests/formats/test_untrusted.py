"""ssfer.formats.untrusted: zips around weights that are damaged or swell."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
import torch

from ssfer.core.errors import SsferError
from ssfer.formats.untrusted import read_torch_file


def zipped(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights.pth", content)
    return path


def test_a_zip_with_one_file_of_weights_is_read(tmp_path: Path) -> None:
    file = io.BytesIO()
    torch.save({"w": torch.arange(4.0)}, file)
    assert torch.equal(read_torch_file(zipped(tmp_path / "w.zip", file.getvalue()))["w"], torch.arange(4.0))


def test_a_zip_that_swells_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with pytest.raises(SsferError, match="is refused: it unpacks to 67108865 bytes, more than 20 times its size"):
        read_torch_file(zipped(tmp_path / "bomb.zip", bytes(64 * 2**20 + 1)))


def test_a_damaged_member_is_one_sentence(tmp_path: Path) -> None:
    path = zipped(tmp_path / "w.zip", bytes(range(256)) * 100)
    data = bytearray(path.read_bytes())
    data[60:90] = b"\xff" * 30
    path.write_bytes(data)
    with pytest.raises(SsferError, match="is damaged .*; get it again"):
        read_torch_file(path)
