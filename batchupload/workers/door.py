"""The door of a Dask worker: by it a run comes in and talks to the `Worker` there, past the scheduler."""

import asyncio
import pickle
import platform
import signal
import time
from typing import TYPE_CHECKING, Any

from batchupload import __version__
from batchupload.workers.worker import Worker

if TYPE_CHECKING:
    from distributed.comm.core import Comm

KNOCK = "batchupload"
"""The word that opens it."""
BETWEEN_SECONDS = 0.02
"""From one message to the next: what there is to say meanwhile goes as one, as each costs about 130 µs. Where there is
little to say nothing waits."""


def version() -> str:
    """What must be the same on both sides: what one pickles the other unpickles."""
    return f"batchupload {__version__} on Python {'.'.join(platform.python_version_tuple()[:2])}"


def admit(dask_worker: Any) -> None:
    """Open the door. Run by `Client.run` on each worker; where this can't be imported there, it is refused."""
    dask_worker.handlers[KNOCK] = serve


async def serve(comm: "Comm") -> object:
    """Work for one run, until it goes, or nothing is heard of it for so long that it has given this worker up."""
    from distributed.core import Status

    await comm.write([version(), time.time()])
    worker = Worker()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.work())
            group.create_task(worker.keep_lease())
            group.create_task(_say(worker, comm))
            while True:
                worker.give(pickle.loads(await comm.read()))  # noqa: S301 (Dask runs what it is given anyway)
    except* (OSError, EOFError):  # gone, or the lease is over
        pass
    finally:
        comm.abort()
    return Status.dont_reply


async def _say(worker: Worker, comm: "Comm") -> None:
    while True:
        await comm.write(pickle.dumps(await worker.take()))
        await asyncio.sleep(BETWEEN_SECONDS)


async def dask_setup(worker: Any) -> None:
    """For a worker that the run itself started: Ctrl-C is for the run to answer, which lets it drain."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
