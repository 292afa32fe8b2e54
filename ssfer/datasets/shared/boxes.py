"""Boxes of faces in a table, recognized by the names of their columns and read row by row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product

from ssfer.core.errors import SsferError

Box = tuple[float, float, float, float]
XYWH, XYXY = "xywh", "xyxy"
FORMATS = {XYWH: "left, top, width, height", XYXY: "left, top, right, bottom"}
# Names of columns, in lower case without blanks, dots, hyphens and underscores.
_PREFIXES = ("", "face", "box", "bbox", "facebox", "facebbox", "rect", "facerect", "roi", "boundingbox")
_CORNERS = (("x", "y"), ("x1", "y1"), ("x0", "y0"), ("xmin", "ymin"), ("minx", "miny"), ("left", "top"), ("l", "t"))
_SIZES = (("w", "h"), ("width", "height"), ("dx", "dy"))
_FAR = {
    "x": ("x2", "y2"), "x1": ("x2", "y2"), "x0": ("x1", "y1"), "xmin": ("xmax", "ymax"), "minx": ("maxx", "maxy"),
    "left": ("right", "bottom"), "l": ("r", "b"),
}  # fmt: skip
_ONE_COLUMN = ("bbox", "box", "boundingbox", "facebox", "facebbox", "rect", "facerect", "roi", "facelocation")
_MOST = 100_000  # px; no photo is as wide
_NOTHING = ("", "nan", "none", "null", "[]")
_NUMBER = r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?"
_FOUR = re.compile(rf"[\[({{\s]*({_NUMBER})[\s,;|]+({_NUMBER})[\s,;|]+({_NUMBER})[\s,;|]+({_NUMBER})[\])}}\s]*")


def box_columns(header: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Return the columns that hold boxes, by their names, and their format; "" (unknown) if it is a single column."""
    plain = [re.sub(r"[\s._-]", "", name.lower()) for name in header]
    by_name = {name: column for name, column in zip(plain, header, strict=True) if plain.count(name) == 1}
    for prefix, corner in product(_PREFIXES, _CORNERS):
        for form, end in ((XYXY, _FAR[corner[0]]), *((XYWH, size) for size in _SIZES)):
            wanted = [prefix + name for name in (*corner, *end)]
            if all(name in by_name for name in wanted):
                return tuple(by_name[name] for name in wanted), form
    single = [by_name[name] for name in _ONE_COLUMN if name in by_name]
    return tuple(single[:1]), ""


def box_of(cells: Mapping[str, str], columns: Sequence[str], form: str, where: str) -> Box | None:
    """Return the box (x1, y1, x2, y2) of a row in pixels; None if its cells are empty.

    Raises:
        SsferError: not the numbers of a box; `where` names the row.
    """
    written = [cells[column] for column in columns]
    if all(text.lower() in _NOTHING for text in written):
        return None
    numbers = four_numbers(written)
    x1, y1, x2, y2 = numbers or (0.0,) * 4
    if form == XYWH:
        x2, y2 = x1 + x2, y1 + y2
    if not (max(map(abs, (x1, y1, x2, y2))) < _MOST and x2 > x1 and y2 > y1):
        raise SsferError(
            f"{where}: expected the box of a face in pixels ({FORMATS[form]}), found '{', '.join(written)[:60]}'; "
            "empty cells mean no box, box_format says what the numbers are"
        )
    return x1, y1, x2, y2


def four_numbers(written: Sequence[str]) -> Box | None:
    """Return the numbers in four cells, or in one; None if they are not four numbers."""
    match = _FOUR.fullmatch(", ".join(written))
    return (float(match[1]), float(match[2]), float(match[3]), float(match[4])) if match else None


def refuse_shares(where: str, boxes: Iterable[Box | None]) -> None:
    """Refuse boxes in shares of the photo's sides instead of pixels.

    Raises:
        SsferError: no box is larger than one pixel.
    """
    sides = [max(x2 - x1, y2 - y1) for x1, y1, x2, y2 in filter(None, boxes)]
    if sides and max(sides) <= 1:
        raise SsferError(
            f"the boxes in {where} are at most {max(sides):g} wide and high, so they are shares of the photo; expected "
            "pixels: multiply them by the photo's width and height"
        )


def format_by_photos(numbers: Sequence[Box], sizes: Sequence[tuple[int, int]]) -> str | None:
    """Return the only format that fits the four numbers of every photo; None if both fit or neither.

    Args:
        numbers: as written.
        sizes: width and height of their photos.
    """
    possible = {
        XYWH: all(a + c <= w + 1 and b + d <= h + 1 for (a, b, c, d), (w, h) in zip(numbers, sizes, strict=True)),
        XYXY: all(a < c <= w + 1 and b < d <= h + 1 for (a, b, c, d), (w, h) in zip(numbers, sizes, strict=True)),
    }
    forms = [form for form, holds in possible.items() if holds]
    return forms[0] if len(forms) == 1 and numbers else None
