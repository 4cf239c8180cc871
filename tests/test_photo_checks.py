"""The checks of photos one by one: reading, type, size, memory, the end of a picture, and what is told meanwhile."""

import errno
import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import picture
from PIL import Image
from xxhash import xxh3_128_digest

from batchupload import samples
from batchupload.model import Note, NoteKind, PhotoSet, Problem
from batchupload.photo_errors import PhotoError
from batchupload.photo_files import Folders, read_photo
from batchupload.photos import (
    BYTES_PER_PIXEL,
    JPEG,
    LARGE,
    PNG,
    Means,
    _jpeg_end,
    _png_end,
    load_photos,
    media_type_of,
    memory_of,
    size_of,
    validate,
)
from batchupload.picture_work import MOST_SIDE
from batchupload.reasons import Reason
from batchupload.shop_settings import PhotoSettings

NAMES = ("face", "back", "hand")
PATHS = {name: f"{name}.jpg" for name in NAMES}


def with_settings(**changes: Any) -> PhotoSettings:
    return PhotoSettings.model_validate({"small_side": 1, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / PATHS[name]).write_bytes(picture(name))
    return tmp_path


def problem(call: Callable[..., object], *arguments: Any) -> tuple[Reason, str] | None:
    try:
        call(*arguments)
    except PhotoError as error:
        return error.problem.reason, error.problem.detail
    return None


# The set


@pytest.mark.parametrize("warn", [True, False])
@pytest.mark.parametrize("media_type", [JPEG, PNG])
def test_damage_is_found_also_without_warnings(folder: Path, media_type: str, warn: bool) -> None:
    whole = picture("face", media_type=media_type)
    settings = with_settings(warn=warn)
    (folder / "face.jpg").write_bytes(whole)
    assert isinstance(load_photos(PATHS, folder, settings), PhotoSet)
    spoilt_ways = [whole[:-40], samples.with_trailing_data(whole)]
    if media_type == PNG:  # a JPEG has no checksums
        spoilt_ways.append(samples.corrupted(whole))
    for spoilt in spoilt_ways:
        (folder / "face.jpg").write_bytes(spoilt)
        found = load_photos(PATHS, folder, settings)
        assert isinstance(found, Problem)
        assert found.reason in {Reason.PHOTO_TRUNCATED, Reason.PHOTO_CORRUPT, Reason.PHOTO_TRAILING_DATA}
        assert found.detail.startswith("face")


@pytest.mark.parametrize(
    ("warn", "validate_", "kinds"),
    [
        (True, "full", [NoteKind.SMALL, NoteKind.BLANK]),
        (True, "header", [NoteKind.SMALL]),
        (True, "off", []),
        (False, "full", []),
    ],
)
def test_only_what_is_asked_for_is_warned_of(folder: Path, warn: bool, validate_: str, kinds: list[NoteKind]) -> None:
    file = io.BytesIO()
    Image.new("RGB", (640, 300), "white").save(file, "JPEG")
    (folder / "back.jpg").write_bytes(file.getvalue())
    for name in ("face", "hand"):
        (folder / PATHS[name]).write_bytes(samples.draw_photo(name, "", size=(640, 400)))
    found = load_photos(PATHS, folder, with_settings(warn=warn, validate=validate_, small_side=320))
    assert isinstance(found, PhotoSet)
    assert [note.kind for note in found.notes] == kinds
    assert all(note.text.startswith("back is ") for note in found.notes)


def test_photos_at_hand_are_mended_told_of_and_known_by_what_is_sent(folder: Path) -> None:
    told: list[str] = []
    (folder / "hand.jpg").unlink()

    def mend(content: bytes) -> tuple[bytes, str]:
        told.append("mend")
        return (picture("mended"), "resized") if content == picture("back") else (content, "")

    found = load_photos(
        PATHS, folder, with_settings(), fetched={"hand": picture("fetched")}, means=Means(mend, decoding=told.append)
    )
    contents = {"face": picture("face"), "back": picture("mended"), "hand": picture("fetched")}
    assert isinstance(found, PhotoSet)
    assert {photo.field: photo.content for photo in found.photos} == contents
    assert found.fields == NAMES
    assert found.digest == b"".join(xxh3_128_digest(contents[name]) for name in NAMES)
    assert found.notes == (Note(NoteKind.REPAIRED, "back: resized"),)
    assert told == [*(word for name in NAMES for word in ("", name, "mend")), *NAMES]


def test_what_was_mended_is_told_beside_what_is_warned_of(folder: Path) -> None:
    settings = with_settings(small_side=50)
    found = load_photos(PATHS, folder, settings, means=Means(lambda content: (content, "cut")))
    assert isinstance(found, PhotoSet)
    assert [note.kind for note in found.notes] == [NoteKind.REPAIRED] * 3 + [NoteKind.SMALL] * 3


def test_a_photo_that_can_not_be_mended_is_the_one_that_is_named(folder: Path) -> None:
    def mend(content: bytes) -> tuple[bytes, str]:
        if content == picture("back"):
            raise PhotoError(Reason.PHOTO_TOO_LARGE, "still")
        return content, ""

    found = load_photos(PATHS, folder, with_settings(), means=Means(mend))
    assert found == Problem(Reason.PHOTO_TOO_LARGE, "back: still", "back")


def test_the_first_two_fields_with_one_photo_are_named(folder: Path) -> None:
    (folder / "hand.jpg").write_bytes(picture("back"))
    assert load_photos(PATHS, folder, with_settings()) == Problem(Reason.PHOTO_REPEATED, "back and hand")


def test_a_shop_with_other_fields_has_another_digest(folder: Path) -> None:
    two = {name: PATHS[name] for name in ("face", "hand")}
    found = load_photos(two, folder, with_settings())
    assert isinstance(found, PhotoSet)
    assert found.digest == xxh3_128_digest(picture("face")) + xxh3_128_digest(picture("hand")) + b"fh"


# Reading


@contextmanager
def folders(folder: Path, *, allow_outside_root: bool = False) -> Iterator[Folders]:
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    with Folders(folder, allow_outside_root) as opened:
        yield opened
    after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    assert after == before


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_a_disk_that_reads_in_small_pieces_gives_the_whole_photo(
    folder: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    content = picture("face")
    original = os.read
    monkeypatch.setattr(os, "read", lambda file, size: original(file, min(size, piece)))
    with folders(folder) as opened:
        assert read_photo("face.jpg", opened, len(content)) == content
        assert problem(read_photo, "face.jpg", opened, len(content) - 1) is not None


@pytest.mark.parametrize("grown", [1, 5000, 1 << 20])
def test_a_photo_that_grows_while_it_is_read_is_read_to_its_end_or_its_limit(
    folder: Path, monkeypatch: pytest.MonkeyPatch, grown: int
) -> None:
    content, more = picture("face"), bytes(grown)
    original, taken = os.read, 0

    def growing(file: int, size: int) -> bytes:
        nonlocal taken
        if not taken:
            with (folder / "face.jpg").open("ab") as at_work:
                at_work.write(more)
        got = original(file, size)
        taken += len(got)
        return got

    monkeypatch.setattr(os, "read", growing)
    most = len(content) + 5000
    with folders(folder) as opened:
        found = problem(read_photo, "face.jpg", opened, most)
        if grown <= 5000:
            assert found is None
            (folder / "face.jpg").write_bytes(content)
            taken = 0
            assert read_photo("face.jpg", opened, most) == content + more
        else:
            assert found is not None
            assert found[0] is Reason.PHOTO_TOO_LARGE
            assert taken <= most + 1 + (1 << 16)


def test_a_photo_that_shrinks_while_it_is_read_is_what_is_left_of_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "back.jpg").write_bytes(b"")

    class Announced:
        st_mode = (folder / "face.jpg").stat().st_mode
        st_size = 1 << 20

    monkeypatch.setattr(os, "fstat", lambda file: Announced)
    with Folders(folder, allow_outside_root=False) as opened:
        assert read_photo("face.jpg", opened, 2 << 20) == picture("face")
        assert problem(read_photo, "back.jpg", opened, 2 << 20) == (Reason.PHOTO_EMPTY, "")


@pytest.mark.parametrize("call", ["fstat", "read"])
def test_a_photo_that_the_disk_does_not_give_is_unreadable_and_is_closed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def failing(*_: object) -> bytes:
        raise OSError(errno.EACCES, "Permission denied")

    with folders(folder) as opened:
        monkeypatch.setattr(os, call, failing)
        assert problem(read_photo, "face.jpg", opened, 1 << 20) == (Reason.PHOTO_UNREADABLE, "permission denied")
        monkeypatch.undo()


@pytest.mark.parametrize("outside", [False, True])
def test_photos_of_several_folders_are_read_and_nothing_stays_open(tmp_path: Path, outside: bool) -> None:
    names = ["a/b/1", "a/b/2", "a/3", "4", "a/b/5", "./a/../6"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "a/link").symlink_to("b")
    with folders(tmp_path, allow_outside_root=outside) as opened:
        for name in names:
            assert read_photo(name, opened, 100) == name.encode()
        assert read_photo("a\\link\\1", opened, 100) == b"a/b/1"
        for missing in ("a/gone", "gone/1", "a/b/1/2", "a\0b", "\ud800"):
            assert problem(read_photo, missing, opened, 100) == (Reason.PHOTO_MISSING, "")
        assert problem(read_photo, "a/b", opened, 100) == (Reason.PHOTO_NOT_A_FILE, "")
        assert read_photo("4", opened, 100) == b"4"


def test_a_folder_is_opened_once_for_the_photos_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/b/1", "a/b/2", "a/b/3", "4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    original, opened = os.open, list[str]()

    def seen(path: Any, *arguments: Any, **named: Any) -> int:
        opened.append(os.path.basename(path))
        return original(path, *arguments, **named)

    monkeypatch.setattr(os, "open", seen)
    with folders(tmp_path) as at_hand:
        for name in ("a/b/1", "a/b/2", "a/b/3", "4"):
            read_photo(name, at_hand, 100)
    assert opened == [tmp_path.name, "a", "b", "1", "2", "3", tmp_path.name, "4"]


def test_a_folder_that_is_gone_meanwhile_costs_no_other_descriptor(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("a/1", "b/2"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(name)
    with folders(root) as opened:
        assert read_photo("a/1", opened, 100) == b"a/1"
        root.rename(tmp_path / "away")
        assert problem(read_photo, "b/2", opened, 100) == (Reason.PHOTO_MISSING, "")
        (tmp_path / "away").rename(root)
        assert read_photo("b/2", opened, 100) == b"b/2"
        root.rename(tmp_path / "away")
        assert problem(read_photo, "a/1", opened, 100) == (Reason.PHOTO_MISSING, "")


def test_a_pipe_that_takes_a_photos_place_meanwhile_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "face.jpg").unlink()
    os.mkfifo(folder / "face.jpg")
    monkeypatch.setattr("batchupload.photo_files._refuse_special", lambda _: None)  # as if it had been a file then
    with folders(folder) as opened:
        assert problem(read_photo, "face.jpg", opened, 100) == (Reason.PHOTO_NOT_A_FILE, "")


def test_a_name_that_begins_with_dots_leads_nowhere_else(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "..a").mkdir(parents=True)
    for name in ("..a/1", "..2"):
        (root / name).write_text(name)
    (tmp_path / "3").write_text("3")
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2/4").write_text("4")
    with folders(root) as opened:
        assert read_photo("..a/1", opened, 100) == b"..a/1"
        assert read_photo("..2", opened, 100) == b"..2"
        assert read_photo("../root/..2", opened, 100) == b"..2"
        assert read_photo(str(root / "..2"), opened, 100) == b"..2"
        for path in ("../3", "..", "../root2/4", str(tmp_path / "3"), "/"):
            assert problem(read_photo, path, opened, 100) == (Reason.PHOTO_OUTSIDE_ROOT, "")


# Type and size


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"GIF89a", "GIF"), (b"%PDF-1.4", "PDF"), (b"RIFF\0\0\0\0WEBP", "WebP"), (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\0\0\0\x18ftyphevc", "HEIC"), (b"\0\0\0\x18ftypmif1", "HEIC"), (b"\0\0\0\x18ftypavif", "AVIF"),
        (b"\0\0\0\x18ftypmp42", "a video"), (b"BM\0\0", "BMP"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"),
        (b"PK\x03\x04", "a ZIP archive or Office document"), (b"<html>", "HTML or XML"), (b'{"code":1}', "JSON"),
    ],
)  # fmt: skip
def test_what_is_no_photo_is_called_by_its_name(content: bytes, said: str) -> None:
    assert problem(media_type_of, content) == (Reason.PHOTO_WRONG_TYPE, f"this is {said}")
    assert problem(media_type_of, b"." + content) == (Reason.PHOTO_WRONG_TYPE, "")


def png(width: int, height: int, kind: bytes = b"IHDR", length: int = 13, spoil: int = 0) -> bytes:
    body = kind + struct.pack(">II", width, height) + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", length) + body + struct.pack(">I", zlib.crc32(body) ^ spoil)


def jpeg(width: int, height: int, kind: int = 0xC0, fill: int = 0, before: bytes = b"") -> bytes:
    frame = struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\1\x11\0"
    return b"\xff\xd8" + before + b"\xff" * fill + bytes([0xFF, kind]) + frame


COMMENT = b"\xff\xfe\0\x06\xff\xc0\0\0"
"""A segment whose content looks like a frame."""


def test_width_and_height_are_those_of_the_header_whatever_stands_before_it() -> None:
    assert size_of(png(640, 400)) == (640, 400)
    assert size_of(jpeg(640, 400)) == (640, 400)
    assert size_of(jpeg(640, 400, fill=3, before=COMMENT + COMMENT)) == (640, 400)
    for kind in sorted(set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}):
        assert size_of(jpeg(640, 400, kind)) == (640, 400)
    for kind in (0xC4, 0xC8, 0xCC, 0xE1):  # no frames
        assert size_of(jpeg(9, 9, kind) + jpeg(640, 400)[2:]) == (640, 400)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        *((png(*size), Reason.PHOTO_CORRUPT) for size in ((0, 5), (5, 0))),
        *((jpeg(*size), Reason.PHOTO_CORRUPT) for size in ((0, 5), (5, 0))),
        (png(5, 5, b"IDAT"), Reason.PHOTO_CORRUPT),
        (png(5, 5, length=12), Reason.PHOTO_CORRUPT),
        (png(5, 5, spoil=1), Reason.PHOTO_CORRUPT),
        (png(5, 5)[:-1], Reason.PHOTO_TRUNCATED),
        (jpeg(5, 5)[:-5], Reason.PHOTO_TRUNCATED),
        (b"\xff\xd8\xff", Reason.PHOTO_TRUNCATED),
        (b"\xff\xd8\xff\xff", Reason.PHOTO_TRUNCATED),
        (b"\xff\xd8\xff\xfe\0", Reason.PHOTO_TRUNCATED),
        *(
            (b"\xff\xd8\xff" + bytes([kind]) + b"\0\2" + jpeg(5, 5)[2:], Reason.PHOTO_CORRUPT)
            for kind in (0xD8, 0xD9, 0xDA)
        ),
        (b"\xff\xd8\0\xc0" + bytes(20), Reason.PHOTO_CORRUPT),
    ],
)
def test_a_header_that_is_damaged_is_told_from_one_that_is_cut_off(content: bytes, reason: Reason) -> None:
    assert problem(size_of, content) == (reason, "")


