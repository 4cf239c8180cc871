"""Photos repaired when asked: under the limit and readable, upright, silent of their taking; or refused, with why."""

import hashlib
import io
import itertools
import random
import struct
import subprocess
import sys
import threading
import time
import zlib
from bisect import bisect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
from conftest import Shop, batchupload, outcomes, picture, send, send_to_sandbox, settings_for
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageDraw, ImageFont, ImageOps, ImageStat, JpegImagePlugin, PngImagePlugin

from batchupload import repair as repair_file
from batchupload import samples
from batchupload.metadata import exif_of, orientation_of, without_metadata
from batchupload.model import PHOTO_FIELDS, BatchuploadError, PhotoSet
from batchupload.photos import JPEG, PNG, Means, PhotoError, load_photos, validate
from batchupload.readers import Room
from batchupload.repair import FLOOR, SIDES, repair, require_decoders
from batchupload.sandbox import Sandbox
from batchupload.shop_settings import PhotoSettings

LIMIT = 2 * 1024 * 1024
ALL = ("resize", "heic", "orientation", "metadata")
SECRET = b"SECRET-PLACE"
ORIENTATION = 0x0112


def asked(*what: str, **changes: Any) -> PhotoSettings:
    return PhotoSettings.model_validate({"repair": what, **changes})


def anywhere(size: int) -> AbstractContextManager[None]:
    return nullcontext()


def repaired(content: bytes, *what: str, **changes: Any) -> tuple[bytes, str]:
    """What becomes of a photo; it is held to the same level as any other."""
    settings = asked(*what, **changes)
    found, done = repair(content, settings, anywhere)
    validate(found, settings)
    assert len(found) <= settings.max_bytes
    return found, done


def reason_for(content: bytes, *what: str, **changes: Any) -> tuple[str, str]:
    with pytest.raises(PhotoError) as caught:
        repaired(content, *what, **changes)
    return caught.value.problem.reason, caught.value.problem.detail


def opened(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content)) as image:
        image.load()
    return image


