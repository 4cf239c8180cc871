"""Photo sets are the same if the same photos are in the same fields; what older ledgers know stays known."""

import csv
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import Shop, outcomes, picture, send, settings_for

from batchupload.sandbox import Sandbox, SandboxOptions

UPLOADED = ("uploaded", "accepted")
SKIPPED = ("skipped", "already_uploaded")
CHANGED = ("uploaded", "accepted_changed")
FIELDS = ("face", "back", "hand", "custom")
FACE_ONLY = {"required": ["face"], "optional": ["back", "hand"]}


def manifest(shop: Shop, *rows: str) -> Path:
    """Rows such as `HT000001 a b - c`: an order, then the photo of each field, `-` for none."""
    shop.folder.mkdir(exist_ok=True)
    path = shop.folder / "orders.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        width = max(len(row.split()) for row in rows)
        writer.writerow(["order_id", *FIELDS[: width - 1]])
        for row in rows:
            order_id, *names = row.split()
            writer.writerow([order_id, *("" if n == "-" else shop.write(f"{n}.jpg", picture(n)) for n in names)])
    return path


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with Sandbox(SandboxOptions(photo_fields=frozenset({"face"}))) as server:
        yield server.url


async def run(shop: Shop, url: str, fields: dict[str, Any], *rows: str) -> list[tuple[str, str]]:
    _, report = await send(manifest(shop, *rows), settings_for(url, manifest=fields))
    return [(row["outcome"], row["reason"]) for row in sorted(report, key=lambda row: int(row["line"]))]


def make_old(shop: Shop) -> None:
    """Have the ledger know photo sets as an earlier version did: one digest behind the other, and nothing else."""
    with closing(sqlite3.connect(shop.folder / "batchupload.db")) as ledger, ledger:
        ledger.execute("UPDATE attempts SET photos = substr(photos, 1, length(photos) / 16 * 16)")


async def test_the_same_photos_in_other_fields_are_a_conflict_and_no_duplicate(shop: Shop, url: str) -> None:
    found = await run(shop, url, FACE_ONLY, "HT000001 a b -", "HT000001 a - b", "HT000002 a b -", "HT000002 a b -")
    assert found == [("invalid", "conflicting_rows")] * 2 + [UPLOADED, ("duplicate", "repeated_row")]


@pytest.mark.parametrize(
    ("fields", "before", "after"),
    [
        (FACE_ONLY, "a b -", "a - b"),
        ({"required": ["face", "back"], "optional": ["hand", "custom"]}, "a b c -", "a b - c"),
        ({"required": ["face", "back"], "optional": ["hand", "custom"]}, "a b - c", "a b c -"),
    ],
)
async def test_a_row_that_was_corrected_is_sent(
    shop: Shop, url: str, fields: dict[str, Any], before: str, after: str
) -> None:
    assert await run(shop, url, fields, f"HT000001 {before}") == [UPLOADED]
    assert await run(shop, url, fields, f"HT000001 {after}") == [CHANGED]
    assert await run(shop, url, fields, f"HT000001 {after}") == [SKIPPED]


@pytest.mark.parametrize(
    ("fields", "row", "again"),
    [
        ({}, "a b c", SKIPPED),
        ({"optional": ["custom"]}, "a b c d", SKIPPED),
        ({"optional": ["custom"]}, "a b c -", SKIPPED),
        ({"required": ["face", "back"]}, "a b", SKIPPED),
        ({"required": ["face", "back", "custom"]}, "a b - d", SKIPPED),
        ({"required": ["face", "back"], "optional": ["hand"]}, "a b -", SKIPPED),
        (FACE_ONLY, "a - -", SKIPPED),
        (FACE_ONLY, "a b c", SKIPPED),
        (FACE_ONLY, "a b -", CHANGED),
        (FACE_ONLY, "a - b", CHANGED),
    ],
)
async def test_what_an_older_ledger_knows_is_skipped_if_it_can_only_be_that_set(
    shop: Shop, url: str, fields: dict[str, Any], row: str, again: tuple[str, str]
) -> None:
    assert await run(shop, url, fields, f"HT000001 {row}") == [UPLOADED]
    make_old(shop)
    assert await run(shop, url, fields, f"HT000001 {row}") == [again]
    assert await run(shop, url, fields, f"HT000001 {row}") == [SKIPPED]


async def test_a_photo_of_another_order_is_noticed_in_whatever_field(shop: Shop, url: str) -> None:
    _, report = await send(manifest(shop, "HT000001 a b -", "HT000002 c - b"), settings_for(url, manifest=FACE_ONLY))
    assert outcomes(report) == {"HT000001": UPLOADED, "HT000002": UPLOADED}
    details = {row["detail"] for row in report}
    assert details in ({"", "warning: hand is also in order HT000001"}, {"", "warning: back is also in order HT000002"})
