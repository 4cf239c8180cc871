"""One run from its manifests to its summary: puts the stages together around the pipeline."""

import asyncio
import functools
import logging
import os
import signal
import socket
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from batchupload import __version__, run_log
from batchupload.bounds import what_bounded
from batchupload.deadline import Deadline
from batchupload.fault import OnRecord, on_record
from batchupload.feed import Feed, Manifest
from batchupload.inputs import open_manifests
from batchupload.language import _
from batchupload.ledger import Ledger, open_ledger
from batchupload.ledger_file import LedgerError
from batchupload.logs import RUN, event, remark
from batchupload.loop import idle_seconds
from batchupload.manifest import Layout, read_rows
from batchupload.metrics_out import open_metrics
from batchupload.model import PHOTO_FIELDS, BatchuploadError, OwnColumn, Row
from batchupload.pace import Pace
from batchupload.page.beside import page_beside
from batchupload.photo_sets import initials_by_count
from batchupload.pipeline import Pipeline
from batchupload.readers import Readers
from batchupload.reasons import Reason
from batchupload.recorder import Recorder
from batchupload.report import (
    Report,
    ReportError,
    common_root,
    is_folder,
    may_begin,
    move_aside,
    move_back,
    report_path,
)
from batchupload.row_log import RowLog
from batchupload.run_log import EventDisplay, log_pace
from batchupload.screen import display_for, watch
from batchupload.settings import MetricsSettings, Settings
from batchupload.signals import answered_on, name_of
from batchupload.snapshot import Lookout, RunFacts, pace_now
from batchupload.source import STDIN, is_changed
from batchupload.status_file import keep_status, status_path
from batchupload.stop import Stop
from batchupload.summary import AGAIN, Summary, Tally
from batchupload.survey import Survey, survey
from batchupload.throttle import BYTES_CREDIT, Throttle
from batchupload.workers.sites import open_site

WRITING_SECONDS = 60e-6
"""What it takes to write down a row that is left for another run (measured: 32 µs)."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wish:
    """What one run is asked to do, beside the settings."""

    manifests: tuple[Path, ...]
    send: bool = True
    only: frozenset[str] = frozenset()
    """Outcomes of an earlier report to take; empty for all rows."""
    limit: int | None = None
    report: Path | None = None
    force: bool = False
    """Whether to send also what the ledger knows as uploaded."""
    quiet: bool = False
    verbose: bool = False
    again: tuple[str, ...] = ()
    """Options to repeat in the command that goes on from here."""
    reading: tuple[str, ...] = ()
    """Options that say how the manifests are to be read."""
    standing: tuple[str, ...] = ()
    """Options that say which orders are set aside."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the first pass over the manifests found."""

    layouts: tuple[Layout, ...]
    survey: Survey
    deadline: Deadline | None
    """When the run is to end; its time counts from the beginning of the first pass."""


def plan(wish: Wish, settings: Settings) -> Plan:
    """Read the manifests once, so that nothing is sent before all of them are known. Raises `ManifestError`."""
    deadline = Deadline(settings.pace.deadline) if settings.pace.deadline else None
    if settings.photos.root and not is_folder(settings.photos.root):
        raise BatchuploadError(
            _("photos.root: {root} is no folder. Mount it, or correct the path.", root=settings.photos.root)
        )
    if settings.photos.repair:
        from batchupload.repair import require_decoders  # here, since most runs need it not

        require_decoders(settings.photos)
    layouts = open_manifests(wish.manifests, wish.only, settings.manifest)
    if not wish.quiet:
        for layout in layouts:
            remark("manifest_found", str(layout), manifest=str(layout.path))
    return Plan(layouts, survey(_rows(layouts, wish, settings), settings.photos.root), deadline)


async def execute(wish: Wish, settings: Settings, plan: Plan) -> Summary:
    """Do the run. Raises `ReportError` or `LedgerError` where it can't be begun; then nothing was sent.

    Raises `RunFaultError` for a fault of the program itself.
    """
    record = OnRecord()
    with on_record(record):
        return await _execute(wish, settings, plan, record)


