"""What the program did not expect of one row is that row's matter: the others go on, and the end says it loudly."""

import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from conftest import Report, Shop, outcomes, send, send_to_sandbox, settings_for
from PIL import Image

from batchupload import attempt, loading, manifest, photos, pipeline, readers, recorder, report, site
from batchupload.row_faults import MOST_IN_A_ROW
from batchupload.sandbox import Sandbox
from batchupload.shop_settings import PhotoSettings

THE_ONE = "HT000005"


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have a function raise an error if `where` says so of its arguments."""

    def patched(owner: object, name: str, where: Callable[..., bool], error: Exception) -> None:
        original = getattr(owner, name)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            if where(*arguments, **named):
                raise error
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, wrapped)

    return patched


def the_one(*arguments: object, **named: object) -> bool:
    return THE_ONE in repr((arguments, named))


def others_are_uploaded(report: Report, orders: list[str], one: tuple[str, str]) -> None:
    assert sorted(row["order_id"] for row in report) == sorted(orders)
    assert outcomes(report) == {order: one if order == THE_ONE else ("uploaded", "accepted") for order in orders}


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


NO_PALETTE = (
    b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 3, 0, 0, 0))
    + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
)  # fmt: skip


async def test_a_png_without_its_palette_is_that_orders_matter(shop: Shop) -> None:
    orders = [*shop.orders(5), shop.order(THE_ONE, {"back": NO_PALETTE})]
    summary, report, _ = await send_to_sandbox(shop.manifest())
    others_are_uploaded(report, orders, ("invalid", "photo_corrupt"))
    assert "AssertionError" in next(row["detail"] for row in report if row["order_id"] == THE_ONE)
    assert summary.stopped is None


@pytest.mark.parametrize(
    "error", [AssertionError(), RecursionError("deep"), MemoryError(), zlib.error("x"), TypeError("x"), EOFError()]
)
def test_whatever_a_decoder_raises_the_photo_is_corrupt(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", broken)
    with pytest.raises(photos.PhotoError) as refused:
        photos.validate(NO_PALETTE, PhotoSettings())
    assert refused.value.problem.reason == "photo_corrupt"
    assert type(error).__name__ in refused.value.problem.detail


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (readers, "load_photos"),
        (site.ThisProcess, "_fetch"),
        (loading.Loading, "_unsent"),
        (recorder.Recorder, "begin"),
        (pipeline, "unsent"),
    ],
)
async def test_a_fault_before_the_send_leaves_the_order_failed(
    shop: Shop, fails: Callable[..., None], where: object, name: str
) -> None:
    orders = shop.orders(20)
    fails(where, name, the_one, LookupError("what nobody expected"))
    # Those that go first, by chance, are no longer asked what to do with their rows.
    summary, report, server = await send_to_sandbox(shop.manifest(), pace={"canary": 0})
    others_are_uploaded(report, orders, ("failed", "internal_error"))
    detail = next(row["detail"] for row in report if row["order_id"] == THE_ONE)
    assert "LookupError: what nobody expected" in detail
    assert THE_ONE not in server.accepted
    assert summary.exit_code == 1
    assert summary.stopped is None
    assert "1 row met a fault in batchupload itself" in summary.as_text(200)


async def test_a_fault_in_a_send_leaves_that_order_unknown(shop: Shop, fails: Callable[..., None]) -> None:
    orders = shop.orders(20)
    fails(site, "make_attempt", lambda _, order, *__, **___: order == THE_ONE, KeyError("odd"))
    summary, report, _ = await send_to_sandbox(shop.manifest())
    others_are_uploaded(report, orders, ("unknown", "internal_error"))
    assert summary.exit_code == 1


async def test_a_fault_that_keeps_coming_back_stops_the_run(shop: Shop, fails: Callable[..., None]) -> None:
    shop.orders(60)
    fails(readers, "load_photos", lambda *_: True, LookupError("always"))
    summary, report, server = await send_to_sandbox(shop.manifest())
    assert len(report) == 60
    found = list(outcomes(report).values())
    assert MOST_IN_A_ROW <= found.count(("failed", "internal_error")) < 60
    assert set(found) == {("failed", "internal_error"), ("deferred", "internal_error")}
    assert summary.stopped == "internal_error"
    assert not server.accepted


async def test_a_row_that_the_ledger_can_not_take_costs_the_others_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = shop.orders(20)
    original = getattr(attempt, "judge")  # noqa: B009 (not exported)

    def odd(*arguments: Any) -> Any:
        return replace(original(*arguments), message="half a character \ud83d")

    monkeypatch.setattr(attempt, "judge", odd)
    summary, report, _ = await send_to_sandbox(shop.manifest())
    assert outcomes(report) == dict.fromkeys(orders, ("uploaded", "accepted"))
    assert summary.exit_code == 0


async def test_a_row_that_can_not_be_written_has_its_row_all_the_same(shop: Shop, fails: Callable[..., None]) -> None:
    orders = shop.orders(20)
    fails(report.Report, "_cells", lambda _, ending: ending.row.order_id == THE_ONE, ValueError("odd"))
    _, rows, _ = await send_to_sandbox(shop.manifest())
    assert outcomes(rows) == dict.fromkeys(orders, ("uploaded", "accepted"))
    assert len(rows) == len(orders)


async def test_a_row_that_can_not_be_read_is_found_before_the_run_and_is_only_itself(
    shop: Shop, fails: Callable[..., None]
) -> None:
    shop.orders(20)
    fails(manifest, "clean", lambda text: text == THE_ONE, ValueError("odd"))
    summary, report, _ = await send_to_sandbox(shop.manifest())
    assert [(row["line"], row["outcome"], row["reason"]) for row in report if row["outcome"] != "uploaded"] == [
        ("7", "invalid", "internal_error")
    ]
    assert len(report) == 20
    assert summary.stopped is None


async def test_half_a_character_in_a_path_is_a_photo_that_is_not_there(shop: Shop) -> None:
    path = shop.folder / "orders.jsonl"
    shop.orders(5)
    text = "".join(f'{{"order_id": "{row[0]}", "face": "{row[1]}", "back": "{row[2]}", "hand": "{row[3]}"}}\n' for row in shop.rows[1:])  # fmt: skip  # noqa: E501
    path.write_text(text.replace("HT000002/face.jpg", "\\ud800x.jpg"))
    async with Sandbox() as server:
        _, report = await send(path, settings_for(server.url))
    assert outcomes(report)["HT000002"] == ("invalid", "photo_missing")
    assert [outcome for outcome, _ in outcomes(report).values()].count("uploaded") == 4
