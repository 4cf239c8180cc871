"""Metrics of a run → where Prometheus gets them: a file for node_exporter, a port on loopback."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from batchupload.kept_file import KeptFile
from batchupload.language import _
from batchupload.ledger import Ledger
from batchupload.logs import event
from batchupload.model import BatchuploadError
from batchupload.settings import MetricsSettings
from batchupload.snapshot import RunFacts, Snapshot

if TYPE_CHECKING:
    from batchupload.metrics import Ends

EVERY_SECONDS = 10.0
"""Between two writes of the file."""
LOOPBACK = "127.0.0.1"
CLOSE_SECONDS = 1.0
"""What a scrape that is under way at the end of the run still has."""

log = logging.getLogger(__name__)


class MetricsError(BatchuploadError):
    """The metrics can't be had as asked for; nothing was sent."""


class Metrics:
    """The metrics of one run; what was asked for is checked before it begins."""

    def __init__(self, settings: MetricsSettings) -> None:
        self._settings = settings
        self._made: Callable[[], bytes] | None = None
        self._file = KeptFile(settings.textfile, 0o644) if settings.textfile else None
        self._failed = ""
        self._ends: Ends | None = None

    def of(self, facts: RunFacts, look: Callable[[], Snapshot], ledger: Ledger) -> Coroutine[None, None, None] | None:
        """Have these metrics from now on; what keeps the file up to date until cancelled, if one is wanted."""
        if not self._settings.wanted:
            return None
        from batchupload.metrics import Ends, exposition

        self._ends = Ends(None, None, *ledger.last_ends())
        self._made = lambda: exposition(facts, look(), self._ends or Ends())
        return self._keep() if self._file else None

    async def ended(self, exit_code: int) -> None:
        """Write the file for the last time: it stays until the next run."""
        if self._ends:
            self._ends = self._ends.after(time.time(), exit_code)
        if self._file and self._made:
            await self._write()

    def now(self) -> bytes:
        """The metrics in text; nothing before the run has begun."""
        return self._made() if self._made else b""

    async def _keep(self) -> None:
        while True:
            await self._write()
            await asyncio.sleep(EVERY_SECONDS)

    async def _write(self) -> None:
        failed = await self._file.write(self.now) if self._file else ""
        if failed and failed != self._failed:
            text = _("%s: the metrics can't be written (%s). The run goes on without.")
            log.warning(text, self._settings.textfile, failed, extra=event("metrics_not_written"))
        self._failed = failed


@asynccontextmanager
async def open_metrics(settings: MetricsSettings) -> AsyncGenerator[Metrics, None]:
    """The metrics of a run, served on the port if one is set. Raises `MetricsError`."""
    if not settings.wanted:
        yield Metrics(settings)
        return
    if find_spec("prometheus_client") is None:
        raise MetricsError(
            _("metrics.textfile and metrics.port need one more package: pip install 'batchupload[metrics]'")
        )
    folder = settings.textfile.absolute().parent if settings.textfile else Path()
    if not folder.is_dir():
        raise MetricsError(_("metrics.textfile: {folder} is no folder. Make it, or correct the path.", folder=folder))
    metrics = Metrics(settings)
    if settings.port is None:
        yield metrics
        return
    from aiohttp import web

    async def scrape(_: web.Request) -> web.Response:
        return web.Response(body=metrics.now(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app = web.Application(client_max_size=1024)
    app.router.add_get("/metrics", scrape)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=CLOSE_SECONDS)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, LOOPBACK, settings.port).start()
        except OSError as error:
            raise MetricsError(
                _(
                    "metrics.port: {address} can't be listened on ({why}). End what has it, or set another port.",
                    address=f"{LOOPBACK}:{settings.port}",
                    why=error.strerror,
                )
            ) from None
        yield metrics
    finally:
        await runner.cleanup()
