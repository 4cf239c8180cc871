"""The workers of a run: those of a cluster, or processes of this machine; one crew of them all."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

from batchupload import __version__
from batchupload.language import _, spoken
from batchupload.model import BatchuploadError, Row
from batchupload.readers import Readers
from batchupload.settings import NotifySettings, Settings
from batchupload.stop import Stop
from batchupload.throttle import Throttle
from batchupload.workers.crew import Crew
from batchupload.workers.places import places
from batchupload.workers.processes import worker_process
from batchupload.workers.words import Begin

NOBODY_COMES = 0.0
"""Seconds for which a run waits for a worker once all its processes have died: none comes by itself."""
MOST_WORKERS = 64
"""Of a cluster, whose number is not known beforehand."""


@asynccontextmanager
async def open_crew(
    settings: Settings, readers: Readers, stop: Stop, bandwidth: Throttle | None, rows: Iterator[Row], *, send: bool
) -> AsyncGenerator[Crew, None]:
    """The crew of one run over `rows`, each worker looked over. Raises `BatchuploadError` where it can't be had."""
    begin = await _begin(settings, readers, rows, send=send)
    async with AsyncExitStack() as stack:
        if settings.cluster.address:
            from batchupload.workers.dask import DaskCluster  # here, for it may be not installed

            cluster = await stack.enter_async_context(DaskCluster(settings.cluster, begin))
            crew = await stack.enter_async_context(Crew(stop, MOST_WORKERS, settings.cluster.patience, bandwidth))
            cluster.hand_to(crew.join)
        else:
            count = settings.pace.processes
            links = [await stack.enter_async_context(worker_process(begin)) for _ in range(count)]
            crew = await stack.enter_async_context(Crew(stop, count, NOBODY_COMES, bandwidth))
            for link in links:
                crew.join(link)
        yield crew


async def _begin(settings: Settings, readers: Readers, rows: Iterator[Row], *, send: bool) -> Begin:
    root = settings.photos.root
    try:
        found = await readers.do(lambda: places(rows, root))
    except TimeoutError:
        raise BatchuploadError(_("The photos could not be looked at in time. Check the disk, run again.")) from None
    photos = settings.photos.model_copy(update={"root": root and root.absolute()})
    # Whom to tell how the run ended is nothing that a worker needs to know, and may be secret.
    theirs = settings.model_copy(update={"photos": photos, "notify": NotifySettings()})
    return Begin(theirs, send, __version__, found, spoken())
