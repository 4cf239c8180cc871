"""Manifests that are read by threads: what stalls, ends early or breaks costs its own rows only, and loses none."""

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import pytest
from scripted import moment, row, rows, slow, virtually

from batchupload.feed import LOOK_SECONDS, PASS_OVER_SECONDS, ROWS_AT_ONCE, Feed, Manifest
from batchupload.model import Row
from batchupload.reasons import Reason
from batchupload.source import ManifestError
from batchupload.survey import KnownRows


def known(listed: Sequence[Row]) -> KnownRows:
    kept = KnownRows(listed[0].manifest)
    for one in listed:
        kept.add(one)
    return kept


def breaks(listed: Sequence[Row], after: int, error: Exception) -> Iterator[Row]:
    yield from listed[:after]
    raise error


async def batches(reader: Feed, waits: Callable[[float], bool] = lambda _: True) -> list[list[Row]]:
    found = []
    async with asyncio.timeout(3000):
        while batch := await reader.read(waits):
            found.append(batch)
    return found


def flat(found: Iterable[Sequence[Row]]) -> list[Row]:
    return [*chain.from_iterable(found)]


async def test_rows_come_in_their_order_so_many_at_a_time() -> None:
    first, second = rows(600), rows(300, 600, Path("more.csv"))
    reader = Feed([Manifest(iter(first)), Manifest(iter(second))])
    found = await batches(reader)
    assert flat(found) == first + second
    assert [len(batch) for batch in found] == [ROWS_AT_ONCE, ROWS_AT_ONCE, 88, ROWS_AT_ONCE, 44]
    assert reader.broken is None
    assert await reader.read(lambda _: True) == []


@pytest.mark.parametrize(("most", "sizes"), [(1, [1]), (256, [256]), (300, [256, 44]), (2000, [256, 256, 88])])
async def test_no_more_rows_of_a_manifest_are_taken_than_asked_for(most: int, sizes: list[int]) -> None:
    read = 0

    def counted() -> Iterator[Row]:
        nonlocal read
        for one in rows(600):
            read += 1
            yield one

    reader = Feed([Manifest(counted(), known(rows(600)), most)])
    assert [len(batch) for batch in await batches(reader)] == sizes
    assert read == sum(sizes)
    assert reader.broken is None


@pytest.mark.parametrize("after", [0, 1, 256, 300])
async def test_rows_that_can_not_be_read_any_more_are_known_by_line_and_order(after: int) -> None:
    listed, more = rows(600), rows(5, 600, Path("more.csv"))
    reader = Feed([Manifest(breaks(listed, after, ManifestError("gone")), known(listed)), Manifest(iter(more))])
    found = flat(await batches(reader))
    assert [(one.line, one.order_id) for one in found] == [(one.line, one.order_id) for one in listed + more]
    problems = [one.problem for one in found]
    assert problems[:after] == [None] * after
    assert {(one.reason, one.detail) for one in problems[after:600] if one} == {(Reason.MANIFEST_LOST, "gone")}
    assert problems[600:] == [None] * 5
    assert isinstance(reader.broken, ManifestError)
    assert str(reader.broken) == "gone"


async def test_what_breaks_first_is_the_reason_told() -> None:
    several = [Manifest(breaks(rows(2), 1, ManifestError(what)), known(rows(2))) for what in ("first", "second")]
    reader = Feed(several)
    assert len(flat(await batches(reader))) == 4
    assert str(reader.broken) == "first"


async def test_a_fault_while_a_manifest_is_read_is_logged_and_loses_no_row(caplog: pytest.LogCaptureFixture) -> None:
    listed = rows(4)
    reader = Feed([Manifest(breaks(listed, 2, LookupError("odd")), known(listed))])
    found = flat(await batches(reader))
    assert [one.problem.detail for one in found if one.problem] == ["LookupError: odd"] * 2
    assert str(reader.broken) == "LookupError: odd"
    [record] = caplog.records
    assert (record.levelname, record.getMessage()) == ("ERROR", "An internal fault while a manifest was read")
    assert record.exc_info
    assert isinstance(record.exc_info[1], LookupError)
    assert record.__dict__["event"] == "internal_fault"


async def test_a_manifest_that_became_shorter_has_all_its_rows() -> None:
    listed = rows(10)
    reader = Feed([Manifest(iter(listed[:7]), known(listed))])
    found = flat(await batches(reader))
    assert [one.line for one in found] == [one.line for one in listed]
    assert [one.problem is None for one in found] == [True] * 7 + [False] * 3
    assert "could not be read on in time" in str(reader.broken)


