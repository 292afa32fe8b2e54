"""Adience's five fold files and its two forms of photos."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ssfer.core.errors import SsferError
from ssfer.core.labels import ADIENCE_AGES
from ssfer.data.folds import official_folds
from ssfer.datasets.adience import age_group
from ssfer.datasets.registry import SOURCES
from tests.support.source_files import open_kind

HEADER = "user_id\toriginal_image\tface_id\tage\tgender\tx\ty\tdx\tdy\ttilt_ang\tfiducial_yaw_angle\tfiducial_score"
TAIL = "0\t414\t1086\t1383\t-115\t30\t17"
# fold -> (user, image, face, age, gender)
ROWS = {
    0: [("30601258@N03", "10399646885_67c7d20df9_o.jpg", 1, "(25, 32)", "f")],
    1: [("7464014@N04", "a.jpg", 2, "(8, 12)", "m"), ("7464014@N04", "a.jpg", 3, "None", "u")],
    2: [("2@N00", "b.jpg", 4, "35", "m"), ("2@N00", "c.jpg", 5, "(60, 100)", "")],
    3: [("3@N00", "d.jpg", 6, "", "f"), ("3@N00", "d.jpg", 7, "3", "F")],
    4: [("4@N00", "e.jpg", 8, "(38, 48)", "m"), ("4@N00", "e.jpg", 8, "(38, 48)", "m")],
}


def photo(images: str, user: str, image: str, face: int) -> str:
    prefix = {"aligned": "landmark_aligned_face", "faces": "coarse_tilt_aligned_face"}[images]
    return f"{images}/{user}/{prefix}.{face}.{image}"


def adience_files() -> dict[str, bytes]:
    files = {}
    for fold, rows in ROWS.items():
        lines = [HEADER, *("\t".join([*map(str, row), TAIL]) for row in rows)]
        files[f"fold_{fold}_data.txt"] = ("\n".join(lines) + "\n").encode()
        files[f"fold_frontal_{fold}_data.txt"] = b"not read"
        for user, image, face, *_ in rows:
            for images in ("aligned", "faces"):
                name = photo(images, user, image, face)
                files[name] = name.encode()
    return files


def write(root: Path, files: dict[str, bytes], kind: str = "folder", outer: str = "") -> Path:
    if kind == "zip":
        with zipfile.ZipFile(root / "set.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(outer + name, data)
        return root / "set.zip"
    for name, data in files.items():
        path = root / "set" / outer / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root / "set"


@pytest.mark.parametrize("outer", ["", "AdienceBenchmark/"])
@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("images", ["aligned", "faces"])
def test_age_groups_of_the_official_folds(tmp_path: Path, images: str, kind: str, outer: str) -> None:
    source = open_kind("adience", write(tmp_path, adience_files(), kind, outer), attribute="age", fold=0, images=images)
    paths = [photo(images, *row[:3]) for i in (0, 1, 2, 3, 4) for row in ROWS[i]]
    assert [(r.path, r.label, r.usage, r.identity) for r in source.records()] == [
        (paths[0], "25-32", "test", "30601258@N03"),
        (paths[1], "8-13", "train", "7464014@N04"),
        (paths[3], "38-43", "train", "2@N00"),
        (paths[4], "60-100", "train", "2@N00"),
        (paths[6], "0-2", "train", "3@N00"),
        (paths[7], "38-43", "train", "4@N00"),
    ]
    folds = official_folds([r.truth for r in source.records()], 5)  # what stage split makes of it
    assert folds.tolist() == [0, 1, 2, 2, 3, 4]
    assert dict(source.dropped) == {"no_age": 2, "duplicate_row": 1}
    assert source.variant == f"Adience, age, {images} photos, tested on fold 0"
    assert source.counts() == []
    assert len(source.notes) == 1
    assert "list 9 photos of 5 people" in source.notes[0]
    assert [source.read(r) for r in source.records()] == [r.path.encode() for r in source.records()]


def test_genders_and_another_fold(tmp_path: Path) -> None:
    source = open_kind("adience", write(tmp_path, adience_files()), attribute="gender", fold=4)
    assert [(r.label, r.usage) for r in source.records()] == [
        ("female", "train"),
        ("male", "train"),
        ("male", "train"),
        ("female", "train"),
        ("female", "train"),
        ("male", "test"),
    ]
    assert dict(source.dropped) == {"no_gender": 2, "duplicate_row": 1}
    assert source.variant == "Adience, gender, aligned photos, tested on fold 4"


@pytest.mark.parametrize(
    ("text", "group"),
    [
        *((f"({g.replace('-', ', ')})", g) for g in ADIENCE_AGES),
        ("(8, 12)", "8-13"),
        ("(27, 32)", "25-32"),
        ("(38, 42)", "38-43"),
        ("(38, 48)", "38-43"),
        ("(8, 23)", "15-20"),
        ("(25,32)", "25-32"),
        *(
            ("2", "0-2"),
            ("3", "0-2"),
            ("13", "8-13"),
            ("22", "15-20"),
            ("23", "25-32"),
            ("29", "25-32"),
            ("34", "25-32"),
        ),
        *(("35", "38-43"), ("36", "38-43"), ("42", "38-43"), ("45", "38-43"), ("46", "48-53"), ("55", "48-53")),
        *(("56", "48-53"), ("57", "60-100"), ("58", "60-100"), ("101", "60-100"), ("0", "0-2")),
        ("None", None),
        ("", None),
    ],
)
def test_stray_ages_have_a_group(text: str, group: str | None) -> None:
    assert age_group(text) == group


def test_people_in_training_and_test_are_noted(tmp_path: Path) -> None:
    files = adience_files()
    extra = photo("aligned", "2@N00", "z.jpg", 9)
    files |= {
        extra: b"",
        "fold_0_data.txt": files["fold_0_data.txt"] + f"2@N00\tz.jpg\t9\t(0, 2)\tf\t{TAIL}\n".encode(),
    }
    source = open_kind("adience", write(tmp_path, files))
    assert source.notes[1:] == ["1 people are in training and test, expected none with the official folds"]


def _replace(name: str, old: bytes, new: bytes) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        assert old in files[name]
        files[name] = files[name].replace(old, new)

    return change


def _remove(*starts: str) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        for name in [n for n in files if n.startswith(starts)]:
            del files[name]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _remove("fold_3_data"),
            r"expected fold_0_data\.txt to fold_4_data\.txt, .* found .*fold_2_data\.txt, fold_4",
        ),
        (_remove("fold_0", "fold_1", "fold_2", "fold_3", "fold_4"), "found none of them"),
        (
            lambda f: f.update({"copy/fold_1_data.txt": b""}),
            r"each once, in .*fold_4_data\.txt in 6 files; copy all five there",
        ),
        (
            _replace("fold_2_data.txt", b"\tage\t", b"\told\t"),
            r"fold_2_data\.txt: expected the columns .* found no 'age' among",
        ),
        (lambda f: f.update({"fold_2_data.txt": b""}), r"found no 'user_id' among ;"),
        (_replace("fold_2_data.txt", b"\tb.jpg", b""), r"fold_2_data\.txt, line 2: expected an age .* found 'm'"),
        (
            lambda f: f.update({"fold_2_data.txt": f"{HEADER}\n2\tb\n".encode()}),
            "expected 12 tab-.* columns, found 2",
        ),
        (
            _replace("fold_1_data.txt", b"(8, 12)", b"(8; 12)"),
            r"fold_1_data\.txt, line 2: expected .*'\(8; 12\)'",
        ),
        (_remove("aligned/"), r"expected one folder 'aligned' .*, found 0; unpack aligned\.tar\.gz"),
        (lambda f: f.update({"old/aligned/x.jpg": b""}), "expected one folder 'aligned' .* found 2"),
    ],
)
def test_mistakes_get_one_sentence(tmp_path: Path, change: Callable, message: str) -> None:
    files = adience_files()
    change(files)
    with pytest.raises(SsferError, match=message) as error:
        open_kind("adience", write(tmp_path, files))
    assert "\n" not in str(error.value)


def test_an_unknown_gender_is_refused(tmp_path: Path) -> None:
    files = adience_files()
    _replace("fold_0_data.txt", b"\tf\t", b"\tfemal\t")(files)
    with pytest.raises(SsferError, match=r"unknown gender \(.*fold_0_data\.txt, line 2\) 'femal' .*\(known: f, m, u\)"):
        open_kind("adience", write(tmp_path, files), attribute="gender")


def test_photos_that_are_missing_keep_their_rows_unless_most_are(tmp_path: Path) -> None:
    files = adience_files()
    _remove("aligned/2@N00")(files)
    source = open_kind("adience", write(tmp_path / "some", files))
    assert (len(source.records()), len(source.missing)) == (6, 2)
    _remove("aligned/3@N00")(files)
    with pytest.raises(SsferError, match=r"lists 6 images, 3 of them are missing, the first is 'aligned/"):
        open_kind("adience", write(tmp_path / "most", files))


def test_rows_cannot_reach_files_outside(tmp_path: Path) -> None:
    files = adience_files()
    _replace("fold_0_data.txt", b"30601258@N03", b"../../..")(files)
    (tmp_path / "landmark_aligned_face.1.10399646885_67c7d20df9_o.jpg").write_bytes(b"secret")
    with pytest.raises(SsferError, match=r"lists 'aligned/\.\./\.\./\.\./.*', which is not inside the data set"):
        open_kind("adience", write(tmp_path, files))


def test_recognized_by_its_fold_files() -> None:
    assert SOURCES["adience"].recognize(["A/fold_0_data.txt", "A/fold_1_data.txt"])
    assert not SOURCES["adience"].recognize(["fold_frontal_0_data.txt", "aligned/1/landmark_aligned_face.1.a.jpg"])
    assert not SOURCES["adience"].recognize(["my_data.txt"])