async def _execute(wish: Wish, settings: Settings, plan: Plan, record: OnRecord) -> Summary:
    began = datetime.now().astimezone()
    loop = asyncio.get_running_loop()
    started, idled = loop.time(), idle_seconds(loop)
    manifests = [layout.path for layout in plan.layouts]
    path = report_path(manifests, settings.report.folder, wish.report, began)
    stop, tally = Stop(), Tally()
    rate, bandwidth = (
        Throttle(limit, loop.time, datetime.now, credit) if limit else None
        for limit, credit in ((settings.pace.rate, 0.0), (settings.pace.bandwidth, BYTES_CREDIT))
    )
    total = plan.survey.rows if wish.limit is None else min(wish.limit, plan.survey.rows)
    async with AsyncExitStack() as stack:
        readers = stack.enter_context(Readers(settings.timeouts.photos))
        rows = _rows(plan.layouts, wish, settings)
        site = await stack.enter_async_context(open_site(settings, readers, stop, bandwidth, rows, send=wish.send))
        metrics = await stack.enter_async_context(open_metrics(settings.metrics if wish.send else MetricsSettings()))
        records = await stack.enter_async_context(_records(wish, settings, plan, path, began))
        ledger, report = records.ledger, records.report
        record.report = path
        if ledger:
            record.run, record.ledger = ledger.run, ledger.path
        pace = Pace(settings.pace, settings.retry, stop, loop.time, rate)
        row_log = RowLog(ledger.run if ledger else None, manifests, mask_orders=settings.log.mask_orders)
        recorder = Recorder(ledger, report, tally, stop, row_log=row_log, max_failures=settings.pace.max_failures)
        pipeline = Pipeline(settings, plan.survey, site, pace, stop, recorder, send=wish.send, force=wish.force)
        feed = _feed(plan, wish, settings)
        stack.enter_context(answered_on(loop, _answer_to(stop, settings.timeouts.drain)))
        as_events = settings.log.format == "json" and not wish.quiet
        display = EventDisplay() if as_events else display_for(quiet=wish.quiet, verbose=wish.verbose)
        pace_of = functools.partial(pace_now, pace if wish.send else None, stop, rate, bandwidth, site)
        lookout = Lookout(tally, total, pace_of, loop.time, sends=wish.send)
        facts = _facts(ledger, began, manifests, path)
        RUN.set(facts.run)
        run_log.began(facts, total, sends=wish.send)
        status = keep_status(status_path(ledger.path), facts, lookout.look) if ledger else None
        figures = metrics.of(facts, lookout.look, ledger) if ledger else None
        await stack.enter_async_context(_beside(status, figures, log_pace(lookout.look)))
        async with _beside(
            watch(display, lookout.look) if display else None,
            stop.at_deadline(
                plan.deadline.left, settings.timeouts.drain, lambda: (total - tally.rows) * WRITING_SECONDS
            )
            if plan.deadline
            else None,
        ):
            await pipeline.run(feed, _feed(plan, wish, settings))
        await recorder.finish()
        seconds = loop.time() - started
        summary = Summary(
            tally,
            seconds,
            path,
            not wish.send,
            plan.survey.rows - total,
            recorder.lost or stop.cause,
            stop.detail,
            stop.signal,
            _incomplete(total - tally.rows) if stop.impatient else str(feed.broken or "") or _changed(plan),
            _again(wish, settings, path, manifests, whole=not feed.broken and _is_whole(stop, tally, total)),
            ("batchupload", "release", *wish.standing),
            ledger.run if ledger else None,
            records.died,
            what_bounded(
                pace.waits,
                seconds,
                busy=1 - (idle_seconds(loop) - idled) / max(seconds, 1e-9),
                held=bandwidth.seconds_held if bandwidth else 0.0,
                capped=pace.capped,
            )
            if wish.send
            else None,
            only=bool(wish.only),
        )
        if ledger and recorder.lost is not Reason.LEDGER_LOST:
            try:
                await ledger.end_run(datetime.now().astimezone(), summary.as_json())
            except LedgerError as error:
                log.error("%s", error, extra=event("ledger_lost"))
                summary = replace(summary, stopped=Reason.LEDGER_LOST)
    await metrics.ended(summary.exit_code)
    for ending in recorder.unreported:
        text = _("not in the report: {line}\n", line=row_log.line(ending))
        remark("not_in_report", text.rstrip())
    if settings.report.page and recorder.lost is not Reason.REPORT_LOST and not stop.impatient:
        hurried = stop.cause is Reason.DEADLINE or stop.signal is not None
        summary = replace(summary, page=await page_beside(path, records.before, hurried=hurried))
    run_log.ended(summary)
    return summary


@dataclass(frozen=True, slots=True)
class _Records:
    """Where a run is written down."""

    ledger: Ledger | None
    """None where nothing is to be sent."""
    report: Report
    died: str
    """What is to be said of the run before, where that did not come to its end."""
    before: Path | None
    """The report that this one is to be compared with."""


