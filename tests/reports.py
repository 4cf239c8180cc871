"""Reports made up for the tests of the page: a few rows as one likes them, or a night's worth."""

import csv
import random
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path

from batchupload.sheet import REPORT_COLUMNS, neutral

BEGAN = datetime(2026, 11, 24, 1, 30, tzinfo=timezone(timedelta(hours=8)))
GOOD = {
    "line": "2", "order_id": "HT000001", "outcome": "uploaded", "reason": "accepted", "http_status": "200",
    "code": "200", "message": "提交成功", "attempts": "1", "bytes_sent": "1000", "started_at": BEGAN.isoformat(),
    "duration_ms": "100", "face": "a.jpg", "back": "b.jpg", "hand": "c.jpg",
}  # fmt: skip
KINDS = {
    "invalid": "photo_missing",
    "rejected": "endpoint_refused",
    "failed": "unavailable",
    "unknown": "reply_timeout",
    "deferred": "stopped",
}


def write_report(path: Path, rows: Iterable[Mapping[str, str]], own: tuple[str, ...] = (), dialect: str = ",") -> Path:
    """A report with these cells; those that a row leaves out are empty."""
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=dialect)
        writer.writerow([*REPORT_COLUMNS, *own])
        writer.writerows([neutral(row.get(name, "")) for name in (*REPORT_COLUMNS, *own)] for row in rows)
    return path


def night(rows: int, *, all_left: bool = False) -> Iterator[dict[str, str]]:
    """A run over so many rows, eleven a second, the same each time; every tenth is left, or all of them."""
    chance = random.Random(1)
    for number in range(rows):
        left = all_left or number % 10 == 3
        outcome = chance.choice(sorted(KINDS)) if left else "uploaded"
        sends = 0 if outcome == "invalid" else chance.choice((1, 1, 1, 1, 2, 4))
        order_id = f"HT{2023111015044000000 + number * 7}"
        yield {
            "line": str(number + 2),
            "order_id": order_id,
            "outcome": outcome,
            "reason": KINDS.get(outcome, "accepted"),
            "detail": "face" if outcome == "invalid" else "attempts: 1 unavailable (503), 2 unavailable (503)",
            "message": "订单不存在" if outcome == "rejected" else "",
            "attempts": str(sends),
            "bytes_sent": str(sends * 180_000),
            "started_at": (BEGAN + timedelta(seconds=number / 11)).isoformat(timespec="milliseconds") if sends else "",
            "duration_ms": str(chance.randrange(80, 900) * sends) if sends else "",
            **{field: f"photos/{order_id}/{field}.jpg" for field in ("face", "back", "hand")},
            "客户": "张三",
        }
