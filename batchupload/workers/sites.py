"""Which site a run has: this process alone, or the workers of a cluster as one crew."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from batchupload import __version__
from batchupload.endpoint import Endpoint
from batchupload.language import _, spoken
from batchupload.model import BatchuploadError, Row
from batchupload.readers import Readers
from batchupload.settings import NotifySettings, Settings
from batchupload.site import Site, ThisProcess
from batchupload.stop import Stop
from batchupload.throttle import Throttle

if TYPE_CHECKING:
    from batchupload.workers.words import Begin

MOST_WORKERS = 64
"""Of a cluster, whose number is not known beforehand."""


@asynccontextmanager
async def open_site(
    settings: Settings, readers: Readers, stop: Stop, bandwidth: Throttle | None, rows: Iterator[Row], *, send: bool
) -> AsyncGenerator[Site, None]:
    """The site of one run over `rows`, which is to `send` or only to look.

    Raises `BatchuploadError` where it can't be had.
    """
    async with AsyncExitStack() as stack:
        if settings.cluster.address:
            # Imported here, since most runs need none of it and every run waits for what it imports.
            from batchupload.workers.crew import Crew
            from batchupload.workers.dask import DaskCluster

            begin = await _begin(settings, readers, rows, send=send)
            cluster = await stack.enter_async_context(DaskCluster(settings.cluster, begin))
            crew = await stack.enter_async_context(Crew(stop, MOST_WORKERS, settings.cluster.patience, bandwidth))
            cluster.hand_to(crew.join)
            yield crew
            return
        endpoint = None
        if send:
            endpoint = await stack.enter_async_context(Endpoint(settings.endpoint, settings.timeouts, bandwidth))
        yield await stack.enter_async_context(ThisProcess(settings, readers, endpoint, stop))


async def _begin(settings: Settings, readers: Readers, rows: Iterator[Row], *, send: bool) -> "Begin":
    from batchupload.workers.places import places
    from batchupload.workers.words import Begin

    root = settings.photos.root
    try:
        found = await readers.do(lambda: places(rows, root))
    except TimeoutError:
        raise BatchuploadError(_("The photos could not be looked at in time. Check the disk, run again.")) from None
    photos = settings.photos.model_copy(update={"root": root and root.absolute()})
    # Whom to tell how the run ended is nothing that a worker needs to know, and may be secret.
    theirs = settings.model_copy(update={"photos": photos, "notify": NotifySettings()})
    return Begin(theirs, send, __version__, found, spoken())