@asynccontextmanager
async def _records(
    wish: Wish, settings: Settings, plan: Plan, path: Path, began: datetime
) -> AsyncGenerator[_Records, None]:
    """Ledger and report of a run that is on record. Raises `ReportError` or `LedgerError`, and then leaves none."""
    manifests = [layout.path for layout in plan.layouts]
    async with AsyncExitStack() as stack:
        ledger = stack.enter_context(open_ledger(settings.ledger.path)) if wish.send else None
        dead = ledger.last_run() if ledger else None
        before = ledger.report_before(manifests, path) if ledger else None
        replaces = dead is not None and dead.was(manifests, path)
        may_begin(path, again=replaces)
        if ledger:
            # Before the report is there: a run that dies in between must know its report again.
            initials = initials_by_count(settings.manifest.required, settings.manifest.photo_fields)
            await ledger.start_run(began, settings.endpoint.url, manifests, path, initials)
        more = [field for field in settings.manifest.photo_fields if field not in PHOTO_FIELDS]
        report = Report(path, manifests, _own(plan.layouts), settings.photos.root, more)
        aside = None
        try:
            aside = move_aside(path) if replaces else None
            await stack.enter_async_context(report)
        except ReportError:
            if aside:
                move_back(aside, path)
            if ledger:
                await ledger.drop_run()
            raise
        yield _Records(ledger, report, dead.told(replaced=replaces, aside=aside) if dead else "", before)


def _facts(ledger: Ledger | None, began: datetime, manifests: Sequence[Path], report: Path) -> RunFacts:
    run, started_at = ledger.run if ledger else None, began.isoformat(timespec="milliseconds")
    paths = tuple(str(path.absolute()) for path in manifests)
    return RunFacts(run, started_at, paths, str(report.absolute()), os.getpid(), socket.gethostname(), __version__)


@asynccontextmanager
async def _beside(*companions: Coroutine[None, None, None] | None) -> AsyncGenerator[None, None]:
    """Have these go on while the block does, and end with it."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(companion) for companion in companions if companion]
        yield
        for task in tasks:
            task.cancel()


def _rows(layouts: Sequence[Layout], wish: Wish, settings: Settings) -> Iterator[Row]:
    for layout in layouts:
        yield from read_rows(layout, settings.manifest, wish.only)


def _feed(plan: Plan, wish: Wish, settings: Settings) -> Feed:
    """The rows of all manifests, to be read once more; of each as many as `--limit` leaves for it."""
    manifests, left = [], wish.limit
    for layout in plan.layouts:
        known = plan.survey.known.get(layout.path)
        manifests.append(Manifest(read_rows(layout, settings.manifest, wish.only), known, left))
        left = left and max(0, left - (known.count if known else 0))
    return Feed(manifests)


def _own(layouts: Sequence[Layout]) -> list[OwnColumn]:
    """The own columns of all manifests, each once."""
    return list(dict.fromkeys(column for layout in layouts for _, column in layout.columns.own))


def _changed(plan: Plan) -> str:
    for layout in plan.layouts:
        if is_changed(layout.source):
            return _(
                "{path} was changed during the run: its new rows may be missing here. Run it again.", path=layout.path
            )
    return ""


def _answer_to(stop: Stop, drain: float) -> Callable[[int], None]:
    """The first signal lets the orders under way end, a second one breaks them off."""

    def answer(number: int) -> None:
        # A terminal that is closed sends SIGHUP twice (its shell does, and the kernel), and systemd one with its
        # SIGTERM: that is nobody's impatience, and SIGHUP never counts beside another signal.
        if stop.signal and number == signal.SIGHUP:
            return
        if stop.signal and stop.signal != signal.SIGHUP:
            stop.impatient = True
            stop.now()
            return
        stop.signal = number
        stop.ask(Reason.STOPPED)
        text = _("\nStopping: the orders under way have {drain:g} s to end. Once more stops at once.\n", drain=drain)
        remark("stop_asked", text.removesuffix("\n"), signal=name_of(number))

    return answer


def _is_whole(stop: Stop, tally: Tally, total: int) -> bool:
    return tally.rows >= total or not stop.impatient


def _incomplete(rows: int) -> str:
    """What is to be said of rows that a second signal kept out of the report."""
    return _("{rows:,} rows are not in this report: the same command again does them.", rows=rows) if rows else ""


def _again(wish: Wish, settings: Settings, report: Path, manifests: Sequence[Path], *, whole: bool) -> tuple[str, ...]:
    """The command that sends what is left; after a check, or where the report is not `whole`, all of it."""
    forced = ("--force",) if wish.force else ()
    if not wish.send or not whole:
        # A name that begins with a dash would be read as an option.
        names = (f"./{path}" if str(path).startswith("-") and path != STDIN else str(path) for path in wish.manifests)
        only = ("--only", ",".join(sorted(wish.only))) if wish.only else ()
        limit = ("--limit", str(wish.limit)) if wish.limit and not wish.send else ()
        return ("batchupload", "run", *names, *only, *limit, *forced, *wish.reading, *wish.again)
    root = common_root(manifests, settings.photos.root)
    moved = settings.photos.root is None and report.parent.absolute() != root
    only = ("--only", ",".join(AGAIN))
    found = ("--photos-root", str(root)) if moved else ()
    return ("batchupload", "run", str(report), *only, *found, *forced, *wish.again)
