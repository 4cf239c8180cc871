"""Which site a run has: this process alone, or workers."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

from batchupload import __version__
from batchupload.endpoint import Endpoint
from batchupload.model import BatchuploadError, Row
from batchupload.readers import Readers
from batchupload.settings import Settings
from batchupload.site import Site, ThisProcess
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
async def open_site(
    settings: Settings, readers: Readers, stop: Stop, bandwidth: Throttle | None, rows: Iterator[Row], *, send: bool
) -> AsyncGenerator[Site, None]:
    """The site of one run over `rows`, which is to `send` or only to look.

    Raises `BatchuploadError` where it can't be had.
    """
    processes = settings.pace.processes if send else 1
    async with AsyncExitStack() as stack:
        if settings.cluster.address:
            from batchupload.workers.dask import DaskCluster  # an extra, and heavy

            begin = await _begin(settings, readers, rows, send=send)
            cluster = await stack.enter_async_context(DaskCluster(settings.cluster, begin))
            crew = await stack.enter_async_context(Crew(stop, MOST_WORKERS, settings.cluster.patience, bandwidth))
            cluster.hand_to(crew.join)
            yield crew
        elif processes > 1:
            begin = await _begin(settings, readers, rows, send=send)
            links = [await stack.enter_async_context(worker_process(begin)) for _ in range(processes)]
            crew = await stack.enter_async_context(Crew(stop, processes, NOBODY_COMES, bandwidth))
            for link in links:
                crew.join(link)
            yield crew
        else:
            endpoint = None
            if send:
                endpoint = await stack.enter_async_context(Endpoint(settings.endpoint, settings.timeouts, bandwidth))
            yield await stack.enter_async_context(ThisProcess(settings, readers, endpoint, stop))


async def _begin(settings: Settings, readers: Readers, rows: Iterator[Row], *, send: bool) -> Begin:
    root = settings.photos.root
    try:
        found = await readers.do(lambda: places(rows, root))
    except TimeoutError:
        raise BatchuploadError("The photos could not be looked at in time. Check the disk, run again.") from None
    photos = settings.photos.model_copy(update={"root": root and root.absolute()})
    return Begin(settings.model_copy(update={"photos": photos}), send, __version__, found)
