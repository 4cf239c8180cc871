"""Kills a purge at each successive system call from its first lasting write on, and holds ledger and files against what
was promised: `python tests/killing_purge.py [--every N] [--forget-uploaded]`. Linux only."""

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from conftest import Shop
from killing import Disk, TracingRefusedError, kill_at_call, run_to_its_end
from test_purge import GONE, database, holding, refusing, two_runs

from batchupload import purge, purge_told  # noqa: F401


async def _make(shop: Shop) -> None:
    async with refusing() as server:
        await two_runs(shop, server)
    (shop.folder / "old.html").write_text("<!doctype html>HT000002")
    (shop.folder / "old.incomplete-1.csv").write_bytes((shop.folder / "old.csv").read_bytes())


def kill_everywhere(folder: Path, options: Sequence[str], every: int) -> int:
    """How many kills it survived. Raises `AssertionError`."""
    shop = Shop(folder / "shop")
    asyncio.run(_make(shop))
    before = {path.name: path.read_bytes() for path in shop.folder.iterdir() if path.is_file()}
    words = ["purge", "--older-than", "90d", "--yes", *options]
    gone = (*GONE, "HT000001") if options else GONE
    kills = 0
    while True:
        for path in shop.folder.iterdir():
            if path.is_file():
                path.unlink()
        for name, content in before.items():
            (shop.folder / name).write_bytes(content)
        if not kill_at_call(words, shop.folder, kills * every + 1, Disk()):
            return kills
        kills += 1
        with database(shop) as ledger:
            assert ledger.execute("PRAGMA integrity_check").fetchone() == ("ok",), kills
            lost = "SELECT count(*) FROM attempts WHERE run NOT IN (SELECT id FROM runs)"
            assert ledger.execute(lost).fetchone() == (0,), kills
            known = "SELECT count(*) FROM attempts WHERE order_id = 'HT000001' AND verdict = 'accepted'"
            assert options or ledger.execute(known).fetchone() == (1,), kills
        assert run_to_its_end(words, shop.folder) == 0, kills
        assert not list(shop.folder.glob("old*")), kills
        for canary in gone:
            assert holding(shop, canary) == set(), (kills, canary)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="each N-th system call")
    parser.add_argument("--forget-uploaded", action="store_true")
    arguments = parser.parse_args()
    os.umask(0o077)
    options = ["--forget-uploaded"] if arguments.forget_uploaded else []
    with tempfile.TemporaryDirectory() as folder:
        try:
            kills = kill_everywhere(Path(folder), options, arguments.every)
        except TracingRefusedError:
            print("this machine lets no process be traced", file=sys.stderr)
            return 77
    print(f"{kills} kills: each left a good ledger, and the next purge finished")
    return 0


if __name__ == "__main__":
    sys.exit(main())
