"""A Dask cluster of its own on this machine, for `--cluster local:4`: a scheduler here, each worker a process."""

import logging
from contextlib import AsyncExitStack
from types import TracebackType

from batchupload.language import _
from batchupload.model import BatchuploadError
from batchupload.workers import door


class LocalWorkers:
    """A cluster of its own on this machine: each worker a process. They end with this one, however it ends."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> str:
        """Start them; the address of their scheduler."""
        import dask
        from distributed import LocalCluster

        # Dask would end workers that it has not heard for five minutes, as after a pause of all of them and this.
        self._stack.enter_context(dask.config.set({"distributed.scheduler.worker-ttl": None}))
        try:
            cluster = await self._stack.enter_async_context(
                LocalCluster(
                    n_workers=self._count,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    dashboard_address=None,
                    memory_limit=0,
                    silence_logs=logging.CRITICAL,
                    preload=[door.__name__],
                    asynchronous=True,
                )
            )
        except (OSError, RuntimeError) as error:
            raise BatchuploadError(
                _("local:{count} could not be started: {error}.", count=self._count, error=error)
            ) from None
        return str(cluster.scheduler_address)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)
