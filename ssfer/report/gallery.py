"""Pictures of faces for the report, as data URIs. Only called if params.report.gallery is true."""

from __future__ import annotations

from contextlib import closing
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ssfer.config.schema import Params
from ssfer.core.errors import SsferError
from ssfer.core.files import read_json
from ssfer.core.images import data_uri
from ssfer.formats.manifest import read_manifest
from ssfer.formats.shards import PLACE, ShardReader

FACES_PER_CLASS = 8
FACE_SIDE = 72
RECONSTRUCTION_WIDTH = (600, 1200)  # smallest and largest, in pixels


def reconstruction(path: Path = Path("data/weights/pretrain/reconstruction.png")) -> str | None:
    """Return the MAE's reconstruction picture, enlarged or shrunk to a page's width; None if there is none."""
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
    smallest, largest = RECONSTRUCTION_WIDTH
    factor = -(-smallest // image.width)
    if factor > 1:  # enlargement by an integer keeps sharp pixel edges
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((largest, 4 * largest), Image.Resampling.LANCZOS)
    return data_uri(_jpeg(image))


def sample_faces(params: Params, data: Path = Path("data")) -> dict[str, str]:
    """Return one strip of the first test faces per class, as stored by `align`; {} if the data is not here."""
    try:
        split = read_json(data / "splits" / "split.json")
        wanted = set(split["test"])
        strips: dict[str, list[Image.Image]] = {name: [] for name in split["classes"]}
        for source in (s for s in params.data.sources if s.labeled):
            folder = data / "faces" / source.name
            table = read_manifest(folder).select(["sample_id", "label", *PLACE])
            with closing(ShardReader(folder)) as reader:
                for row in table.to_pylist():
                    strip = strips.get(row["label"]) if row["sample_id"] in wanted and row["shard"] else None
                    if strip is not None and len(strip) < FACES_PER_CLASS:
                        with Image.open(BytesIO(reader.read(*(row[key] for key in PLACE)))) as face:
                            strip.append(face.convert("RGB").resize((FACE_SIDE, FACE_SIDE), Image.Resampling.LANCZOS))
    except (SsferError, OSError, KeyError, TypeError):
        return {}  # a clone with metrics but without data still gets its report
    return {name: data_uri(_jpeg(_strip(faces))) for name, faces in strips.items() if faces}


def _strip(faces: list[Image.Image]) -> Image.Image:
    gap = 4
    strip = Image.new("RGB", (len(faces) * (FACE_SIDE + gap) - gap, FACE_SIDE), "white")
    for i, face in enumerate(faces):
        strip.paste(face, (i * (FACE_SIDE + gap), 0))
    return strip


def _jpeg(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format="JPEG", quality=88)  # a new file without the source's EXIF
    return buffer.getvalue()
