"""The page of a run that has ended: made off the loop, and never in the way of what the run came to."""

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from batchupload.language import _
from batchupload.logs import event
from batchupload.model import BatchuploadError
from batchupload.signals import answered_on

PAGE_SECONDS = 300.0
"""A page that takes longer is given up; that of a million rows takes 40 s."""
HURRIED_SECONDS = 10.0
"""The same where somebody waits for the end, with a deadline or a signal; enough for a hundred thousand rows."""
GRACE = 1.0
"""Seconds in which a page that is given up may clear away what it began."""

log = logging.getLogger(__name__)


async def page_beside(report: Path, before: Path | None = None, *, hurried: bool = False) -> Path | None:
    """Make the page of `report`; where that fails, say so in one line. A signal gives it up, and does nothing else.

    It is compared with the report of the run `before` where that is still there, and nobody waits.
    """
    limit = HURRIED_SECONDS if hurried else PAGE_SECONDS
    given_up, done = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    making = loop.run_in_executor(None, _make, report, None if hurried else before, lambda: not given_up.is_set())
    making.add_done_callback(lambda _: done.set())
    with answered_on(loop, lambda _signal: done.set()):
        try:
            async with asyncio.timeout(limit):
                await done.wait()
        except TimeoutError:
            pass
        given_up.set()
        await asyncio.wait({making}, timeout=GRACE)
    if not making.done():
        making.cancel()
        log.warning(
            _("The report page was not made: it took too long. Try: batchupload page %s"),
            report,
            extra=event("page_not_made"),
        )
        return None
    try:
        return making.result()
    except BatchuploadError as error:
        log.warning(_("The report page was not made: %s"), error, extra=event("page_not_made"))
    except Exception as error:  # noqa: BLE001 - the report is whole, and a fault in its page must not say otherwise
        log.warning(
            _("The report page was not made: %s: %s"), type(error).__name__, error, extra=event("page_not_made")
        )
    return None


def _make(report: Path, before: Path | None, wanted: Callable[[], bool]) -> Path:
    from batchupload.page.make import EarlierReportError, make_page  # a run begins its sends without loading it

    if before and _is_file(before):
        try:
            return make_page(report, wanted, before)
        except EarlierReportError as error:
            log.warning(_("The report page does not say what changed since the run before: %s"), error)
    return make_page(report, wanted)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False
