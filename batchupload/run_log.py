"""A run as a whole → log events: its begin and end, how far it is, when its pace changes."""

import asyncio
import logging
from collections.abc import Callable

from batchupload.language import several
from batchupload.logs import event
from batchupload.progress import line
from batchupload.snapshot import PaceNow, RunFacts, Snapshot, State
from batchupload.summary import Summary

LOOK_SECONDS = 1.0
"""Between two looks at the pace."""
NAMES = {
    State.GOING: "pace_changed",
    State.QUIET: "backing_off",
    State.DOWN: "endpoint_down",
    State.STOPPING: "stopping",
}
log = logging.getLogger(__name__)


class EventDisplay:
    """Progress as events, in place of the display."""

    interval = 10.0

    def show(self, now: Snapshot) -> None:
        """Log the newest."""
        log.info("%s", line(now), extra=event("progress", **now.facts()))

    def close(self) -> None:
        """There is nothing to leave."""


def began(facts: RunFacts, total: int, *, sends: bool) -> None:
    """The run begins."""
    what = f"Run {facts.run} begins" if sends else "A check begins"
    fields = event(
        "run_started",
        started_at=facts.started_at,
        rows=total,
        manifests=facts.manifests,
        report=facts.report,
        sends=sends,
        pid=facts.pid,
        host=facts.host,
        version=facts.version,
    )
    log.info("%s: %s.", what, several(total, "{n:,} row", "{n:,} rows"), extra=fields)


def ended(summary: Summary) -> None:
    """The run is over."""
    what = f"Run {summary.run}" if summary.run else "The check"
    log.info("%s ended with exit code %d.", what, summary.exit_code, extra=event("run_ended", **summary.facts()))


async def log_pace(look: Callable[[], Snapshot]) -> None:
    """Tell when the run waits for the endpoint, goes on again, or sends more or fewer at once; until cancelled."""
    if not log.isEnabledFor(logging.INFO):
        return
    before = look().pace
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        now = look().pace
        if _differs(before, now):
            fields = event(
                NAMES[now.state], state=now.state, at_once=now.at_once, under_way=now.under_way, before=before.at_once
            )
            log.info("%s", now.note or now.state, extra=fields)
            before = now


def _differs(before: PaceNow, now: PaceNow) -> bool:
    return before.state is not now.state or (now.state is State.GOING and before.at_once != now.at_once)
