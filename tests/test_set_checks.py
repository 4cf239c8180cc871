"""What looks wrong in a set of whole photos is a warning in the report, a line in the summary, and never an outcome."""

import io
import itertools
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import Report, Shop, batchupload, outcomes, picture, send, send_to_sandbox, settings_for
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from batchupload import samples, sightings
from batchupload.model import PHOTO_FIELDS, Problem
from batchupload.photos import PNG, load_photos, validate
from batchupload.sandbox import Sandbox
from batchupload.set_checks import ALIKE_LEVELS, ALIKE_STEPS, Looks, is_alike, steps_apart
from batchupload.shop_settings import PhotoSettings
from batchupload.sightings import MOST_NAME_BYTES, MOST_SLOTS, Sightings


def saved(image: Image.Image, kind: str = "JPEG", **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


@cache
def drawn(field: str, seed: int) -> Image.Image:
    """What stands for the photo of a card or of a person with one, different for each seed."""
    chance = random.Random(f"{field} {seed}")
    small, large = ImageFont.load_default(30), ImageFont.load_default(70)

    def word(letters: int) -> str:
        return "".join(chance.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789") for _ in range(letters))

    if field == "hand":
        image = Image.new("RGB", (1200, 760), tuple(chance.randrange(60, 200) for _ in range(3)))
        draw = ImageDraw.Draw(image)
        draw.ellipse((500, 60, 760, 380), fill=(210, 170, 150))
        draw.rectangle((420, 380, 840, 760), fill=tuple(chance.randrange(20, 220) for _ in range(3)))
        draw.rectangle((300, 430, 520, 570), fill=(230, 230, 225))
        return image
    image = Image.new("RGB", (1200, 760), (235, 235, 230))
    draw = ImageDraw.Draw(image)
    if field == "face":
        for line in range(6):
            draw.text((60, 80 + line * 90), word(22), (30, 30, 30), small)
        draw.ellipse((820, 140, 1080, 420), fill=(200, 160, 140))
        draw.rectangle((780, 420, 1120, 600), fill=tuple(chance.randrange(30, 120) for _ in range(3)))
    else:
        draw.ellipse((80, 60, 280, 260), fill=(190, 40, 40))
        draw.text((400, 120), "CARD OF SAMPLES", (20, 20, 20), large)
        for line in range(2):
            draw.text((400, 500 + line * 80), word(20), (30, 30, 30), small)
    return image


def sketched(field: str, seed: int) -> Image.Image:
    """The program's own samples: thin lines on a flat ground, the hardest there is to know again."""
    return Image.open(io.BytesIO(samples.draw_photo(field, f"HT{seed}", PNG, size=(640, 400)))).convert("RGB")


def encoded_anew(image: Image.Image) -> Iterator[bytes]:
    width, height = image.size
    yield saved(image, quality=60)
    yield saved(image, quality=95, subsampling=0)
    yield saved(image, "PNG")
    yield saved(image.convert("P"), "PNG")
    yield saved(image.convert("L"), quality=80)
    yield saved(image.resize((width // 2, height // 2), Image.Resampling.LANCZOS), quality=85)
    yield saved(image.resize((width * 7 // 10, height * 7 // 10), Image.Resampling.BICUBIC), quality=50)


def looks(content: bytes) -> Looks:
    found = validate(content, PhotoSettings()).looks
    assert found
    return found


def apart(one: Looks, other: Looks) -> tuple[int, float]:
    """Steps that differ, and mean levels."""
    levels = sum(abs(a - b) for a, b in zip(one.levels, other.levels, strict=True)) / len(one.levels)
    return steps_apart(one, other), levels


@pytest.mark.parametrize("maker", [drawn, sketched])
def test_a_picture_encoded_anew_is_near_and_another_of_the_set_is_far(maker: Any) -> None:
    near, far = [], []
    for seed in range(4):
        images = {field: maker(field, seed) for field in PHOTO_FIELDS}
        known = {field: looks(saved(image, quality=85)) for field, image in images.items()}
        for field, image in images.items():
            for content in encoded_anew(image):
                near.append(apart(known[field], looks(content)))
                assert is_alike(known[field], looks(content))
        for one, other in itertools.combinations(known.values(), 2):
            far.append(apart(one, other))
            assert not is_alike(one, other)
    # Not only on the right side of the limits, but far from them.
    assert max(steps for steps, _ in near) <= ALIKE_STEPS * 0.7
    assert max(levels for _, levels in near) <= ALIKE_LEVELS * 0.7
    assert min(steps for steps, _ in far) >= ALIKE_STEPS * 1.5


def notes(folder: Path, photos: dict[str, bytes], **settings: Any) -> list[str]:
    for field, content in photos.items():
        (folder / field).write_bytes(content)
    found = load_photos({field: field for field in photos}, folder, PhotoSettings.model_validate(settings))
    assert not isinstance(found, Problem)
    return [note.text for note in found.notes]


def good_set() -> dict[str, bytes]:
    return {field: saved(drawn(field, 1), quality=85) for field in PHOTO_FIELDS}


def test_a_good_set_has_no_warning(tmp_path: Path) -> None:
    assert notes(tmp_path, good_set()) == []
    assert notes(tmp_path, {f: samples.draw_photo(f, "HT1") for f in PHOTO_FIELDS}) == []


def test_one_picture_in_two_fields_is_a_warning_where_it_was_encoded_anew(tmp_path: Path) -> None:
    photos = good_set() | {"hand": saved(drawn("face", 1), quality=70)}
    assert notes(tmp_path, photos) == ["face and hand look the same"]
    assert notes(tmp_path, photos, validate="header") == []
    assert notes(tmp_path, photos, validate="off") == []
    assert notes(tmp_path, photos, warn=False) == []
    (tmp_path / "same").write_bytes(photos["face"])
    found = load_photos({"face": "face", "back": "back", "hand": "same"}, tmp_path, PhotoSettings())
    assert isinstance(found, Problem)  # the very same bytes are no matter of looks
    assert found.reason == "photo_repeated"


def test_a_small_picture_is_a_warning(tmp_path: Path) -> None:
    photos = good_set() | {"back": saved(drawn("back", 1).resize((480, 299)))}
    for level in ("full", "header"):
        assert notes(tmp_path, photos, validate=level) == ["back is small, 480 × 299"]
    assert notes(tmp_path, photos, validate="off") == []
    assert notes(tmp_path, photos, small_side=299) == []
    assert notes(tmp_path, good_set(), small_side=761) == [f"{f} is small, 1200 × 760" for f in PHOTO_FIELDS]


def noisy(level: int, noise: float) -> Image.Image:
    chance = random.Random(1)
    return Image.frombytes("L", (640, 480), bytes(round(chance.gauss(level, noise)) & 255 for _ in range(640 * 480)))


@pytest.mark.parametrize("level", [12, 128, 240])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_blank_picture_is_a_warning_with_a_sensors_noise_too(tmp_path: Path, level: int, kind: str) -> None:
    blank = saved(noisy(level, 4).convert("RGB"), kind)
    assert notes(tmp_path, good_set() | {"hand": blank}) == ["hand is blank"]
    speck = noisy(level, 4)
    speck.paste((level + 128) % 256, (300, 200, 312, 212))
    assert notes(tmp_path, good_set() | {"hand": saved(speck, kind)}) == ["hand is blank"]
    written = noisy(level, 4)
    ImageDraw.Draw(written).text((100, 100), "SAMPLE OF NOBODY", (level + 128) % 256, ImageFont.load_default(40))
    assert notes(tmp_path, good_set() | {"hand": saved(written, kind)}) == []


def test_blank_pictures_are_not_called_alike(tmp_path: Path) -> None:
    blank = {"face": saved(noisy(240, 4)), "back": saved(noisy(241, 4))}
    assert notes(tmp_path, good_set() | blank) == ["face is blank", "back is blank"]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "I;16", "CMYK"])
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (5000, 2), (400, 300)])
def test_no_kind_or_size_of_picture_is_too_odd_to_be_looked_at(mode: str, size: tuple[int, int]) -> None:
    image = drawn("face", 1).resize(size)
    deep = image.convert("I").point(lambda value: value * 256)
    made = deep.convert("I;16") if mode == "I;16" else image.convert(mode)
    seen = validate(saved(made, "JPEG" if mode == "CMYK" else "PNG"), PhotoSettings())
    assert seen.size == size
    assert (seen.looks is None) == (mode == "I;16")


def test_print_on_a_transparent_ground_is_not_blank() -> None:
    image = Image.new("RGBA", (640, 400), (0, 0, 0, 0))
    ImageDraw.Draw(image).text((20, 20), "SAMPLE OF NOBODY", (0, 0, 0, 255), ImageFont.load_default(60))
    assert not looks(saved(image, "PNG")).blank
    assert looks(saved(Image.new("RGBA", (640, 400), (0, 0, 0, 0)), "PNG")).blank


def met(seen: Sightings, order_id: str, *photos: int) -> list[tuple[int, str]]:
    return list(seen.meet(order_id, b"".join(hashed(photo) for photo in photos)))


def hashed(photo: int) -> bytes:
    return random.Random(photo).randbytes(16)


def test_a_photo_of_another_order_is_known_again_in_any_place() -> None:
    seen = Sightings(10)
    assert met(seen, "HT1", 1, 2, 3) == []
    assert met(seen, "HT2", 4, 5, 6) == []
    assert met(seen, "HT3", 6, 7, 1) == [(0, "HT2"), (2, "HT1")]
    assert met(seen, "HT1", 1, 2, 3) == []  # once more itself
    assert met(seen, "订单", 7, 8, 9) == [(0, "HT3")]
    assert met(seen, "HT4", 9, 10, 11) == [(0, "订单")]


@given(st.lists(st.tuples(st.integers(0, 30), st.lists(st.integers(0, 40), min_size=3, max_size=3)), max_size=60))
def test_the_table_knows_what_a_dictionary_would(orders: list[tuple[int, list[int]]]) -> None:
    seen, model = Sightings(1), dict[int, str]()
    for number, photos in orders:
        expected = []
        for place, photo in enumerate(photos):
            if model.setdefault(photo, f"HT{number}") != f"HT{number}":
                expected.append((place, model[photo]))
        assert met(seen, f"HT{number}", *photos) == expected


def test_a_million_orders_take_at_most_64_mb_and_more_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 8 * MOST_SLOTS + MOST_NAME_BYTES * 9 // 8 + 1000 <= 64 << 20  # a bytearray has an eighth to spare
    assert 0.8 * MOST_SLOTS > 3_000_000
    assert Sightings(1_000_000)._slots.nbytes == Sightings(10**9)._slots.nbytes == 8 * MOST_SLOTS
    monkeypatch.setattr(sightings, "MOST_SLOTS", 1024)
    seen = Sightings(10_000)
    for number in range(400):
        met(seen, f"HT{number}", 3 * number, 3 * number + 1, 3 * number + 2)
    assert seen.full
    assert met(seen, "HT999", 0, 5000, 1) == [(0, "HT0"), (2, "HT0")]  # what is remembered still is
    assert met(seen, "HT998", 5000, 5001, 5002) == []
    monkeypatch.setattr(sightings, "MOST_NAME_BYTES", 100)
    seen = Sightings(10_000)
    for number in range(30):
        met(seen, f"HT{number}", 3 * number, 3 * number + 1, 3 * number + 2)
    assert seen.full


def details(report: Report) -> dict[str, str]:
    return {row["order_id"]: row["detail"] for row in report}


def shop_of_warnings(shop: Shop) -> list[str]:
    shop.order("HT000001", good_set())
    shop.order("HT000002", good_set() | {"hand": saved(drawn("face", 1), quality=70)})
    shop.order("HT000003", {field: saved(drawn(field, 3).resize((300, 190))) for field in PHOTO_FIELDS})
    others = {field: saved(drawn(field, 4)) for field in ("face", "hand")}
    shop.order("HT000004", others | {"back": saved(noisy(240, 4))})
    return ["HT000001", "HT000002", "HT000003", "HT000004"]


async def test_warnings_are_in_the_report_and_the_summary_and_change_no_outcome(shop: Shop) -> None:
    orders = shop_of_warnings(shop)
    manifest = shop.manifest()
    photos = {"small_side": 200}
    async with Sandbox() as server:
        summary, report = await send(manifest, settings_for(server.url, photos=photos))
        again, report_again = await send(manifest, settings_for(server.url, photos=photos))
    assert outcomes(report) == dict.fromkeys(orders, ("uploaded", "accepted"))
    assert summary.exit_code == 0
    said = details(report)
    first, second = sorted(["HT000001", "HT000002"], key=lambda order: "is also in order" in said[order])
    warned = {f"warning: {field} is also in order {first}" for field in ("face", "back")}
    assert warned <= set(said[second].split("; "))
    assert "warning: face and hand look the same" in said["HT000002"].split("; ")
    assert said["HT000003"] == "; ".join(f"warning: {field} is small, 300 × 190" for field in PHOTO_FIELDS)
    assert said["HT000004"] == "warning: back is blank"
    text = summary.as_text(100)
    assert "Warning, 1 time: two photos of an order look the same" in text
    assert "Warning, 2 times: a photo stands under another order too" in text
    assert "Warning, 3 times: a photo is very small" in text
    assert "Warning, 1 time: a photo is blank" in text
    assert outcomes(report_again) == dict.fromkeys(orders, ("skipped", "already_uploaded"))
    assert "Warning" not in again.as_text(100)  # what is done is done


async def test_a_retry_says_a_warning_once(shop: Shop) -> None:
    shop.order("HT000001", good_set() | {"back": saved(noisy(240, 4))})
    summary, report, _ = await send_to_sandbox(shop.manifest(), ["http_503@HT000001:2"])
    assert details(report)["HT000001"].count("warning") == 1
    assert "Warning, 1 time" in summary.as_text(100)


async def test_without_decoding_other_orders_are_still_looked_at(shop: Shop) -> None:
    for order in ("HT000001", "HT000002"):
        shop.order(order, {"face": picture("face")})
    for level in ("off", "header"):
        _, report, _ = await send_to_sandbox(shop.manifest(), photos={"validate": level})
        said = sorted(row["detail"] for row in report)
        assert said[0] == ""
        assert said[1].startswith("warning: face is also in order HT00000")
    _, report, _ = await send_to_sandbox(shop.manifest(), photos={"warn": False})
    assert [row["detail"] for row in report] == ["", ""]


def test_a_check_warns_as_a_run_does(shop: Shop) -> None:
    shop_of_warnings(shop)
    shop.manifest()
    done = batchupload("check", "orders.csv", cwd=shop.folder)
    assert done.returncode == 0, done.stderr
    for words in ("1 time: two", "2 times: a photo stands", "3 times: a photo is very", "1 time: a photo is blank"):
        assert words in done.stdout
