"""Photos from disk: what is good is taken byte by byte, and what is not is refused at once, with its reason."""

import errno
import io
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Shop, as_plain_user, batchupload, picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from batchupload import samples
from batchupload.model import PHOTO_FIELDS, PhotoSet, Problem
from batchupload.photos import JPEG, PNG, PhotoError, load_photos, media_type_of, validate
from batchupload.reasons import Reason
from batchupload.shop_settings import PhotoSettings

LIMIT = 2 * 1024 * 1024


def with_settings(**changes: Any) -> PhotoSettings:
    return PhotoSettings.model_validate(changes)


def load(folder: Path, settings: PhotoSettings, **paths: str) -> PhotoSet | Problem:
    """An order whose other photos are good."""
    for name in ("face", "back", "hand"):
        (folder / f"good-{name}.jpg").write_bytes(picture(name))
    return load_photos(
        {name: paths.get(name, f"good-{name}.jpg") for name in ("face", "back", "hand")}, folder, settings
    )


def reason_for(folder: Path, content: bytes, **changes: Any) -> str | None:
    (folder / "face.jpg").write_bytes(content)
    found = load(folder, with_settings(**changes), face="face.jpg")
    return found.reason if isinstance(found, Problem) else None


def test_the_bytes_that_are_validated_are_the_bytes_that_are_loaded(tmp_path: Path) -> None:
    found = load(tmp_path, PhotoSettings())
    assert isinstance(found, PhotoSet)
    assert {photo.field: photo.content for photo in found.photos} == {
        name: picture(name) for name in ("face", "back", "hand")
    }
    assert found.size == sum(len(photo.content) for photo in found.photos)


def test_a_png_under_a_jpeg_name_has_its_true_type(tmp_path: Path) -> None:
    (tmp_path / "face.jpg").write_bytes(picture("face", media_type=PNG))
    found = load(tmp_path, PhotoSettings(), face="face.jpg")
    assert isinstance(found, PhotoSet)
    assert [photo.media_type for photo in found.photos] == [PNG, JPEG, JPEG]


@pytest.mark.parametrize("media_type", [JPEG, PNG])
@pytest.mark.parametrize(("size", "reason"), [(LIMIT - 1, None), (LIMIT, None), (LIMIT + 1, "photo_too_large")])
def test_the_size_limit_is_exact(tmp_path: Path, media_type: str, size: int, reason: str | None) -> None:
    assert reason_for(tmp_path, samples.draw_photo("face", "", media_type, target_bytes=size)) == reason


