"""Count which changed copies of photos the leak check finds, and which other photos it drops.

Run: python -m benchmarks.changed_copies PHOTOS (a folder or zip of photos with one face each). Each kind of change is
applied to `--copies` photos; the copies are aligned as in stage align and searched for among the aligned originals. Of
`--photos` photos every third has no copy among the originals; these count the false drops.
"""

from __future__ import annotations

import argparse
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from benchmarks.photos import from_path
from ssfer.copies.find import matches
from ssfer.datasets.base import SourceSettings
from ssfer.faces.build import build_faces
from ssfer.faces.settings import AlignSettings
from ssfer.formats.manifest import read_manifest

CROP = 0.1  # of each side


def changed(photo: Image.Image) -> dict[str, Image.Image]:
    """Return a copy of the photo for each kind of change."""
    x, y = round(CROP * photo.width), round(CROP * photo.height)
    again = BytesIO()
    photo.save(again, "JPEG", quality=60)
    return {
        "same": photo,
        "recompressed": Image.open(again).copy(),
        "brightened": ImageEnhance.Brightness(photo).enhance(1.2),
        "smaller": photo.resize((round(0.8 * photo.width), round(0.8 * photo.height)), Image.Resampling.BICUBIC),
        "mirrored": ImageOps.mirror(photo),
        "turned": photo.rotate(10, Image.Resampling.BICUBIC),
        "cropped": photo.crop((x, y, photo.width - x, photo.height - y)),
    }


def main() -> None:
    """Print the numbers found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="folder or zip of photos")
    parser.add_argument("--photos", type=int, default=90, help="photos; every third one has no copy")
    parser.add_argument("--copies", type=int, default=7, help="copies per kind of change")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder)
        photos = dict(enumerate(from_path(args.path, args.photos)))
        others = {i for i in photos if i % 3 == 2}
        chosen = [i for i in photos if i not in others]
        chosen = [chosen[k] for k in np.unique(np.linspace(0, len(chosen) - 1, args.copies).astype(int))]
        parts = {"test": {f"test/{i}.jpg": photos[i] for i in photos if i not in others}}
        parts["train"] = {f"other/{i}.jpg": photos[i] for i in others}
        parts["train"] |= {f"{how}/{i}.jpg": copy for i in chosen for how, copy in changed(photos[i]).items()}
        tables = {}
        for part, images in parts.items():
            for name, image in images.items():
                path = raw / part / name
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path, quality=90)
            entry = {"name": part, "kind": "identities", "path": part, "labeled": False, "align": "similarity"}
            build_faces(SourceSettings(**entry), raw, raw / "faces" / part, AlignSettings())
            tables[part] = read_manifest(raw / "faces" / part)
        found = matches(tables["train"], tables["test"], raw / "faces", 8, 0.85).of
        names = tables["test"]["path"].to_pylist()
        rows = [
            (Path(p).parts[-2], Path(p).name, Path(names[of]).name if of >= 0 else "")
            for p, of in zip(tables["train"]["path"].to_pylist(), found.tolist(), strict=True)
        ]
    for how in sorted({kind for kind, _, _ in rows} - {"other"}):
        of_kind = [(name, match) for kind, name, match in rows if kind == how]
        print(f"{how:12} {sum(name == match for name, match in of_kind)} of {len(of_kind)} found")
    wrong = sum(match not in ("", name if kind != "other" else "") for kind, name, match in rows)
    print(f"false drops {wrong} of {len(rows)} photos, {len(rows) * len(names):,} pairs")


if __name__ == "__main__":
    main()
