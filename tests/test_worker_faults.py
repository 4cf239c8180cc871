"""What the program did not expect of one order is that order's matter at a worker too: it goes on with the others."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Shop, settings_for

from batchupload import __version__, readers, site
from batchupload.model import PHOTO_FIELDS, AwayPhotos, Problem, Verdict, Wanted
from batchupload.sandbox import Sandbox
from batchupload.workers.words import Answer, Ask, Begin, Look, Looked, Ready, Send, Sent
from batchupload.workers.worker import Worker

THE_ONE = "HT000002"


def wanted(folder: Path, orders: Sequence[str]) -> tuple[Wanted, ...]:
    return tuple(Wanted({name: f"{order}/{name}.jpg" for name in PHOTO_FIELDS}, folder) for order in orders)


async def answers_to(worker: Worker, asks: Sequence[Ask], count: int = 1) -> list[Answer]:
    worker.give(asks)
    found: list[Answer] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            found += await worker.take()
    return found


def fails_for_the_one(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        if THE_ONE in repr(arguments):
            raise LookupError("what nobody expected")
        return original(*arguments, **named)

    monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.parametrize(
    ("owner", "name"), [(readers, "load_photos"), (site.ThisProcess, "_fetch"), (site, "make_attempt")]
)
async def test_a_fault_at_one_order_is_that_orders_and_the_worker_goes_on(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    orders = shop.orders(5)
    fails_for_the_one(monkeypatch, owner, name)
    async with Sandbox() as server:
        worker = Worker()
        working = asyncio.create_task(worker.work())
        try:
            begin = Begin(settings_for(server.url), True, __version__, ())
            assert isinstance((await answers_to(worker, [begin]))[0], Ready)
            [looked] = await answers_to(worker, [Look(1, wanted(shop.folder, orders), tuple(range(5)))])
            assert isinstance(looked, Looked)
            assert looked.found is not None
            faulty = [one for one in looked.found if isinstance(one, Problem)]
            ready = [one for one in looked.found if isinstance(one, AwayPhotos)]
            assert [(one.reason, one.detail) for one in faulty] == [
                ("internal_error", "LookupError: what nobody expected")
            ] * (name != "make_attempt")
            assert len(ready) == 5 - len(faulty)
            sends = [Send(10 + one.key, one.key, orders[one.key]) for one in ready]
            attempts = {
                orders[answer.number - 10]: answer.attempt.finding
                for answer in await answers_to(worker, sends, len(sends))
                if isinstance(answer, Sent) and answer.attempt
            }
        finally:
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working
    odd = attempts.pop(THE_ONE, None)
    assert {order: finding.verdict for order, finding in attempts.items()} == dict.fromkeys(
        [order for order in orders if order != THE_ONE], Verdict.ACCEPTED
    )
    assert (odd is not None) == (name == "make_attempt")
    if odd:
        assert (odd.verdict, odd.reason) == (Verdict.AMBIGUOUS, "internal_error")
    assert set(server.accepted) == set(attempts)
