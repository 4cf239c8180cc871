"""Ledger and report that can't be used, or not be trusted: said with the remedy, before anything is sent."""

import asyncio
import ctypes
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Shop, batchupload, command, environment, outcomes, read_report

from batchupload.sandbox import Sandbox


@pytest.mark.parametrize(
    ("ledger", "words"),
    [
        (".", "this is a folder"),
        ("absent/ledger.db", "absent does not exist"),
        ("orders.csv/ledger.db", "orders.csv is not a folder"),
        ("/sys/ledger.db", "can't be held"),
        ("locked.db", "can't be held"),
        ("loop.db", "leads back to itself"),
        (f"{'x' * 300}.db", "File name too long"),
        ("orders.csv", "can't be trusted"),
    ],
)
async def test_where_the_ledger_can_not_be_nothing_is_sent(shop: Shop, ledger: str, words: str) -> None:
    shop.orders(1)
    shop.manifest()
    (shop.folder / "locked.db.lock").mkdir()
    (shop.folder / "loop.db").symlink_to("loop.db")
    env = {"BATCHUPLOAD_LEDGER_PATH": ledger}
    before = sorted(shop.folder.iterdir())
    async with Sandbox() as server:
        done = await asyncio.to_thread(
            batchupload, "run", "orders.csv", "--endpoint", server.url, cwd=shop.folder, env=env
        )
        assert server.stats()["requests"] == 0
    assert done.returncode == 5
    assert "Traceback" not in done.stderr
    assert Path(ledger).name in done.stderr
    assert words in done.stderr
    assert "ledger.path" in done.stderr
    assert [path for path in sorted(shop.folder.iterdir()) if path.suffix != ".lock"] == [
        path for path in before if path.suffix != ".lock"
    ]


def corrupt(path: Path, how: str) -> None:
    with closing(sqlite3.connect(path)) as ledger, ledger:
        if how == "verdict":
            ledger.execute("UPDATE attempts SET verdict = 'acceptee' WHERE rowid_ = 1".replace("rowid_", "number"))
        elif how == "run":
            ledger.execute("UPDATE runs SET manifests = '[\"orders.csv', ended_at = NULL")
        elif how == "outcome":
            ledger.execute("UPDATE outcomes SET outcome = 'uploadde'")
        else:
            ledger.execute("UPDATE runs SET summary = 'x', started_at = 'yesterday'")
    with closing(sqlite3.connect(path)) as ledger:
        ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@pytest.mark.parametrize("how", ["verdict", "run"])
async def test_a_cell_of_the_ledger_that_changed_is_found_before_anything_is_sent(shop: Shop, how: str) -> None:
    shop.orders(3)
    shop.manifest()
    async with Sandbox() as server:
        words = ("run", "orders.csv", "--endpoint", server.url)
        await asyncio.to_thread(batchupload, *words, cwd=shop.folder)
        corrupt(shop.folder / "batchupload.db", how)
        done = await asyncio.to_thread(batchupload, *words, "--force", cwd=shop.folder)
        assert server.stats()["requests"] == 3
    assert done.returncode == 5, done.stderr
    assert "batchupload.db: this ledger can't be trusted" in done.stderr
    assert "ledger.path" in done.stderr


@pytest.mark.parametrize("how", ["run", "summary", "outcome", "pages"])
@pytest.mark.parametrize("words", [("history",), ("history", "--json"), ("show", "1"), ("show", "HT000001")])
async def test_what_can_not_be_read_in_a_damaged_ledger_is_said(shop: Shop, how: str, words: tuple[str, ...]) -> None:
    shop.orders(60)
    shop.manifest()
    async with Sandbox() as server:
        await asyncio.to_thread(batchupload, "run", "orders.csv", "--endpoint", server.url, cwd=shop.folder)
    path = shop.folder / "batchupload.db"
    if how == "pages":
        content = path.read_bytes()
        path.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))
    else:
        corrupt(path, how)
    done = batchupload(*words, cwd=shop.folder)
    assert "Traceback" not in done.stderr
    if how == "pages" or (how == "outcome" and words[-1] != "HT000001"):
        assert done.returncode == 5
    if done.returncode:
        assert done.returncode == 5
        assert "batchupload.db: this ledger can't be trusted" in done.stderr
        assert "ledger.path" in done.stderr


