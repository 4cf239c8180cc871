"""What happens → ledger, report and counts, in this order: none claims what the one before does not know."""

import logging
from collections.abc import Mapping, Sequence

from batchupload.budget import FAILURES, overspent
from batchupload.language import _
from batchupload.ledger import Ledger
from batchupload.ledger_file import LedgerError
from batchupload.logs import event
from batchupload.model import Attempt, Ending, Loaded, Standing
from batchupload.reasons import Reason
from batchupload.report import Report, ReportLostError
from batchupload.row_log import RowLog
from batchupload.stop import Stop
from batchupload.summary import Tally

log = logging.getLogger(__name__)


class Recorder:
    """Writes to `ledger` (None where nothing is sent), `report` and `tally`. Where one fails the run is asked to stop.

    What was sent and can't be written to the one is still written to the other.
    """

    def __init__(
        self,
        ledger: Ledger | None,
        report: Report,
        tally: Tally,
        stop: Stop,
        *,
        row_log: RowLog | None = None,
        max_failures: str | None = None,
    ) -> None:
        self._ledger = self._readable = ledger
        self._unread = False
        """Whether the ledger can no longer be read, and may know something of the orders."""
        self._report: Report | None = report
        self._tally = tally
        self._stop = stop
        self._row_log = row_log
        self._max_failures = max_failures
        self._known = 0
        """Failures that met what they had met in an earlier run."""
        self.lost: Reason | None = None
        """Which record can no longer be written, if one can't."""
        self.unreported: list[Ending] = []
        """Endings with attempts that the report could no longer take."""

    async def standings(self, order_ids: Sequence[str]) -> Mapping[str, Standing]:
        """What earlier runs left of these orders; also asked after the ledger could no longer be written.

        Once it can't be read either, an earlier run, if there was one, may have left anything.
        """
        if self._readable:
            try:
                return await self._readable.standings(order_ids)
            except LedgerError as error:
                self._unread, self._readable = self._readable.has_earlier, None
                self._lose_ledger(error)
        return dict.fromkeys(order_ids, Standing(known=False)) if self._unread else {}

    async def begin(self, several: Sequence[Loaded]) -> bool:
        """Put attempts on record; tell whether they may begin."""
        if self._ledger:
            try:
                await self._ledger.begin(several)
            except LedgerError as error:
                self._lose_ledger(error)
        return self._ledger is not None

    def ended(self, loaded: Loaded, attempt: Attempt) -> None:
        """Note what became of an attempt."""
        self._tally.attempt(attempt)
        if self._row_log:
            self._row_log.attempt(loaded.order, attempt)
        if self._ledger:
            self._ledger.ended(loaded, attempt)

    def never_began(self, loaded: Loaded) -> None:
        """Take back an attempt of which nothing was sent."""
        if self._ledger:
            self._ledger.never_began(loaded)

    async def record(self, endings: Sequence[Ending]) -> None:
        """Write down endings, each row's one."""
        if self._ledger:
            try:
                await self._ledger.record(endings)
            except LedgerError as error:
                self._lose_ledger(error)
        if self._report:
            try:
                await self._report.record(endings)
            except ReportLostError as error:
                self._lose_report(error)
        if not self._report:
            self.unreported += [ending for ending in endings if ending.attempts]
            return
        for ending in endings:
            self._tally.add(ending)
            self._known += ending.known and ending.outcome in FAILURES
            if self._row_log:
                self._row_log.ended(ending)
        if self._max_failures and (seen := overspent(self._max_failures, self._tally.outcomes, self._known)):
            self._stop.ask(Reason.MAX_FAILURES, seen)

    async def finish(self) -> None:
        """Have the report on the disk, before the ledger calls the run ended."""
        if self._report:
            try:
                await self._report.finish()
            except ReportLostError as error:
                self._lose_report(error)

    def _lose_ledger(self, error: LedgerError) -> None:
        if self._ledger:
            log.error(_("%s Sending stops."), error, extra=event("ledger_lost"))
            self._ledger = None
            self._lose(Reason.LEDGER_LOST)

    def _lose_report(self, error: ReportLostError) -> None:
        known = (
            _(" The ledger knows what it held: batchupload show {run}.", run=self._ledger.run) if self._ledger else ""
        )
        log.error(_("%s: sending stops.%s"), error, known, extra=event("report_lost"))
        self._report = None
        self._lose(Reason.REPORT_LOST)

    def _lose(self, reason: Reason) -> None:
        self.lost = self.lost or reason
        self._stop.ask(reason)
