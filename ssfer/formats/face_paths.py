"""Paths of faces in photos with several: the photo's path and the face's box, as in W3C Media Fragments (`#xywh=`)."""

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
    """Return the photo's path of a face's path; the path of a photo with one face is returned unchanged."""
    match = _PATH.fullmatch(path)
    return match["photo"] if match else path


def of_face(values: pa.ChunkedArray, sample_ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return hashes of photos with the face's box appended, so that several faces of one photo have different hashes.

    Args:
        values: (n,) strings or nulls.
        sample_ids: (n,) strings; those of several faces of a photo end in the face's box.
    """
    found = pc.extract_regex(sample_ids, rf"(?P<face>{_FACE})$")
    face = pc.fill_null(pc.struct_field(found, "face"), "")
    return pc.binary_join_element_wise(values, face, "")