def as_plain_user() -> None:
    """Where the tests run as root, modes of files mean nothing; the program then starts without that privilege."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.mark.parametrize(
    ("ledger", "report", "code", "words"),
    [
        ("closed/ledger.db", "report.csv", 5, "closed/ledger.db: the ledger can't be used (Permission denied)"),
        ("still/new.db", "report.csv", 5, "still/new.db.lock: the ledger can't be held by this file (Permission den"),
        ("locked.db", "report.csv", 5, "locked.db.lock: the ledger can't be held by this file (Permission denied)"),
        ("still.db", "report.csv", 5, "still.db: the ledger can't be used (this user may not write it)"),
        ("batchupload.db", "closed/report.csv", 2, "closed/report.csv: the report can't be written (Permission den"),
        ("batchupload.db", "still/report.csv", 2, "still/report.csv: the report can't be written (Permission denied)"),
        ("batchupload.db", f"{'x' * 300}.csv", 2, "the report can't be written (File name too long)"),
    ],
)
async def test_what_this_user_may_not_do_is_said_before_anything_is_sent(
    shop: Shop, ledger: str, report: str, code: int, words: str
) -> None:
    shop.orders(1)
    shop.manifest()
    async with Sandbox() as server:
        words_of = ("run", "orders.csv", "--endpoint", server.url)
        await asyncio.to_thread(batchupload, *words_of, cwd=shop.folder, env={"BATCHUPLOAD_LEDGER_PATH": "still.db"})
        for folder, mode in (("closed", 0), ("still", 0o500)):
            (shop.folder / folder).mkdir(mode)
        (shop.folder / "still.db").chmod(0o400)
        (shop.folder / "locked.db.lock").touch(0)
        for arguments in ((*words_of, "--report", report), ("history",)):
            done = await asyncio.to_thread(
                subprocess.run,
                command(*arguments),
                cwd=shop.folder, env=environment({"BATCHUPLOAD_LEDGER_PATH": ledger}), capture_output=True, text=True,
                timeout=60, preexec_fn=as_plain_user, check=False,
            )  # fmt: skip
            assert "Traceback" not in done.stderr
            if arguments[0] == "run":
                assert (done.returncode, words in done.stderr) == (code, True), done.stderr
        assert server.stats()["requests"] == 1


def test_a_photo_folder_that_this_user_may_not_enter_is_said(shop: Shop) -> None:
    shop.orders(1)
    shop.manifest()
    (shop.folder / "closed").mkdir(0)
    done = subprocess.run(
        command("check", "orders.csv", "--photos-root", "closed/photos"),
        cwd=shop.folder, env=environment(), capture_output=True, text=True, timeout=60, preexec_fn=as_plain_user,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "closed/photos is no folder" in done.stderr


async def test_a_copy_of_the_ledger_made_by_vacuum_into_is_one(shop: Shop) -> None:
    orders = shop.orders(3)
    shop.manifest()
    async with Sandbox() as server:
        words = ("run", "orders.csv", "--endpoint", server.url, "--report")
        await asyncio.to_thread(batchupload, *words, "1.csv", cwd=shop.folder)
        with closing(sqlite3.connect(shop.folder / "batchupload.db")) as ledger:
            ledger.execute("VACUUM INTO ?", (str(shop.folder / "copy.db"),))
        env = {"BATCHUPLOAD_LEDGER_PATH": "copy.db"}
        done = await asyncio.to_thread(batchupload, *words, "2.csv", cwd=shop.folder, env=env)
    assert done.returncode == 0, done.stderr
    assert outcomes(read_report(shop.folder / "2.csv")) == dict.fromkeys(orders, ("skipped", "already_uploaded"))