SPOILT: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "photo_empty"),
    "text": (b"see attachment", "photo_wrong_type"),
    "HTML": (b"<html>not found</html>", "photo_wrong_type"),
    "GIF": (samples.gif(), "photo_wrong_type"),
    "HEIC": (samples.HEIC_LIKE, "photo_wrong_type"),
    "PDF": (samples.PDF_LIKE, "photo_wrong_type"),
    "WebP": (b"RIFF\x24\0\0\0WEBPVP8 " + bytes(30), "photo_wrong_type"),
    "BMP": (b"BM" + bytes(60), "photo_wrong_type"),
    "ZIP": (b"PK\x03\x04" + bytes(60), "photo_wrong_type"),
    "JPEG start only": (b"\xff\xd8\xff", "photo_truncated"),
    "PNG start only": (b"\x89PNG\r\n\x1a\n", "photo_truncated"),
    "JPEG and ZIP": (samples.with_trailing_data(picture("face")), "photo_trailing_data"),
    "PNG and ZIP": (samples.with_trailing_data(picture("face", media_type=PNG)), "photo_trailing_data"),
    "PNG damaged": (samples.corrupted(picture("face", media_type=PNG)), "photo_corrupt"),
    "bomb": (samples.bomb(), "photo_too_many_pixels"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_photo_is_refused_with_its_reason(tmp_path: Path, name: str) -> None:
    content, reason = SPOILT[name]
    assert reason_for(tmp_path, content) == reason


def test_one_wrong_bit_anywhere_in_a_png_is_found(tmp_path: Path) -> None:
    content = picture("face", media_type=PNG)
    for step in range(100):
        at = 8 + (len(content) - 9) * step // 99
        spoilt = content[:at] + bytes([content[at] ^ 1 << step % 8]) + content[at + 1 :]
        assert reason_for(tmp_path, spoilt) in {"photo_corrupt", "photo_truncated", "photo_too_many_pixels"}, at


@pytest.mark.parametrize(
    ("content", "kind"), [(samples.HEIC_LIKE, "HEIC"), (samples.gif(), "GIF"), (samples.PDF_LIKE, "PDF")]
)
def test_the_true_type_is_named(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "face.jpg").write_bytes(content)
    found = load(tmp_path, PhotoSettings(), face="face.jpg")
    assert isinstance(found, Problem)
    assert found.detail == f"face: this is {kind}"


def baseline_progressive_and_optimised() -> list[bytes]:
    image = Image.open(io.BytesIO(samples.draw_photo("face", "HT1", PNG)))
    files = []
    for options in ({}, {"progressive": True}, {"optimize": True, "restart_marker_rows": 1}, {"subsampling": 0}):
        file = io.BytesIO()
        image.save(file, "JPEG", **options)
        files.append(file.getvalue())
    for mode in ("L", "P", "RGBA", "1"):
        file = io.BytesIO()
        image.convert(mode).save(file, "PNG")
        files.append(file.getvalue())
    file = io.BytesIO()
    image.convert("CMYK").save(file, "JPEG")
    return [*files, file.getvalue()]


@pytest.mark.parametrize("number", range(9))
def test_every_flavour_is_taken_whole_and_refused_when_cut_anywhere(tmp_path: Path, number: int) -> None:
    content = baseline_progressive_and_optimised()[number]
    assert reason_for(tmp_path, content) is None
    header = 700 if content.startswith(b"\xff") else 100
    for step in range(50):
        at = header + (len(content) - 1 - header) * step // 49
        assert reason_for(tmp_path, content[:at]) in {"photo_truncated", "photo_corrupt"}, at


def reason_of_picture(content: bytes) -> str | None:
    try:
        media_type_of(content)
        validate(content, PhotoSettings())
    except PhotoError as error:
        return error.problem.reason
    return None


@pytest.mark.parametrize("media_type", [JPEG, PNG])
def test_a_picture_cut_at_any_byte_is_refused(media_type: str) -> None:
    whole = picture("face", media_type=media_type)
    assert reason_of_picture(whole) is None
    reasons = {reason_of_picture(whole[:size]) for size in range(len(whole))}
    assert reasons == {"photo_wrong_type", "photo_truncated", "photo_corrupt"}


def flipped(content: bytes, at: int, bit: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]


def test_a_bit_that_fell_over_anywhere_in_a_png_is_found() -> None:
    whole = picture("face", media_type=PNG)
    assert reason_of_picture(whole) is None
    missed = [
        (at, bit, reason)
        for at in range(len(b"\x89PNG\r\n\x1a\n"), len(whole))
        for bit in (0, 3, 7)
        if (reason := reason_of_picture(flipped(whole, at, bit))) != "photo_corrupt"
    ]
    assert missed == []


def png_of_many_chunks() -> bytes:
    """A PNG with a colour profile, text, and pixels in several chunks, as cameras and editors write it."""
    whole = samples.draw_photo("face", "HT1", PNG)
    at = whole.index(b"IDAT") - 4
    pixels = whole[at + 8 : at + 8 + int.from_bytes(whole[at : at + 4])]
    bodies = [b"tEXtComment\0drawn", *(b"IDAT" + pixels[i : i + 2000] for i in range(0, len(pixels), 2000))]
    bodies += [b"tIME" + bytes([7, 232, 1, 1, 0, 0, 0]), b"IEND"]
    return whole[:at] + b"".join(
        struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) for body in bodies
    )