def saved(image: Image.Image, kind: str = "JPEG", **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


@cache
def scene(size: tuple[int, int], noise: float = 14) -> Image.Image:
    """Print on a ground that changes slowly, with a sensor's noise: what makes a photo large. The same each time."""
    ground = Image.linear_gradient("L").resize(size).point(lambda value: 110 + value // 3)
    image = Image.merge("RGB", (ground, ground.transpose(Image.Transpose.FLIP_LEFT_RIGHT), ground))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size[0] / 100)
    for line in range(2, 60):
        draw.text((size[0] / 20, line * size[1] / 64), "SAMPLE OF NOBODY 0123456789 " * 3, (20, 20, 20), font)
    if noise:
        chance = random.Random(1)  # Pillow's own noise is another each time
        levels = bytes(max(0, min(255, round(chance.gauss(128, noise)))) for _ in range(3 * 256 * 256))
        tile = Image.frombytes("RGB", (256, 256), levels)
        grain = Image.new("RGB", size)
        for x in range(0, size[0], 256):
            for y in range(0, size[1], 256):
                grain.paste(tile, (x, y))
        image = ImageChops.add(image, grain, offset=-128)
    return image


@cache
def phone_photo() -> bytes:
    """Of 12 megapixels and some 8 MB, as a phone takes it."""
    content = saved(scene((4000, 3000), 10), quality=95, exif=exif_with_place(6))
    assert 6_000_000 < len(content) < 10_000_000
    return content


def exif_with_place(orientation: int) -> bytes:
    """EXIF that says where and by whom the photo was taken."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[0x010E] = SECRET.decode()
    exif.get_ifd(0x8825).update({1: "N", 2: (31.0, 13.0, 48.0), 3: "E", 4: (121.0, 28.0, 25.0), 29: SECRET.decode()})
    return exif.tobytes()


def difference(one: Image.Image, other: Image.Image) -> float:
    """Of two pictures of a size, in mean levels of 255."""
    assert one.size == other.size
    return max(ImageStat.Stat(ImageChops.difference(one.convert("RGB"), other.convert("RGB"))).mean)


def test_nothing_is_repaired_unless_it_is_asked_for(tmp_path: Path) -> None:
    assert PhotoSettings().repair == ()
    for content in (phone_photo(), saved(scene((640, 480)), exif=exif_with_place(6)), samples.HEIC_LIKE):
        with suppress(PhotoError):
            assert repair(content, PhotoSettings(), anywhere) == (content, "")


def test_a_phones_photo_becomes_a_jpeg_just_under_the_limit_that_reads_as_well() -> None:
    content, done = repaired(phone_photo(), "resize")
    assert done.startswith(f"resized {len(phone_photo()) / 1e6:.1f} MB → ")
    assert LIMIT * 0.85 < len(content) <= LIMIT
    image, before = opened(content), opened(phone_photo())
    assert image.size[0] >= SIDES[-1]
    assert difference(image, before.resize(image.size, Image.Resampling.HAMMING)) < 8
    assert contrast(image) > 0.9 * contrast(before)


def contrast(image: Image.Image) -> int:
    """Levels between the print and what is around it: from the darkest fiftieth of the pixels to the middle one."""
    shares = list(itertools.accumulate(image.convert("L").histogram()))
    return bisect(shares, shares[-1] / 2) - bisect(shares, shares[-1] / 50)


def test_quality_goes_first_and_size_second() -> None:
    photo = saved(scene((2000, 1500), 10), quality=95)
    content, done = repaired(photo, "resize", max_bytes=int(len(photo) * 0.55))
    assert (opened(content).size, "px" in done) == ((2000, 1500), False)
    content, done = repaired(photo, "resize", max_bytes=int(len(photo) * 0.2))
    assert max(opened(content).size) in SIDES
    assert f"({max(opened(content).size)} px)" in done


def test_what_would_have_to_be_blurred_is_refused() -> None:
    photo = saved(scene((2000, 1500), 10), quality=95)
    reason, detail = reason_for(photo, "resize", max_bytes=60_000)
    assert reason == "photo_too_large"
    assert detail.endswith(f"repair would blur it: it is more even at {SIDES[-1]} px and quality {FLOOR}")
    small = saved(scene((800, 600), 14), quality=95)
    assert "800 px" in reason_for(small, "resize", max_bytes=30_000)[1]


def test_without_resize_an_oversize_photo_stays_one() -> None:
    assert reason_for(phone_photo(), "orientation", "metadata")[0] == "photo_too_large"
    assert reason_for(saved(scene((640, 480)), "PNG"), "metadata", max_bytes=10_000)[0] == "photo_too_large"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "P", "I;16", "CMYK"])
def test_every_kind_of_picture_can_be_made_smaller(mode: str) -> None:
    image = scene((1700, 1200), 30)
    made = (
        image.convert("I").point(lambda value: value * 256).convert("I;16") if mode == "I;16" else image.convert(mode)
    )
    photo = saved(made, "JPEG" if mode == "CMYK" else "PNG")
    content, _ = repaired(photo, "resize", max_bytes=min(len(photo) - 1, 700_000))
    found = opened(content)
    assert (found.format, found.mode) == ("JPEG", "L" if mode in {"L", "I;16"} else "RGB")
    assert (
        difference(found.resize((170, 120)), image.convert("L" if found.mode == "L" else "RGB").resize((170, 120))) < 12
    )


def test_what_is_transparent_becomes_white() -> None:
    image = Image.new("RGBA", (1700, 1200), (0, 0, 0, 0))
    image.paste(scene((800, 600), 30), (0, 0))
    photo = saved(image, "PNG")
    content, _ = repaired(photo, "resize", max_bytes=len(photo) - 1)
    assert opened(content).getpixel((1690, 1190)) == (255, 255, 255)


def test_a_very_large_picture_is_decoded_at_half_its_size() -> None:
    image = scene((8000, 600), 14)
    content, _ = repaired(saved(image, quality=95), "resize", max_bytes=1_500_000)
    assert opened(content).size == (4000, 300)


def upright_and_stored(orientation: int, kind: str) -> tuple[Image.Image, bytes]:
    """A picture, and a file that shows it by its EXIF orientation."""
    image = scene((640, 400), 0)
    # The way back: what turns 5 to 8 the one way turns them the other.
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = image.transpose(back[orientation]) if orientation in back else image
    return image, saved(stored, kind, exif=exif_with_place(orientation), **({"quality": 90} if kind == "JPEG" else {}))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_gives_the_same_upright_pixels(orientation: int, kind: str) -> None:
    image, photo = upright_and_stored(orientation, kind)
    assert orientation_of(photo) == orientation
    content, done = repaired(photo, "orientation")
    assert done == ("rotated" if orientation > 1 else "")
    found = opened(content)
    assert found.format == kind
    assert orientation_of(content) == 1
    assert ImageOps.exif_transpose(found).size == found.size
    assert difference(found, image) < (2.5 if kind == "JPEG" else 0.001)
    if orientation == 1:
        assert content == photo
    assert SECRET in content  # nobody asked for its removal
    assert orientation_of(repaired(photo, "orientation", "metadata")[0]) == 1


@pytest.mark.parametrize("sampling", [0, 1, 2])
def test_turning_keeps_the_files_own_way_of_encoding(sampling: int) -> None:
    exif = Image.Exif()
    for orientation in (3, 6):
        exif[ORIENTATION] = orientation
        photo = saved(scene((640, 400), 8), quality=83, subsampling=sampling, exif=exif)
        before, after = opened(photo), opened(repaired(photo, "orientation")[0])
        tables = [cast("JpegImagePlugin.JpegImageFile", image).quantization for image in (before, after)]
        turned = {n: [t[at % 8 * 8 + at // 8] for at in range(64)] for n, t in tables[0].items()}
        assert tables[1] == (tables[0] if orientation == 3 else turned)
        found = JpegImagePlugin.get_sampling(after)
        assert found == (0 if orientation == 6 and sampling == 1 else sampling)  # 4:2:2 on its side keeps all colour


def marked_jpeg(orientation: int = 1) -> bytes:
    """A JPEG that says things in each of its corners."""
    profile = b"profile of " + bytes(3000)
    photo = saved(
        scene((320, 200)), exif=exif_with_place(orientation), comment=SECRET, icc_profile=profile, dpi=(72, 72)
    )
    more = b"".join(
        b"\xff" + bytes([kind]) + (len(body) + 2).to_bytes(2) + body
        for kind, body in [
            (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x>" + SECRET),
            (0xED, b"Photoshop 3.0\x008BIM" + SECRET),
            (0xE0, b"JFXX\0" + SECRET),
            (0xEF, SECRET),
        ]
    )
    at = photo.index(b"\xff\xdb")
    return photo[:at] + more + photo[at:]


def test_metadata_goes_and_not_a_pixel_changes() -> None:
    photo = marked_jpeg()
    assert photo.count(SECRET) >= 6
    content, done = repaired(photo, "metadata")
    assert done == "metadata removed"
    assert SECRET not in content
    assert b"Exif" not in content
    assert opened(content).tobytes() == opened(photo).tobytes()
    tables = photo.index(b"\xff\xdb")
    assert content.endswith(photo[tables:])  # not even decoded
    assert opened(content).info["icc_profile"] == opened(photo).info["icc_profile"]
    assert repaired(content, "metadata") == (content, "")


def test_a_png_is_cleaned_in_the_same_way() -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Author", SECRET.decode())
    notes.add_itxt("Place", SECRET.decode())
    notes.add(b"tIME", bytes([7, 232, 1, 1, 0, 0, 0]))
    image = scene((320, 200)).convert("P")
    photo = saved(image, "PNG", pnginfo=notes, exif=exif_with_place(6), transparency=3, dpi=(72, 72))
    content, done = repaired(photo, "metadata")
    assert done == "metadata removed"
    assert SECRET in photo
    assert all(mark not in content for mark in (SECRET, b"tEXt", b"iTXt", b"tIME"))
    assert opened(content).convert("RGBA").tobytes() == opened(photo).convert("RGBA").tobytes()
    assert orientation_of(content) == 6
    assert repaired(content, "metadata") == (content, "")


@pytest.mark.parametrize("orientation", range(2, 9))
def test_cleaning_alone_leaves_a_photo_as_upright_as_it_was(orientation: int) -> None:
    content, _ = repaired(marked_jpeg(orientation), "metadata")
    assert SECRET not in content
    assert orientation_of(content) == orientation
    assert opened(content).getexif()[ORIENTATION] == orientation


def test_a_cleaned_photo_of_several_pictures_is_its_first() -> None:
    first, second = opened(saved(scene((320, 200)), exif=exif_with_place(1))), scene((160, 100))
    photo = saved(first, "MPO", save_all=True, append_images=[second], exif=exif_with_place(1))
    assert opened(photo).format == "MPO"
    content, _ = repaired(photo, "metadata")
    assert opened(content).format == "JPEG"
    assert content.count(b"\xff\xd8\xff") == 1
    assert SECRET not in content
    assert opened(content).tobytes() == opened(photo).tobytes()


@pytest.mark.parametrize("what", [("metadata",), ("orientation",), ("orientation", "metadata"), ("resize",)])
def test_what_is_behind_a_picture_is_still_refused(what: tuple[str, ...]) -> None:
    photo = samples.with_trailing_data(marked_jpeg(6))
    limit = len(photo) - 1 if what == ("resize",) else LIMIT
    assert reason_for(photo, *what, max_bytes=limit)[0] == "photo_trailing_data"
    content, _ = repaired(photo, *what, max_bytes=limit, allow_trailing_data=True)
    assert what == ("metadata",) or b"PK\x03\x04" not in content


def test_with_trailing_data_allowed_cleaning_takes_it_too() -> None:
    photo = marked_jpeg() + b"a film, taken at " + SECRET
    assert SECRET not in repaired(photo, "metadata", allow_trailing_data=True)[0]


def test_several_repairs_take_one_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[int] = []
    load = JpegImagePlugin.JpegImageFile.load

    def counted(self: JpegImagePlugin.JpegImageFile) -> Any:
        loads.append(id(self))
        return load(self)

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", counted)
    content, done = repair(phone_photo(), asked(*ALL), anywhere)
    assert len(set(loads)) == 1
    assert done.split(", ")[1:] == ["rotated", "metadata removed"]
    assert SECRET not in content
    assert opened(content).size[0] < opened(content).size[1]


def test_a_photo_that_is_oversize_for_its_metadata_is_not_encoded_anew() -> None:
    photo = samples.draw_photo("face", "HT1", target_bytes=LIMIT + 5000)
    content, done = repaired(photo, "resize", "metadata")
    assert done == "metadata removed"
    assert content == samples.draw_photo("face", "HT1")


def heic(image: Image.Image, **how: Any) -> bytes:
    heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    heif.from_pillow(image).save(file, enc_params={"preset": "ultrafast"}, **how)
    return file.getvalue()


def test_a_heic_becomes_a_jpeg() -> None:
    image = scene((640, 480), 0)
    photo = heic(image, quality=90, exif=exif_with_place(1))
    content, done = repaired(photo, "heic")
    assert done == "HEIC to JPEG"
    assert opened(content).format == "JPEG"
    assert difference(opened(content), image) < 6
    assert SECRET in content
    content, done = repaired(photo, "heic", "metadata")
    assert done == "HEIC to JPEG, metadata removed"
    assert SECRET not in content
    assert exif_of(content) == b""


def test_a_heic_that_is_too_large_as_a_jpeg_is_made_smaller_only_where_that_is_asked_for() -> None:
    photo = heic(scene((1700, 1200), 6), quality=80)
    assert reason_for(photo, "heic", max_bytes=200_000)[0] == "photo_too_large"
    content, done = repaired(photo, "heic", "resize", max_bytes=700_000)
    assert done.startswith("HEIC to JPEG")
    assert max(opened(content).size) >= SIDES[-1]


def test_a_heic_is_refused_as_ever_where_it_is_not_asked_for(tmp_path: Path) -> None:
    (tmp_path / "face.jpg").write_bytes(samples.HEIC_LIKE)
    settings = asked("resize")
    found = load_photos({"face": "face.jpg"}, tmp_path, settings, means=Means(lambda c: repair(c, settings, anywhere)))
    assert not isinstance(found, PhotoSet)
    assert (found.reason, found.detail) == ("photo_wrong_type", "face: this is HEIC")


def test_a_damaged_heic_gives_its_reason() -> None:
    whole = heic(scene((320, 200), 0))
    for content in (samples.HEIC_LIKE, whole[: len(whole) // 2], whole[:40], whole[:-20]):
        assert reason_for(content, "heic")[0] in {"photo_corrupt", "photo_truncated"}
    assert reason_for(whole, "heic", max_pixels=1000)[0] == "photo_too_many_pixels"


async def test_heic_without_its_decoder_is_a_mistake_with_its_remedy(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.order("HT000001")
    shop.write("nothing/pillow_heif.py", b"raise ImportError")
    shop.write("config.yaml", b"photos:\n  repair: [heic]\n")
    shop.manifest()
    env = {"PYTHONPATH": str(shop.folder / "nothing")}
    done = batchupload("run", "orders.csv", "--endpoint", "http://127.0.0.1:9/x", cwd=shop.folder, env=env)
    assert done.returncode == 2
    assert "pip install 'batchupload[heic]'" in done.stderr
    assert list(shop.folder.glob("*.report-*.csv")) == []
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    require_decoders(asked("resize", "orientation", "metadata"))
    with pytest.raises(BatchuploadError):
        require_decoders(asked("heic"))


@pytest.mark.parametrize("kind", [JPEG, PNG])
def test_a_damaged_oversize_photo_gives_its_reason(kind: str) -> None:
    photo = saved(scene((1700, 1200), 14), "PNG" if kind == PNG else "JPEG", quality=95)
    for size in (len(photo) // 2, len(photo) - 20, len(photo) - 1):
        reason, _ = reason_for(photo[:size], "resize", max_bytes=size - 1)
        assert reason in {"photo_truncated", "photo_corrupt"}
    assert reason_for(photo, "resize", max_bytes=len(photo) - 1, max_pixels=1_000_000)[0] == "photo_too_many_pixels"


def test_a_bomb_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    bomb = samples.bomb()
    at = bomb.index(b"IDAT") - 4
    filling = b"prVt" + bytes(LIMIT)
    chunk = struct.pack(">I", len(filling) - 4) + filling + struct.pack(">I", zlib.crc32(filling))
    (tmp_path / "bomb.png").write_bytes(bomb[:at] + chunk + bomb[at:])
    program = (
        "import resource, sys; from contextlib import nullcontext; from pathlib import Path\n"
        "from batchupload.photos import PhotoError\n"
        "from batchupload.repair import repair\n"
        "from batchupload.settings import PhotoSettings\n"
        "content = Path(sys.argv[1]).read_bytes()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: repair(content, PhotoSettings(repair=('resize',)), lambda size: nullcontext())\n"
        "except PhotoError as error: print(error.problem.reason)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "bomb.png"], capture_output=True, text=True, check=True
    )
    reason, memory = done.stdout.split()
    assert reason == "photo_too_many_pixels"
    assert int(memory) < 20_000  # KiB


STARTS = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", marked_jpeg(6)[:900], samples.HEIC_LIKE[:40]]


@given(st.binary(max_size=2000), st.sampled_from(STARTS), st.sampled_from([10, LIMIT]))
def test_any_bytes_are_repaired_or_have_a_reason(content: bytes, start: bytes, limit: int) -> None:
    with suppress(PhotoError):  # and nothing else
        repair(start + content, asked("resize", "orientation", "metadata", max_bytes=limit), anywhere)


@given(st.data())
@examples(max_examples=300)
def test_any_damage_is_repaired_or_has_a_reason(data: st.DataObject) -> None:
    orientation = data.draw(st.integers(1, 8))
    content = bytearray(small_photo(orientation, data.draw(st.sampled_from(["JPEG", "PNG"]))))
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(8, len(content) - 1))] = data.draw(st.integers(0, 255))
    limit = data.draw(st.sampled_from([len(content) - 1, LIMIT]))
    with suppress(PhotoError):  # and nothing else
        repair(bytes(content), asked("resize", "orientation", "metadata", max_bytes=limit), anywhere)


@cache
def small_photo(orientation: int, kind: str) -> bytes:
    return saved(opened(picture("face")), kind, exif=exif_with_place(orientation))


@given(st.binary(max_size=500), st.integers(0, 3))
def test_cleaning_takes_any_bytes(content: bytes, start: int) -> None:
    content = [b"\xff\xd8", b"\x89PNG\r\n\x1a\n", marked_jpeg()[:300], saved(opened(picture("face")), "PNG")[:60]][
        start
    ] + content
    without_metadata(content, cut_behind=False)
    orientation_of(content)


def test_other_threads_go_on_while_a_picture_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    photo, ticks, over = opened(phone_photo()), 0, threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not over.wait(0.0001):
            ticks += 1

    def ticks_of(encode: Callable[[], bytes]) -> int:
        before = ticks
        for _ in range(3):
            assert len(encode()) > 1_000_000
        return ticks - before

    ticker = threading.Thread(target=tick)
    ticker.start()
    try:
        free = ticks_of(lambda: repair_file._saved(photo, {"format": "JPEG", "quality": 75}))
        held = ticks_of(lambda: saved(photo, quality=75))
    finally:
        over.set()
        ticker.join()
    assert free > 2 * held
    # Where there is no such file, or none is left, the result is the same.
    whole = repair_file._saved(photo, {"format": "JPEG", "quality": 75})
    monkeypatch.setattr(sys, "platform", "darwin")
    assert repair_file._saved(photo, {"format": "JPEG", "quality": 75}) == whole


def test_pictures_wait_for_room_in_memory() -> None:
    room, most, now, lock = Room(100), 0, 0, threading.Lock()

    def work(size: int) -> None:
        nonlocal most, now
        with room.take(size):
            with lock:
                now += size
                most = max(most, now)
            time.sleep(0.005)
            with lock:
                now -= size

    threads = [threading.Thread(target=work, args=(size,)) for size in (40, 70, 30, 60, 50, 100, 20) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert 40 < most <= 100
    with room.take(1000), pytest.raises(RuntimeError):  # what needs more than there is goes alone
        raise RuntimeError
    with room.take(100):
        pass


async def test_a_run_sends_exactly_the_repaired_photos_and_says_what_was_done(shop: Shop) -> None:
    large = saved(scene((1700, 1200), 14), quality=95, exif=exif_with_place(1))
    turned = saved(scene((640, 400), 8), quality=90, exif=exif_with_place(6))
    shop.order("HT000001", {"face": large, "hand": turned})
    shop.order("HT000002")
    shop.order("HT000003", {"face": saved(scene((1700, 1200), 60), quality=95)})
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in shop.folder.rglob("*.jpg")}
    photos = {"repair": ["resize", "orientation", "metadata"], "max_bytes": 450_000}
    assert len(large) > 450_000
    manifest = shop.manifest()
    async with Sandbox() as server:
        summary, report = await send(manifest, settings_for(server.url, photos=photos))
        again, report_again = await send(manifest, settings_for(server.url, photos=photos))
    assert outcomes(report) == {
        "HT000001": ("uploaded", "accepted"),
        "HT000002": ("uploaded", "accepted"),
        "HT000003": ("invalid", "photo_too_large"),
    }
    details = {row["order_id"]: row["detail"] for row in report}
    assert details["HT000001"].startswith("repaired face: resized 1.")
    assert details["HT000001"].endswith(", metadata removed; hand: rotated, metadata removed")
    assert details["HT000002"] == ""
    assert details["HT000003"].startswith("face: ")
    assert "Repaired 2 photos on the way" in summary.as_text(100)
    assert '"notes": {"repaired": 2}' in summary.as_json()
    settings = asked("resize", "orientation", "metadata", max_bytes=450_000)
    for order in ("HT000001", "HT000002"):
        for name in PHOTO_FIELDS:
            arrived = server.accepted[order][-1][name]
            sent, _ = repair((shop.folder / order / f"{name}.jpg").read_bytes(), settings, anywhere)
            assert arrived["sha256"] == hashlib.sha256(sent).hexdigest()
            assert arrived["bytes"] <= 450_000
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in shop.folder.rglob("*.jpg")} == before
    assert outcomes(report_again) == {
        "HT000001": ("skipped", "already_uploaded"),
        "HT000002": ("skipped", "already_uploaded"),
        "HT000003": ("invalid", "photo_too_large"),
    }
    assert again.tally.attempts == 0


async def test_a_retry_sends_the_same_repaired_photos(shop: Shop) -> None:
    shop.order("HT000001", {"face": saved(scene((640, 400), 8), quality=90, exif=exif_with_place(6))})
    _, report, server = await send_to_sandbox(
        shop.manifest(), ["http_503@HT000001:1"], photos={"repair": ["orientation"]}
    )
    assert outcomes(report) == {"HT000001": ("uploaded", "accepted")}
    assert report[0]["detail"].endswith("; repaired face: rotated")
    assert len(server.accepted["HT000001"]) == 1


def test_a_check_says_what_a_run_would_do(shop: Shop) -> None:
    shop.order("HT000001", {"face": saved(scene((640, 400), 8), quality=90, exif=exif_with_place(6))})
    shop.write("config.yaml", b"photos:\n  repair: [resize, orientation]\n")
    shop.manifest()
    done = batchupload("check", "orders.csv", cwd=shop.folder)
    assert done.returncode == 0, done.stderr
    assert "Repaired 1 photo on the way" in done.stdout


@pytest.mark.parametrize("text", ["repair: resize", "repair: [resise]", "repair_max_bytes: 0"])
def test_a_mistake_in_the_settings_is_named(shop: Shop, text: str) -> None:
    shop.write("config.yaml", f"photos:\n  {text}\n".encode())
    shop.order("HT000001")
    shop.manifest()
    done = batchupload("check", "orders.csv", cwd=shop.folder)
    assert done.returncode == 2
    assert "config.yaml, line 2: photos.repair" in done.stderr
