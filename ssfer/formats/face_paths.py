"""Paths of several faces of one photo: the photo's path and the face's box, as in W3C Media Fragments (`#xywh=`)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

_FACE = r"#xywh=-?\d+,-?\d+,\d+,\d+"
_PATH = re.compile(rf"(?P<photo>.+)(?P<face>{_FACE})")


def face_path(photo: str, box: Sequence[float]) -> str:
    """Return the path of the face with this box (x1, y1, x2, y2; pixels) in a photo that has several."""
    x1, y1, x2, y2 = (round(v) for v in box)
    return f"{photo}#xywh={x1},{y1},{x2 - x1},{y2 - y1}"


def photo_of(path: str) -> str:
    """Return the photo's path; that of a photo with one face is its own."""
    match = _PATH.fullmatch(path)
    return match["photo"] if match else path


def of_face(values: pa.ChunkedArray, sample_ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return hashes of photos as hashes of faces: several faces of one photo are not the same picture.

    Args:
        values: (n,) strings or nulls.
        sample_ids: (n,) strings; what they end in says which face of the photo a row is.
    """
    found = pc.extract_regex(sample_ids, rf"(?P<face>{_FACE})$")
    face = pc.fill_null(pc.struct_field(found, "face"), "")
    return pc.binary_join_element_wise(values, face, "")