def test_the_checksum_of_every_png_chunk_is_looked_at() -> None:
    whole = png_of_many_chunks()
    assert reason_of_picture(whole) is None
    at, kinds = 8, []
    while at < len(whole):
        kinds.append(whole[at + 4 : at + 8])
        end = at + 12 + int.from_bytes(whole[at : at + 4])
        for place in (at + 8, (at + end) // 2, end - 4, end - 1):  # its beginning, middle and checksum
            assert reason_of_picture(flipped(whole, place, 0)) == "photo_corrupt", (kinds, place)
        at = end
    assert kinds.count(b"IDAT") > 3
    assert {kinds[0], kinds[1], kinds[-2], kinds[-1]} == {b"IHDR", b"tEXt", b"tIME", b"IEND"}


def test_a_chunk_with_a_wrong_length_is_damage_and_not_a_missing_end() -> None:
    whole = picture("face", media_type=PNG)
    at = whole.index(b"IDAT") - 4
    assert reason_of_picture(whole[:at] + b"\0\x7f\xff\xff" + whole[at + 4 :]) == "photo_corrupt"
    assert reason_of_picture(whole[:-1]) == "photo_truncated"


def jpeg_with_restarts(rows: int) -> tuple[bytes, list[int]]:
    """A JPEG with a restart marker after every so many rows of blocks, and the places of these."""
    file = io.BytesIO()
    Image.open(io.BytesIO(samples.draw_photo("face", "HT1", PNG))).save(file, "JPEG", restart_marker_rows=rows)
    whole = file.getvalue()
    return whole, [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", whole)]


def test_a_piece_cut_out_of_a_jpeg_with_restart_markers_is_found() -> None:
    whole, marks = jpeg_with_restarts(1)
    assert len(marks) > 16
    assert reason_of_picture(whole) is None
    for first, last in [(3, 4), (3, 9), (0, 7), (5, len(marks) - 1)]:
        assert reason_of_picture(whole[: marks[first]] + whole[marks[last] :]) == "photo_corrupt"
    middle = (marks[8] + marks[9]) // 2
    assert reason_of_picture(whole[:middle] + bytes(marks[10] - middle) + whole[marks[10] :]) == "photo_corrupt"


def test_a_marker_that_no_jpeg_has_is_damage() -> None:
    whole, marks = jpeg_with_restarts(4)
    for kind in (0x02, 0x50, 0xBF):
        middle = (marks[0] + marks[1]) // 2
        assert reason_of_picture(whole[:middle] + bytes([0xFF, kind, 0, 8]) + whole[middle + 4 :]) == "photo_corrupt"


@pytest.mark.parametrize("level", ["off", "header"])
def test_lower_levels_look_at_less(tmp_path: Path, level: str) -> None:
    cut = samples.truncated(samples.draw_photo("face", "HT1"))
    assert reason_for(tmp_path, cut, validate=level) is None
    assert reason_for(tmp_path, samples.gif(), validate=level) == "photo_wrong_type"
    assert reason_for(tmp_path, samples.bomb(), validate="header") == "photo_too_many_pixels"


def test_trailing_data_can_be_allowed_and_padding_always_is(tmp_path: Path) -> None:
    assert reason_for(tmp_path, SPOILT["JPEG and ZIP"][0], allow_trailing_data=True) is None
    assert reason_for(tmp_path, picture("face") + bytes(512)) is None


def test_a_picture_of_several_parts_is_taken_as_phones_write_it(tmp_path: Path) -> None:
    file = io.BytesIO()
    first = Image.open(io.BytesIO(picture("face")))
    first.save(file, "MPO", save_all=True, append_images=[Image.open(io.BytesIO(picture("back")))])
    assert reason_for(tmp_path, file.getvalue()) is None
    assert reason_for(tmp_path, file.getvalue()[:-40]) == "photo_truncated"


def test_the_same_picture_in_two_fields_is_refused(tmp_path: Path) -> None:
    found = load(tmp_path, PhotoSettings(), hand="good-face.jpg")
    assert isinstance(found, Problem)
    assert (found.reason, found.detail) == ("photo_repeated", "face and hand")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


SPECIAL: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "socket": make_socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("outside", [False, True])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str, outside: bool) -> None:
    folder = tmp_path / "f"  # sockets have short names only
    folder.mkdir()
    os.chdir(folder)
    SPECIAL[kind](Path("face.jpg"))
    before = time.monotonic()
    found = load(folder, with_settings(allow_outside_root=outside), face="face.jpg")
    assert time.monotonic() - before < 10  # and not for ever
    assert isinstance(found, Problem)
    assert found.reason == ("photo_outside_root" if kind == "device" and not outside else "photo_not_a_file")


@pytest.mark.parametrize(
    "path",
    [
        "../secret.jpg", "{folder}/../secret.jpg", "a/../../secret.jpg", "link.jpg", "links/secret.jpg",
        "links/deeper/secret.jpg",
    ],
)  # fmt: skip
def test_a_path_that_leaves_the_folder_is_refused_unless_allowed(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "shop"
    (folder / "a").mkdir(parents=True)
    (tmp_path / "deeper").mkdir()
    for place in ("secret.jpg", "deeper/secret.jpg"):
        (tmp_path / place).write_bytes(picture("secret"))
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "links").symlink_to(tmp_path)
    found = load(folder, PhotoSettings(), face=path.format(folder=folder))
    assert isinstance(found, Problem)
    assert found.reason == "photo_outside_root"
    assert isinstance(load(folder, with_settings(allow_outside_root=True), face=path.format(folder=folder)), PhotoSet)


def test_what_may_not_be_read_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir()
    for path in ("face.jpg", "locked/face.jpg"):
        (tmp_path / path).write_bytes(picture("face"))
    (tmp_path / "face.jpg").chmod(0)
    (tmp_path / "locked").chmod(0)
    program = (
        "import sys, time; from pathlib import Path\n"
        "from batchupload.photos import load_photos\n"
        "from batchupload.settings import PhotoSettings\n"
        "for path in 'face.jpg', 'locked/face.jpg':\n"
        "    for outside in False, True:\n"
        "        began, settings = time.monotonic(), PhotoSettings(allow_outside_root=outside)\n"
        "        found = load_photos({'face': path}, Path(sys.argv[1]), settings)\n"
        "        print(found.reason, found.detail, time.monotonic() - began < 10, sep='; ')"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True,
            preexec_fn=as_plain_user,
        )  # fmt: skip
    finally:
        (tmp_path / "locked").chmod(0o700)
    assert done.stdout.splitlines() == ["photo_unreadable; face: permission denied; True"] * 4


def test_links_and_absolute_paths_within_the_folder_are_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/face.jpg").write_bytes(picture("other"))
    (tmp_path / "face.jpg").symlink_to("real/face.jpg")
    for path in ("face.jpg", str(tmp_path / "real/face.jpg"), "real/../face.jpg", "real\\face.jpg"):
        assert isinstance(load(tmp_path, PhotoSettings(), face=path), PhotoSet)


def test_paths_start_at_the_configured_root(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    assert isinstance(load(tmp_path / "shop", PhotoSettings()), PhotoSet)
    found = load_photos({"face": "good-face.jpg"}, tmp_path, with_settings(root=tmp_path / "shop"))
    assert isinstance(found, PhotoSet)


@pytest.mark.parametrize("name", ['a"b.jpg', "a\r\nb.jpg", "照片 📷.jpg", "a;b=c.jpg", "-rf.jpg"])
def test_odd_names_are_only_names(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(picture("other"))
    assert isinstance(load(tmp_path, PhotoSettings(), face=name), PhotoSet)


@pytest.mark.parametrize("path", ["gone.jpg", "gone/face.jpg", "good-face.jpg/x.jpg", "nul\0.jpg"])
def test_a_missing_photo_is_named_with_its_field(tmp_path: Path, path: str) -> None:
    found = load(tmp_path, PhotoSettings(), hand=path)
    assert isinstance(found, Problem)
    assert found.reason == "photo_missing"
    assert found.detail.startswith("hand")


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    found = load(tmp_path, PhotoSettings(), face="x" * 5000)
    assert isinstance(found, Problem)


def test_what_was_validated_before_is_not_decoded_again(tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(picture("face")[:-40])
    first = load(tmp_path, with_settings(validate="off"), face="cut.jpg")
    assert isinstance(first, PhotoSet)
    paths = {"face": "cut.jpg", "back": "good-back.jpg", "hand": "good-hand.jpg"}
    assert load_photos(paths, tmp_path, PhotoSettings(), first.digest) == first
    (tmp_path / "good-hand.jpg").write_bytes(picture("other"))
    found = load_photos(paths, tmp_path, PhotoSettings(), first.digest)
    assert isinstance(found, Problem)
    assert found.reason == "photo_truncated"


def test_a_bomb_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(samples.bomb())
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from batchupload.photos import PhotoError, validate\n"
        "from batchupload.settings import PhotoSettings\n"
        "content = Path(sys.argv[1]).read_bytes()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: validate(content, PhotoSettings())\n"
        "except PhotoError: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "bomb.png"], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 20_000  # KiB


@given(st.binary(max_size=2000), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", picture("face")[:400]]))
def test_any_bytes_are_a_photo_or_a_reason(content: bytes, start: bytes) -> None:
    with suppress(PhotoError):  # and nothing else
        media_type_of(start + content)
        validate(start + content, PhotoSettings())


@given(st.data())
def test_any_damage_gives_a_photo_or_a_reason(data: st.DataObject) -> None:
    content = bytearray(picture("face", media_type=data.draw(st.sampled_from([JPEG, PNG]))))
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(8, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(PhotoError):  # and nothing else
        validate(bytes(content), PhotoSettings())


def test_a_folder_swapped_for_a_link_meanwhile_lets_nothing_in(tmp_path: Path) -> None:
    inside, outside, real = tmp_path / "root", tmp_path / "outside", tmp_path / "real"
    for folder, mark in ((inside, "in"), (outside, "out"), (real, "in")):
        folder.mkdir()
        for field in PHOTO_FIELDS:
            (folder / f"{field}.jpg").write_bytes(b"\xff\xd8\xff" + f"{field} {mark}".encode())
    real.rename(inside / "order")
    spare, over = tmp_path / "spare", threading.Event()
    spare.symlink_to(outside)

    def swap() -> None:
        while not over.is_set():
            (inside / "order").rename(tmp_path / "kept")
            spare.rename(inside / "order")
            (inside / "order").rename(spare)
            (tmp_path / "kept").rename(inside / "order")

    thread = threading.Thread(target=swap)
    thread.start()
    paths = {field: f"order/{field}.jpg" for field in PHOTO_FIELDS}
    try:
        found = [load_photos(paths, inside, PhotoSettings.model_validate({"validate": "off"})) for _ in range(2000)]
    finally:
        over.set()
        thread.join()
        sets = [one for one in found if isinstance(one, PhotoSet)]
    assert sets
    assert not any(photo.content.endswith(b" out") for one in sets for photo in one.photos)
    reasons = {one.reason for one in found if isinstance(one, Problem)}
    assert reasons <= {Reason.PHOTO_MISSING, Reason.PHOTO_OUTSIDE_ROOT}


def test_a_link_that_is_none_any_more_when_it_is_read_is_refused_as_swapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "folder/face.jpg").write_bytes(picture("face"))

    def too_late(path: str, **_: Any) -> str:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "readlink", too_late)
    found = load(tmp_path, PhotoSettings(), face="link/face.jpg")
    assert isinstance(found, Problem)
    assert found.reason is Reason.PHOTO_OUTSIDE_ROOT


def test_a_decoder_that_warns_does_not_write_on_the_screen(shop: Shop) -> None:
    several_parts = b"\xff\xe2\x00\x12MPF\0II*\0\x08\0\0\0\xff\xff\0\0"  # an index of pictures, cut off
    for number in range(200):
        order_id = f"HT{number:06}"
        photos = {name: picture(name, order_id) for name in PHOTO_FIELDS}
        shop.order(order_id, {name: jpeg[:2] + several_parts + jpeg[2:] for name, jpeg in photos.items()})
    shop.manifest()
    done = batchupload("check", "orders.csv", cwd=shop.folder)
    assert "arn" not in done.stderr
    assert done.returncode == 0, done.stdout