@pytest.mark.parametrize("make", [png, jpeg])
def test_the_bounds_of_pixels_and_sides_are_exact(make: Callable[[int, int], bytes]) -> None:
    settings = with_settings(validate="header", max_pixels=1_000_000)
    assert problem(validate, make(1000, 1000), settings) is None
    found = problem(validate, make(1000, 1001), settings)
    assert found == (Reason.PHOTO_TOO_MANY_PIXELS, "1000 × 1001, at most 1000000")
    assert problem(validate, make(MOST_SIDE, 1), settings) is None
    assert problem(validate, make(1, MOST_SIDE), settings) is None
    assert validate(make(1000, 20), settings).size == (1000, 20)
    assert validate(make(1000, 20), settings).looks is None


@pytest.mark.parametrize("size", [(MOST_SIDE + 1, 1), (1, MOST_SIDE + 1)])
def test_a_side_is_bounded_by_itself(size: tuple[int, int]) -> None:
    found = problem(validate, png(*size), with_settings(validate="header"))
    assert found == (Reason.PHOTO_TOO_MANY_PIXELS, f"{size[0]} × {size[1]}, at most {MOST_SIDE} along one side")


# Memory


def drawn(form: str, side: int, **how: Any) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((side, side), 9).save(file, form, **how)
    return file.getvalue()


