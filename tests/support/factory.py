"""Small fake projects for tests: coloured patterns instead of faces, in the real on-disk formats."""

from __future__ import annotations

import copy
import io
from collections.abc import Collection, Container
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from ssfer.config.schema import Params, parse_params
from ssfer.core.files import read_json
from ssfer.core.places import SPLIT_FILE
from ssfer.core.yaml import read_yaml
from ssfer.data.split import save_split
from ssfer.formats.manifest import MANIFEST_NAME, SCHEMA, fingerprint, read_manifest, write_manifest
from ssfer.formats.shards import ShardWriter, crc32

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("anger", "happiness", "surprise")


def pattern(label: int, rng: np.random.Generator, size: int = 24) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return an (S, S, 3) picture of stripes whose direction tells the class, with noise and random colour."""
    y, x = np.mgrid[:size, :size]
    wave = np.sin((x, y, x + y)[label % 3] * 1.2 + rng.uniform(0, 6))
    picture = 128 + 60 * wave[:, :, None] * rng.uniform(0.5, 1, 3) + rng.normal(0, 10, (size, size, 3))
    return picture.clip(0, 255).astype(np.uint8)


def write_faces(
    folder: Path,
    source: str,
    labels: list[int],
    usage: str = "train",
    seed: int = 0,
    noise: Container[int] = (),
    mislabeled: Container[int] = (),
) -> list[str]:
    """Write manifest and one shard; label -1 means unlabeled. Return the sample ids.

    Rows in `noise` have a picture of noise instead of stripes, every second row in `mislabeled` the last class.
    """
    rng = np.random.default_rng(seed)
    rows = []
    with ShardWriter(folder / "shard-00000.tar") as shard:
        for i, label in enumerate(labels):
            buffer = io.BytesIO()
            picture = pattern(label, rng)
            if i in noise:
                picture = np.random.default_rng(i).integers(0, 256, picture.shape, dtype=np.uint8)
            if i in mislabeled:
                label = 2 if i % 2 else label
            Image.fromarray(picture).save(buffer, "PNG")
            name, offset, size = shard.add(f"{i:06d}.png", buffer.getvalue())
            row: dict[str, Any] = dict.fromkeys(SCHEMA.names)
            row |= {
                "sample_id": f"{source}/{usage}{i:06d}",
                "source": source,
                "path": f"{usage}{i:06d}.png",
                "label": CLASSES[label] if label >= 0 else None,
                "usage": usage,
                "pixel_sha256": f"{seed}-{usage}-{i}",
                "status": "ok",
                "face_found": True,
                "num_faces": 1,
                "crop_size": 24,
                "crop_box": [2.0 + i % 5, 3.0, 20.0, 22.0],
                "crop_recipe": "pattern-24",
                "shard": name,
                "offset": offset,
                "size": size,
                "crc32": crc32(buffer.getvalue()),
            }
            rows.append(row)
    write_manifest(rows, folder / MANIFEST_NAME)
    return [r["sample_id"] for r in rows]


@cache
def _read_params() -> Any:
    return read_yaml(ROOT / "params.yaml")  # takes a tenth of a second


def shipped_params() -> dict[str, Any]:
    """Return what params.yaml holds, to be changed."""
    return copy.deepcopy(_read_params())  # type: ignore[no-any-return]


def tiny_params(**sections: dict[str, Any]) -> Params:
    """Return the shipped params with a network and schedules that train in seconds; `sections` overrides keys."""
    raw = shipped_params()
    changes: dict[str, dict[str, Any]] = {
        "model": {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2},
        "pretrain": {
            "epochs": 3, "warmup_epochs": 1, "batch_size": 8,
            "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2,
        },
        "finetune": {"epochs": 2, "epochs_few_labels": 3, "batch_size": 8, "eval_every": 1, "warmup_epochs": 1},
        "semisup": {"epochs": 2, "batch_size": 4, "eval_every": 1},
        "methods": {"leaf": {"k_max": 2, "experts": 4}},  # 3 classes
        "machine": {"device": "cpu", "threads": 1, "num_workers": 0},
        "tracking": {"enabled": False},
    }  # fmt: skip
    for extra in (changes, sections):
        for name, values in extra.items():
            for key, value in values.items():
                if isinstance(value, dict):
                    raw[name].setdefault(key, {}).update(value)
                else:
                    raw[name][key] = value
    return parse_params(raw)


def write_project(root: Path, noise: Collection[str] = (), mislabeled: Collection[str] = ()) -> Params:
    """Fill `root` with a corpus, faces and a split of 3 classes: 18 labeled, 6 validation, 24 unlabeled, 12 test.

    The parts of the split named in `noise` have pictures of noise, those in `mislabeled` wrong labels.
    """
    rows = {"labeled": range(18), "valid": range(18, 24), "unlabeled": range(24, 48)}

    def of(parts: Collection[str], source: str) -> list[int]:
        if source == "exam":
            return list(range(12 * ("test" in parts)))
        return [i for part, numbers in rows.items() if part in parts for i in numbers]

    def write(source: str, count: int, usage: str, seed: int) -> list[str]:
        labels = [i % 3 for i in range(count)]
        poison = {"noise": of(noise, source), "mislabeled": of(mislabeled, source)}
        return write_faces(root / "data/faces" / source, source, labels, usage, seed, **poison)

    write_faces(root / "data/corpus", "corpus", [-1] * 40, seed=1)
    ids, test = write("faces", 48, "train", 2), write("exam", 12, "test", 3)
    tables = [read_manifest(root / "data/faces" / name) for name in ("faces", "exam")]
    split = {
        "version": 1,
        "classes": list(CLASSES),
        "params": {},
        "sources": ["faces", "exam"],
        "faces_fingerprint": fingerprint(pa.concat_tables(tables)),
        "labeled": ids[:18],
        "valid": ids[18:24],
        "unlabeled": ids[24:],
        "test": test,
    }
    save_split(split, root / SPLIT_FILE)
    return tiny_params()


def whole_split(root: Path = Path()) -> dict[str, Any]:
    """Return the split below `root` with its test part."""
    split: dict[str, Any] = read_json(root / SPLIT_FILE)
    return split


def change_split(root: Path = Path(), **entries: Any) -> None:
    """Replace entries of the split below `root`, and its hash."""
    save_split(whole_split(root) | entries, root / SPLIT_FILE)