async def test_of_a_manifest_that_became_shorter_no_more_rows_are_missed_than_were_asked_for() -> None:
    listed = rows(10)
    reader = Feed([Manifest(iter(listed[:7]), known(listed), 8)])
    assert [one.line for one in flat(await batches(reader))] == list(range(2, 10))
    reader = Feed([Manifest(iter(listed[:7]), known(listed), 7)])
    assert [one.line for one in flat(await batches(reader))] == list(range(2, 9))
    assert reader.broken is None


async def test_of_a_manifest_of_which_nothing_is_known_what_is_lost_has_no_rows() -> None:
    reader = Feed([Manifest(breaks(rows(10), 3, ManifestError("gone")))])
    assert len(flat(await batches(reader))) == 3
    assert str(reader.broken) == "gone"


async def test_a_manifest_that_has_no_rows_is_none_that_could_not_be_read() -> None:
    for known_rows in (None, KnownRows(Path("orders.csv"))):
        reader = Feed([Manifest(iter(()), known_rows)])
        assert await batches(reader) == []
        assert reader.broken is None


def test_a_manifest_that_stalls_is_passed_over_and_read_on_later() -> None:
    listed, more = rows(600), rows(300, 600, Path("more.csv"))

    async def read() -> None:
        reader = Feed([Manifest(slow(listed, {300: 40.0}), known(listed)), Manifest(iter(more))])
        found = [await reader.read(lambda _: True) for _ in range(3)]
        assert [len(batch) for batch in found] == [256, 256, 44]
        assert found[1] + found[2] == more
        assert moment() == PASS_OVER_SECONDS
        found += await batches(reader)
        assert moment() == 40
        assert flat(found) == [*listed[:256], *more, *listed[256:]]
        assert reader.broken is None

    virtually(read())


def test_what_comes_in_time_is_waited_for_in_its_place() -> None:
    listed, more = rows(4), rows(4, 100, Path("more.csv"))

    async def read() -> None:
        reader = Feed([Manifest(slow(listed, {2: 0.9}), known(listed)), Manifest(iter(more))])
        assert flat(await batches(reader, lambda _: False)) == listed + more
        assert moment() == 0.9

    virtually(read())


def test_a_manifest_that_stalls_for_too_long_is_given_up_with_all_its_rows() -> None:
    listed = rows(600)
    asked: list[float] = []

    def waits(seconds: float) -> bool:
        asked.append(round(seconds, 3))
        return seconds < 60

    async def read() -> None:
        reader = Feed([Manifest(slow(listed, {300: 1000.0}), known(listed))])
        found = flat(await batches(reader, waits))
        assert [one.line for one in found] == [one.line for one in listed]
        assert [one.problem is None for one in found] == [True] * 256 + [False] * 344, "those on their way are lost too"
        assert asked == [PASS_OVER_SECONDS + LOOK_SECONDS * n for n in range(237)]
        assert "could not be read on in time" in str(reader.broken)

    virtually(read())


def test_of_several_that_stall_the_latest_counts_and_all_are_given_up_together() -> None:
    several = [rows(4), rows(4, 100, Path("more.csv"))]
    asked: list[float] = []

    def waits(seconds: float) -> bool:
        asked.append(round(seconds, 3))
        return seconds < 2

    async def read() -> None:
        reader = Feed([Manifest(slow(listed, {0: 1000.0}), known(listed)) for listed in several])
        found = flat(await batches(reader, waits))
        assert [one.line for one in found] == [one.line for listed in several for one in listed]
        assert asked == [1.0, 1.25, 1.5, 1.75, 2.0], "of the second, which was asked for a second later"
        assert moment() == 3

    virtually(read())


def test_while_one_stalls_what_comes_of_another_is_taken_at_once() -> None:
    listed, more = rows(4), rows(4, 100, Path("more.csv"))

    async def read() -> None:
        reader = Feed([Manifest(slow(listed, {0: 50.0})), Manifest(slow(more, {1: 1.6}))])
        assert await reader.read(lambda _: True) == more
        assert moment() == 2.6
        assert await reader.read(lambda _: True) == listed
        assert moment() == 50

    virtually(read())


async def test_once_closed_nothing_is_read_any_more() -> None:
    reader = Feed([Manifest(iter([row("A")]))])
    reader.close()
    with pytest.raises(RuntimeError, match="shut down"):
        await reader.read(lambda _: True)


async def test_at_the_end_its_threads_are_over() -> None:
    def mine() -> set[str]:
        return {thread.name for thread in threading.enumerate() if thread.name.startswith("manifest-")}

    before = mine()
    reader = Feed([Manifest(iter(rows(3)))])
    assert await reader.read(lambda _: True)
    assert await reader.read(lambda _: True) == []
    async with asyncio.timeout(10):
        while mine() - before:
            await asyncio.sleep(0.01)
