"""The sweep over all waits, in its short mode: `python tests/waits.py` does each by itself."""

import asyncio

import pytest
from waits import OTHER_CLOCKS, command_of, found, raw_clocks, swept, tried, wrong

from batchupload import awake, notify

# `doctor` sends nothing, and what hangs may end a run before its first send.
pytestmark = pytest.mark.idle_faults


async def test_a_pause_at_every_wait_changes_nothing_and_no_wait_is_left_out() -> None:
    commands = ("run", "fetch", "doctor")
    results = await asyncio.gather(*(tried("pause", "all", command) for command in commands))
    for command, result in zip(commands, results, strict=True):
        assert not wrong("pause", command, result)
    reached = frozenset[str]().union(*(result.reached for result in results))
    assert swept() - reached == frozenset(), "not covered: have a command of the sweep reach it, or say why not"


@pytest.mark.parametrize("kind", ["ahead", "behind"])
async def test_a_clock_that_is_set_by_a_day_at_every_wait_changes_nothing(kind: str) -> None:
    assert not wrong(kind, "run", await tried(kind, "all", "run"))


def hanging() -> list[str]:
    """The waits for something that may never come; an endpoint that does not answer has tests of its own."""
    return sorted(wait for wait in swept() if not wait.endswith((":asyncio.sleep", ":Patience")))


@pytest.mark.parametrize("wait", hanging())
async def test_what_never_comes_is_not_waited_for_for_ever_and_costs_no_row(wait: str) -> None:
    command = command_of(wait)
    assert not wrong("hang", command, await tried("hang", wait, command))


def test_no_wait_goes_by_another_clock() -> None:
    assert raw_clocks().keys() == OTHER_CLOCKS.keys()
    assert len(found()) > 20


def test_the_clock_of_messages_is_read_often_enough_to_know_a_pause() -> None:
    assert notify.LOOK_AGAIN <= awake.SLICE_SECONDS