def test_memory_is_that_of_the_pixels_of_the_eighth_or_of_all_that_is_kept() -> None:
    most = 50_000_000
    assert memory_of(drawn("PNG", 64), most) == 64 * 64 * BYTES_PER_PIXEL
    assert memory_of(drawn("JPEG", 64), most) == 64 * 64 * BYTES_PER_PIXEL // 64
    progressive = drawn("JPEG", 64, progressive=True)
    assert memory_of(progressive, most) == 64 * 64 * 2
    assert memory_of(progressive, 64 * 64 * 2 // BYTES_PER_PIXEL) == 64 * 64 * 2
    found = problem(memory_of, drawn("JPEG", 2048, progressive=True), 2048 * 2048 * 2 // BYTES_PER_PIXEL - 1)
    assert found == (Reason.PHOTO_TOO_MANY_PIXELS, "progressive: to decode it takes 8 MB, at most 7")


def test_only_a_large_picture_waits_for_room_and_gives_it_back(folder: Path) -> None:
    asked: list[int] = []
    left: list[int] = []

    @contextmanager
    def room(size: int) -> Iterator[None]:
        asked.append(size)
        yield
        left.append(size)

    side = int((LARGE / BYTES_PER_PIXEL) ** 0.5)  # 2048
    small, large = drawn("PNG", side // 2), drawn("PNG", side)
    settings = with_settings()
    validate(small, settings, room)
    assert asked == []
    validate(large, settings, room)
    assert asked == left == [LARGE]
    validate(large, with_settings(validate="header"), room)
    assert asked == [LARGE]
    (folder / "back.jpg").write_bytes(large)
    found = load_photos(PATHS, folder, with_settings(max_bytes=1 << 25), means=Means(room=room))
    assert isinstance(found, PhotoSet)
    assert asked == left == [LARGE] * 2


# The end of a picture


def test_how_much_stands_behind_a_picture_is_said() -> None:
    for whole in (picture("face"), picture("face", media_type=PNG)):
        assert problem(validate, whole + b"\0\0x\0", with_settings()) == (
            Reason.PHOTO_TRAILING_DATA,
            "4 bytes behind the picture",
        )
        assert problem(validate, whole + b"\0" * 9, with_settings()) is None
        assert problem(validate, whole + b"x", with_settings(allow_trailing_data=True)) is None


def of_several(*parts: bytes) -> bytes:
    file = io.BytesIO()
    first, *others = (Image.open(io.BytesIO(part)) for part in parts)
    first.save(file, "MPO", save_all=True, append_images=others)
    return file.getvalue()


def test_each_picture_of_several_must_be_whole_and_nothing_may_stand_behind_the_last() -> None:
    whole = of_several(picture("face"), picture("back"), picture("hand"))
    assert problem(validate, whole, with_settings()) is None
    assert problem(validate, whole + b"x", with_settings()) == (
        Reason.PHOTO_TRAILING_DATA,
        "1 bytes behind the picture",
    )
    assert problem(validate, whole[:-40], with_settings()) == (Reason.PHOTO_TRUNCATED, "")
    # A second JPEG behind one that does not announce it is none of it.
    found = problem(validate, picture("face") + picture("back"), with_settings())
    assert found == (Reason.PHOTO_TRAILING_DATA, f"{len(picture('back'))} bytes behind the picture")


def with_restarts(count: int, wrong: Mapping[int, int] | None = None, gap: int = 3) -> bytes:
    """What follows a JPEG's last header: coded data with so many restart markers, some of them `wrong`."""
    marks = (bytes([0xFF, 0xD0 + (wrong or {}).get(number, number % 8)]) for number in range(count))
    return b"".join(bytes([7]) * gap + mark for mark in marks) + b"\7\7"


@pytest.mark.parametrize("gap", [3, 1 << 15, (1 << 18) - 1, 1 << 18])
def test_restart_markers_count_up_to_7_and_begin_anew_however_far_apart(gap: int) -> None:
    count = 10 if gap > 3 else 150_000
    head, end = b"\xff\xd8\xff\xda\0\2", b"\xff\xd9"
    whole = head + with_restarts(count, gap=gap) + end
    assert _jpeg_end(whole + b"more", 0) == len(whole)
    for place in (0, 1, 7, 8, count - 1):
        spoilt = head + with_restarts(count, {place: (place + 1) % 8}, gap) + end
        assert problem(_jpeg_end, spoilt, 0) == (Reason.PHOTO_CORRUPT, "")


@pytest.mark.parametrize(
    ("middle", "reason"),
    [
        (b"", None),
        (b"\xff\x01\xff\xfe\0\4\xff\xd9", None),  # TEM has no length; a comment may hold anything
        (b"\xff\xff\xff\xfe\0\2", None),
        (b"\xff\0\xff\0", None),
        (b"\xff\x02\0\2", Reason.PHOTO_CORRUPT),
        (b"\xff\xbf\0\2", Reason.PHOTO_CORRUPT),
        (b"\xff\xc0\0\2", None),
        (b"\xff\xfe\xff\xff", Reason.PHOTO_TRUNCATED),
    ],
)
def test_the_end_of_a_jpeg_is_the_first_that_is_in_no_segment(middle: bytes, reason: Reason | None) -> None:
    for start in (0, 5):
        content = bytes(start) + b"\xff\xd8\xff\xda\0\2\7\7" + middle + b"\7\xff\xd9"
        if reason:
            assert problem(_jpeg_end, content + b"more", start) == (reason, "")
        else:
            assert _jpeg_end(content + b"more", start) == len(content)


def test_a_jpeg_that_is_cut_within_a_segment_s_length_is_truncated() -> None:
    assert problem(_jpeg_end, b"\xff\xd8\xff\xda\0\2\7\xff\xfe\0", 0) == (Reason.PHOTO_TRUNCATED, "")


def chunk(kind: bytes, body: bytes, spoil: int = 0) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ spoil)


def test_the_end_of_a_png_is_that_of_its_last_chunk_and_every_checksum_is_right() -> None:
    start, end = b"\x89PNG\r\n\x1a\n", chunk(b"IEND", b"")
    body = start + chunk(b"IHDR", bytes(13)) + chunk(b"tEXt", b"IEND is only a word here")
    assert _png_end(body + end + b"more") == len(body + end)
    assert _png_end(body + end) == len(body + end)
    for spoilt, reason in [
        (body, Reason.PHOTO_TRUNCATED),
        (body + end[:-1], Reason.PHOTO_TRUNCATED),
        (body + chunk(b"IDAT", b"x", spoil=1) + end, Reason.PHOTO_CORRUPT),
        (body + chunk(b"IEND", b"", spoil=1), Reason.PHOTO_CORRUPT),
        (body + struct.pack(">I", 1 << 20) + b"IDATxx" + end, Reason.PHOTO_CORRUPT),
        (body + struct.pack(">I", 1 << 20) + b"IDATxx", Reason.PHOTO_TRUNCATED),
    ]:
        assert problem(_png_end, spoilt) == (reason, "")
