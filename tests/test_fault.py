"""A fault of the program itself, raised in any stage: exit 70, loud, and what is known is on record."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Shop, batchupload, environment, read_report

from batchupload.sandbox import Sandbox

FAULTS = """
import batchupload.cli
from importlib import import_module

def broken(*arguments, **options):
    raise {what}

place, _, name = {where!r}.rpartition(".")
holder, _, within = place.partition(":")
target = import_module(holder)
for part in filter(None, within.split(".")):
    target = getattr(target, part)
setattr(target, name, broken)
batchupload.cli.main()
"""


def broken(folder: Path, where: str, what: str, *words: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """The program, in which what is at `where` raises `what`."""
    program = FAULTS.format(where=where, what=what)
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=folder, env=environment(env), capture_output=True, text=True, timeout=60,
    )  # fmt: skip


BEFORE = ["batchupload.job.open_manifests", "batchupload.job.survey"]
DURING = [
    "batchupload.pipeline:Pipeline.run",
    "batchupload.pipeline:Pipeline._dispatch",
    "batchupload.pipeline:Pipeline._feed",
    "batchupload.recorder:Recorder.record",
    "batchupload.recorder:Recorder.finish",
    "batchupload.ledger:Ledger.end_run",
    "batchupload.job.Summary",
]
AFTER = ["batchupload.run_log.ended", "batchupload.summary:Summary.as_text", "batchupload.cli.see_through"]
WHAT = [
    "RuntimeError('a fault')", "MemoryError()", "RecursionError('deep')", "KeyError('x')",
    "ExceptionGroup('several', [ValueError('one'), TypeError('two')])", "AssertionError()",
]  # fmt: skip


@pytest.mark.parametrize("where", BEFORE)
async def test_a_fault_before_the_run_says_that_nothing_was_sent(shop: Shop, where: str) -> None:
    shop.orders(2)
    shop.manifest()
    done = broken(
        shop.folder, where, "RuntimeError('a fault')", "run", "orders.csv", "--endpoint", "http://127.0.0.1:9/"
    )
    assert done.returncode == 70, done.stderr
    assert "RuntimeError: a fault" in done.stderr
    assert "fault in batchupload itself" in done.stderr
    assert "nothing was sent" in done.stderr


@pytest.mark.parametrize(
    ("where", "what"), [*((w, WHAT[0]) for w in DURING[1:] + AFTER), *((DURING[0], w) for w in WHAT)]
)
async def test_a_fault_of_a_run_exits_70_and_says_what_is_on_record(shop: Shop, where: str, what: str) -> None:
    orders = shop.orders(3)
    shop.manifest()
    async with Sandbox() as server:
        words = ("run", "orders.csv", "--endpoint", server.url, "--report", "report.csv")
        done = await asyncio.to_thread(broken, shop.folder, where, what, *words)
        assert done.returncode == 70, done.stderr
        assert "Traceback" in done.stderr
        assert what.split("(")[0] in done.stderr
        said = done.stderr.split("fault in batchupload itself;")[-1]
        for known in (
            "Run 1 had begun",
            "may have been sent",
            "batchupload.db",
            "report.csv",
            "Run the same command again",
        ):
            assert known in said
        read_report(shop.folder / "report.csv")
        again = await asyncio.to_thread(batchupload, "run", "orders.csv", "--endpoint", server.url, cwd=shop.folder)
        assert again.returncode == 0, again.stderr
        assert sorted(server.accepted) == orders


async def test_a_fault_is_told_as_one_json_line_that_names_no_photo(shop: Shop) -> None:
    shop.orders(1)
    shop.manifest()
    words = ("check", "orders.csv", "--log-format", "json", "--report", "report.csv")
    done = await asyncio.to_thread(broken, shop.folder, DURING[0], "RuntimeError('HT000000/face.jpg')", *words)
    assert done.returncode == 70
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    [fault] = [line for line in lines if line["event"] == "internal_fault"]
    assert fault["fault"] == "RuntimeError"
    assert "Nothing was sent" in lines[-1]["message"]
    assert lines[-1]["exit_code"] == 70
    assert "HT000000" not in done.stderr


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("batchupload.status.status", ("status",)),
        ("batchupload.page.make.make_page", ("page", "orders.csv")),
        ("batchupload.scan_job.scan", ("scan", ".")),
        ("batchupload.history.read_ledger", ("history",)),
        ("batchupload.doctor.examine", ("doctor", "--config", os.devnull)),
    ],
)
def test_a_fault_of_any_command_exits_70(tmp_path: Path, where: str, words: tuple[str, ...]) -> None:
    done = broken(tmp_path, where, "LookupError('a fault')", *words, BATCHUPLOAD_ENDPOINT_URL="http://127.0.0.1:9/")
    assert done.returncode == 70, done.stderr
    assert "LookupError: a fault" in done.stderr
    assert "please report it" in done.stderr
