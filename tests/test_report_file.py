"""The report file by itself: where it goes, what is in it, and what is left of it by a disk that fails."""

import asyncio
import errno
import os
import resource
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import read_report

from batchupload.model import Attempt, Ending, Finding, Outcome, Row, Verdict
from batchupload.reasons import Reason
from batchupload.report import (
    Report,
    ReportError,
    ReportLostError,
    common_root,
    may_begin,
    move_aside,
    move_back,
    report_path,
)
from batchupload.sheet import REPORT_COLUMNS

AT = datetime(2026, 11, 24, 1, 30, 5, 250_000, tzinfo=UTC)
PHOTOS = {"face": "a/face.jpg", "back": "a/back.jpg", "hand": "a/hand.jpg"}


def ending(manifest: Path, line: int, detail: str = "", photos: Mapping[str, str] = PHOTOS, **more: Any) -> Ending:
    row = Row(manifest, line, f"HT{line:06}", photos, more.pop("own", {}))
    return Ending(row, Outcome.INVALID, Reason.PHOTO_MISSING, detail, **more)


@contextmanager
def disk_full_at(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Its name


def test_a_report_lies_beside_the_first_manifest_unless_asked_elsewhere(tmp_path: Path) -> None:
    manifests = [tmp_path / "list" / "orders.csv", tmp_path / "others.csv"]
    name = "orders.report-20261124-013005.csv"
    assert report_path(manifests, None, None, AT) == tmp_path / "list" / name
    assert report_path(manifests, tmp_path / "reports", None, AT) == tmp_path / "reports" / name
    assert report_path(manifests, tmp_path / "reports", tmp_path, AT) == tmp_path / name
    assert report_path(manifests, tmp_path, tmp_path / "asked.csv", AT) == tmp_path / "asked.csv"
    too_long = tmp_path / ("x" * 300)
    assert report_path(manifests, tmp_path, too_long, AT) == too_long


def test_a_name_that_is_taken_gets_a_number_also_by_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    manifests = [tmp_path / "orders.csv"]
    names = []
    for _ in range(3):
        path = report_path(manifests, None, None, AT)
        path.symlink_to("nowhere")
        names.append(path.name)
    assert names == [f"orders.report-20261124-013005{n}.csv" for n in ("", "-2", "-3")]


def test_photo_paths_start_from_what_the_manifests_folders_share(tmp_path: Path) -> None:
    manifests = [tmp_path / "a/b/one.csv", tmp_path / "a/c/two.csv"]
    assert common_root(manifests, None) == tmp_path / "a"
    assert common_root(manifests, tmp_path) == tmp_path
    assert common_root(manifests[:1], None) == tmp_path / "a/b"


# Its place


def test_only_an_incomplete_report_may_be_in_the_place_of_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "report.csv"
    may_begin(path, again=False)
    contents = {
        b"": True, b"\xef\xbb\xbfline,order_id,outcome": True, b"\xef\xbb\xbfmanifest,line,order_id": True,
        b"line,order_id,outcome": False, b"\xef\xbb\xbforder_id,face": False, b"mine": False,
    }  # fmt: skip
    for content, is_report in contents.items():
        path.write_bytes(content)
        with pytest.raises(ReportError, match=r"report\.csv: this file exists"):
            may_begin(path, again=False)
        if is_report:
            may_begin(path, again=True)
        else:
            with pytest.raises(ReportError, match="this file exists"):
                may_begin(path, again=True)
    path.unlink()
    path.symlink_to("nowhere")
    for again in (False, True):
        with pytest.raises(ReportError, match="this file exists"):
            may_begin(path, again=again)


def test_an_incomplete_report_is_moved_aside_and_back_and_takes_no_others_place(tmp_path: Path) -> None:
    path = tmp_path / "report.csv"
    assert move_aside(path) is None
    path.write_text("first")
    (tmp_path / "report.incomplete-1.csv").write_text("mine")
    aside = move_aside(path)
    assert aside == tmp_path / "report.incomplete-2.csv"
    assert (aside.read_text(), path.exists()) == ("first", False)
    move_back(aside, path)
    assert (path.read_text(), aside.exists()) == ("first", False)
    aside = move_aside(path)
    assert aside
    path.write_text("another")
    move_back(aside, path)
    assert (path.read_text(), aside.read_text()) == ("another", "first")
    path.unlink()
    aside.unlink()
    move_back(aside, path)  # gone: there is nothing to undo
    assert not path.exists()


def test_a_report_that_can_not_be_moved_aside_is_said_with_both_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.csv"
    path.write_text("first")

    def refused(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(ReportError, match=r"report\.csv: .* moved to report\.incomplete-1\.csv \(Permission denied\)"):
        move_aside(path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["first"]  # nothing else is left there


# What is in it


async def test_each_cell_of_a_row_is_in_its_column(tmp_path: Path) -> None:
    manifest = tmp_path / "orders.csv"
    finding = Finding(Verdict.REJECTED, Reason.ENDPOINT_REFUSED, 400, "41", "no such order")
    sends = [
        Attempt(AT, 0.0, 1.0, 0.5, sent, found)
        for sent, found in ((7, Finding(Verdict.RETRY, Reason.UNAVAILABLE, 503)), (35, finding))
    ]
    row = Row(manifest, 7, "HT7", {**PHOTOS, "custom": "c.jpg"}, {("note", 0): "one", ("note", 1): "two"})
    sent = Ending(row, Outcome.REJECTED, Reason.ENDPOINT_REFUSED, "why", tuple(sends), AT, 1.2345)
    lost = Attempt(AT, 0.0, 1.0, 0.5, 35, Finding(Verdict.AMBIGUOUS, Reason.REPLY_LOST))
    silent = Ending(row, Outcome.UNKNOWN, Reason.REPLY_LOST, "", (lost,), AT, 0.5)
    own = [("note", 0), ("note", 1), ("other", 0)]
    async with Report(tmp_path / "report.csv", [manifest], own, tmp_path, ["custom"]) as report:
        await report.record([sent, silent])
        await report.record([ending(manifest, 8, "gone")])
    lines = (tmp_path / "report.csv").read_bytes().decode("utf-8-sig").split("\r\n")
    own_cells, at = "a/face.jpg,a/back.jpg,a/hand.jpg,c.jpg,one,two,", "2026-11-24T01:30:05.250+00:00"
    assert lines == [
        f"{','.join(REPORT_COLUMNS)},custom,note,note,other",
        f"7,HT7,rejected,endpoint_refused,why,400,41,no such order,2,42,{at},1234,{own_cells}",
        f"7,HT7,unknown,reply_lost,,,,,1,35,{at},500,{own_cells}",
        "8,HT000008,invalid,photo_missing,gone,,,,0,0,,,a/face.jpg,a/back.jpg,a/hand.jpg,,,,",
        "",
    ]


async def test_the_photo_paths_of_several_manifests_start_from_one_folder(tmp_path: Path) -> None:
    above, below = tmp_path / "one.csv", tmp_path / "more" / "two.csv"
    below.parent.mkdir()
    photos = {"face": "a/face.jpg", "back": "https://photos.example/b.jpg", "hand": "/srv/hand.jpg"}
    reports = {}
    for root in (None, tmp_path):
        path = tmp_path / f"{root is None}.csv"
        async with Report(path, [above, below], [], root) as report:
            await report.record([ending(manifest, 2, photos=photos) for manifest in (above, below)])
            await report.record([ending(below, 3, photos={"face": "a.jpg"})])
        reports[root] = [(row["manifest"], *(row[name] for name in PHOTOS)) for row in read_report(path)]
    address, absolute = photos["back"], photos["hand"]
    assert reports[None] == [
        (str(above), "a/face.jpg", address, absolute),
        (str(below), "more/a/face.jpg", address, absolute),
        (str(below), "more/a.jpg", "", ""),
    ]
    assert reports[tmp_path] == [
        (str(above), "a/face.jpg", address, absolute),
        (str(below), "a/face.jpg", address, absolute),
        (str(below), "a.jpg", "", ""),
    ]


@pytest.mark.parametrize("count", [1, 2])
async def test_a_row_whose_cells_can_not_be_made_has_what_counts_in_as_many_columns(
    tmp_path: Path, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    manifests = [tmp_path / f"{name}.csv" for name in ("one", "two")[:count]]
    own = [("note", 0), ("other", 0)]
    broken = ending(manifests[-1], 3, "known", own=None)  # no mapping: a fault of ours
    async with Report(tmp_path / "report.csv", manifests, own, None, ["custom"]) as report:
        await report.record([ending(manifests[0], 2), broken, ending(manifests[0], 4)])
    header, *rows = (tmp_path / "report.csv").read_bytes().decode("utf-8-sig").splitlines()
    assert [row.count(",") for row in rows] == [header.count(",")] * 3
    first, second, third = read_report(tmp_path / "report.csv")
    assert [first["line"], third["line"]] == ["2", "4"]
    assert (second["line"], second["order_id"], second["outcome"]) == ("3", "HT000003", "invalid")
    assert second["reason"] == "photo_missing"
    assert second["detail"].startswith("known; AttributeError: ")
    assert {second[name] for name in (*REPORT_COLUMNS[5:], "custom", "note", "other")} == {""}
    assert second.get("manifest", str(manifests[-1])) == str(manifests[-1])
    assert f"line 3 of {manifests[-1].name}" in caplog.text


# Disks that fail


async def test_no_half_line_is_left_by_a_full_disk(tmp_path: Path) -> None:
    path, manifest = tmp_path / "report.csv", tmp_path / "orders.csv"
    async with Report(path, [manifest], [], None) as report:
        await report.record([ending(manifest, 2)])
        await report.record([ending(manifest, 3)])
        whole = path.read_bytes()
        with disk_full_at(len(whole) + 200):
            with pytest.raises(ReportLostError, match=r"report\.csv: .*\(File too large\)"):
                await report.record([ending(manifest, 4), ending(manifest, 5, "x" * 1000)])
            assert path.read_bytes() == whole
    assert path.read_bytes() == whole
    assert [row["line"] for row in read_report(path)] == ["2", "3"]


async def test_a_report_that_can_not_have_its_header_is_not_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "report.csv"
    with disk_full_at(40), pytest.raises(ReportError, match=r"report\.csv: .*\(File too large\)"):
        async with Report(path, [tmp_path / "orders.csv"], [], None):
            pytest.fail("it has no header")
    assert not path.exists()


async def test_a_disk_that_writes_in_small_pieces_gets_every_byte_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, manifest = tmp_path / "report.csv", tmp_path / "orders.csv"
    async with Report(path, [manifest], [], None) as report:
        write = report._file.write

        async def in_pieces(content: memoryview) -> int:
            return await write(content[:50])

        monkeypatch.setattr(report._file, "write", in_pieces)
        await report.record([ending(manifest, 2, "x" * 500), ending(manifest, 3)])
        whole = path.read_bytes()
        with disk_full_at(len(whole) + 120), pytest.raises(ReportLostError):
            await report.record([ending(manifest, 4, "x" * 500)])
    assert path.read_bytes() == whole
    assert [(row["line"], row["detail"]) for row in read_report(path)] == [("2", "x" * 500), ("3", "")]


@pytest.mark.parametrize(
    ("call", "number", "begins"),
    [("open", "EACCES", True), ("open", "EIO", False), ("fsync", "EINVAL", True), ("fsync", "EIO", False)],
)
async def test_a_folder_that_can_not_be_synced_is_only_a_fault_if_the_disk_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: str, begins: bool
) -> None:
    folder = tmp_path / "reports"
    folder.mkdir()
    original, opened = getattr(os, call), []

    def failing(what: Any, *arguments: Any) -> Any:
        is_folder = str(what) == str(folder) if call == "open" else os.path.samestat(os.fstat(what), folder.stat())
        if is_folder:
            opened.append(what)
            raise OSError(getattr(errno, number), "no")
        return original(what, *arguments)

    monkeypatch.setattr(os, call, failing)
    report = Report(folder / "report.csv", [tmp_path / "orders.csv"], [], None)
    if begins:
        async with report:
            await report.finish()
    else:
        with pytest.raises(ReportError, match=r"report can't be written \(no\)"):
            async with report:
                pytest.fail("its name may not be on the disk")
        assert not (folder / "report.csv").exists()
    assert opened
    if call == "fsync":
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(opened[0])


async def test_a_report_is_not_finished_before_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, manifest = tmp_path / "report.csv", tmp_path / "orders.csv"
    original, synced = os.fsync, list[int]()

    def seen(file: int) -> None:
        synced.append(os.fstat(file).st_ino)
        original(file)

    monkeypatch.setattr(os, "fsync", seen)
    async with Report(path, [manifest], [], None) as report:
        await report.record([ending(manifest, 2)])
        synced.clear()
        await report.finish()
        assert synced == [path.stat().st_ino]

        def failing(file: int) -> None:
            raise OSError(errno.EIO, "the disk is dying")

        monkeypatch.setattr(os, "fsync", failing)
        with pytest.raises(ReportLostError, match="the disk is dying"):
            await report.finish()


async def test_a_report_whose_name_another_file_has_is_lost_at_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, manifest = tmp_path / "report.csv", tmp_path / "orders.csv"
    monkeypatch.setattr("batchupload.report.LOOK_SECONDS", 3600.0)
    async with Report(path, [manifest], [], None) as report:
        await report.record([ending(manifest, 2)])  # the first look
        path.rename(tmp_path / "elsewhere.csv")
        await report.record([ending(manifest, 3)])  # too soon for another
        with pytest.raises(ReportLostError, match="it was removed in mid-run"):
            await report.finish()
        path.write_text("another")
        with pytest.raises(ReportLostError, match="it was replaced in mid-run"):
            await report.finish()
        monkeypatch.setattr("batchupload.report.LOOK_SECONDS", 0.0)
        with pytest.raises(ReportLostError, match="it was replaced in mid-run"):
            await report.record([ending(manifest, 4)])
    assert [row["line"] for row in read_report(tmp_path / "elsewhere.csv")] == ["2", "3", "4"]


async def test_a_report_that_is_let_go_waits_for_its_file_to_close_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = asyncio.Event()
    async with Report(tmp_path / "report.csv", [tmp_path / "orders.csv"], [], None) as report:
        close = report._file.close

        async def slowly() -> None:
            await asyncio.sleep(0.05)
            await close()
            over.set()

        monkeypatch.setattr(report._file, "close", slowly)
    assert over.is_set()
    monkeypatch.setattr("batchupload.report.WRITE_SECONDS", 0.2)
    async with asyncio.timeout(30), Report(tmp_path / "2.csv", [tmp_path / "orders.csv"], [], None) as report:
        monkeypatch.setattr(report._file, "close", asyncio.Event().wait)
    report._file._file.close()  # type: ignore[attr-defined]
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


async def test_a_disk_that_does_not_answer_is_given_up_and_not_waited_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, manifest, answer = tmp_path / "report.csv", tmp_path / "orders.csv", threading.Event()
    began = time.monotonic()
    try:
        async with asyncio.timeout(30), Report(path, [manifest], [], None) as report:
            monkeypatch.setattr("batchupload.report._look_for", lambda *_: answer.wait(60))
            monkeypatch.setattr("batchupload.report.WRITE_SECONDS", 0.2)
            with pytest.raises(ReportLostError, match="the disk does not answer"):
                await report.record([ending(manifest, 2)])
            monkeypatch.setattr("batchupload.report.WRITE_SECONDS", 60.0)
        assert time.monotonic() - began < 30
    finally:
        answer.set()
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)  # the closing
    assert [row["line"] for row in read_report(path)] == ["2"]


async def test_a_disk_that_does_not_answer_is_given_up_before_the_first_send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()

    def opened(*_: Any) -> int:
        answer.wait(60)
        raise OSError

    monkeypatch.setattr("batchupload.report._private", opened)
    monkeypatch.setattr("batchupload.report.WRITE_SECONDS", 0.2)
    try:
        async with asyncio.timeout(30):
            with pytest.raises(ReportError, match="the disk does not answer"):
                async with Report(tmp_path / "report.csv", [tmp_path / "orders.csv"], [], None):
                    pytest.fail("it was not made")
    finally:
        answer.set()


async def test_no_other_blocked_work_keeps_the_report_waiting(tmp_path: Path) -> None:
    path, manifest, over = tmp_path / "report.csv", tmp_path / "orders.csv", threading.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    blocked = loop.run_in_executor(None, over.wait, 60)
    try:
        async with asyncio.timeout(30), Report(path, [manifest], [], None) as report:
            await report.record([ending(manifest, 2)])
            await report.finish()
        assert not blocked.done()
    finally:
        over.set()
        await blocked
    assert [row["line"] for row in read_report(path)] == ["2"]


async def test_a_report_is_not_begun_over_another_file(tmp_path: Path) -> None:
    (tmp_path / "report.csv").write_text("mine")
    with pytest.raises(ReportError, match=r"report\.csv: this file exists"):
        async with Report(tmp_path / "report.csv", [tmp_path / "orders.csv"], [], None):
            pytest.fail("it was not made")
    assert (tmp_path / "report.csv").read_text() == "mine"
