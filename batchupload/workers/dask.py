"""The workers of a Dask cluster: found by its scheduler, looked over, then spoken to directly.

Only the list of workers comes from the scheduler, and only `admit` goes through it. Orders, settings and what becomes
of them cross a connection of our own to each worker's port, so that the run goes on where the scheduler is lost. Dask's
tasks would be the obvious way; but Dask runs even finished tasks again when a worker dies, and an order would be sent
twice.
"""

import asyncio
import logging
import pickle
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from batchupload.language import _
from batchupload.logs import event
from batchupload.model import BatchuploadError
from batchupload.settings import ClusterSettings
from batchupload.workers.dask_link import DaskLink, first_line, security
from batchupload.workers.door import KNOCK, admit, version
from batchupload.workers.local import LocalWorkers
from batchupload.workers.words import Begin, Link, Ready

if TYPE_CHECKING:
    from distributed import Client
    from distributed.comm.core import Comm

LOOK_SECONDS = 1.0
"""How often it is looked for workers that joined."""
AGAIN_SECONDS = 30.0
"""After so long one that could not be spoken to is tried again."""
CONNECT_SECONDS = 10.0
"""For a connection to scheduler or worker, and for a short answer."""

log = logging.getLogger(__name__)


class UnfitWorkerError(Exception):
    """A worker can't be used; the message says why and what to do."""


class DaskCluster:
    """Has the workers of a cluster join a run, those that come later too. An async context manager."""

    def __init__(self, settings: ClusterSettings, begin: Begin) -> None:
        self._settings = settings
        self._begin = begin
        self._waiting: list[Link] = []
        """Workers that are at hand before there is anybody to join."""
        self._join: Callable[[Link], None] = self._waiting.append
        self._known: dict[str, asyncio.Task[None]] = {}
        self._refusals: dict[str, str] = {}
        self._unfit: set[str] = set()
        """Those that are not tried again under this address."""
        self._worked: set[str] = set()
        """Those that joined before, and so are fit whatever keeps them from it now."""
        self._joined = asyncio.Event()
        self._client: Client | None = None
        self._address = settings.address or ""
        self._security = security(settings)
        self._stack = AsyncExitStack()
        self._group = asyncio.TaskGroup()
        self._finder: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Wait for the first worker. Raises `BatchuploadError` where the scheduler can't be reached, or none comes."""
        await self._stack.__aenter__()
        try:
            if self._settings.local:
                self._address = await self._stack.enter_async_context(LocalWorkers(self._settings.local))
            self._stack.push_async_callback(self._leave)
            await self._connect()
            await self._stack.enter_async_context(self._group)
            self._finder = self._group.create_task(self._find())
            async with asyncio.timeout(self._settings.patience):
                await self._joined.wait()
        except TimeoutError:
            await self.__aexit__(None, None, None)
            raise BatchuploadError(self._nobody()) from None
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in (self._finder, *self._known.values()):
            if task:
                task.cancel()
        await self._stack.__aexit__(kind, error, trace)

    def hand_to(self, join: Callable[[Link], None]) -> None:
        """Have the workers join there, those that are ready at once."""
        self._join = join
        for link in self._waiting:
            join(link)

    async def _connect(self) -> None:
        from distributed import Client

        try:
            async with asyncio.timeout(2 * CONNECT_SECONDS):
                self._client = await Client(
                    self._address,
                    timeout=CONNECT_SECONDS,
                    asynchronous=True,
                    set_as_default=False,
                    security=self._security,
                )
        except (OSError, ValueError) as error:
            raise BatchuploadError(
                _(
                    "{address}: no scheduler answers there ({error}). Start one with `dask scheduler`, or correct the "
                    "address, and the files of cluster.ca, cluster.cert and cluster.key.",
                    address=self._address,
                    error=first_line(error),
                )
            ) from None

    async def _leave(self) -> None:
        client, self._client = self._client, None
        if client:
            with suppress(OSError, asyncio.CancelledError):
                async with asyncio.timeout(CONNECT_SECONDS):
                    await client.close(timeout=LOOK_SECONDS)

    async def _find(self) -> None:
        """Try each worker that is there; after a loss of the scheduler go on when it is back."""
        lost = False
        while True:
            try:
                if self._client is None:
                    await self._connect()
                there = await self._there()
            except (OSError, BatchuploadError):
                if not lost:
                    log.warning(
                        _("The scheduler is lost; the workers that are known go on, no new one can join."),
                        extra=event("scheduler_lost"),
                    )
                lost = True
                await self._leave()
            else:
                if lost:
                    log.warning(_("The scheduler is back."), extra=event("scheduler_back"))
                lost = False
                for address in there - self._known.keys():
                    self._known[address] = self._group.create_task(self._try(address))
                for address in self._known.keys() - there:
                    if self._known[address].done():
                        del self._known[address]  # one that comes again under this address is another
            await asyncio.sleep(LOOK_SECONDS)

    async def _there(self) -> set[str]:
        if self._client is None or self._client.status != "running":
            raise OSError
        async with asyncio.timeout(CONNECT_SECONDS):
            return set(await self._client.nthreads())

    async def _try(self, address: str) -> None:
        """Have the worker join until it is lost, or refuse it and say why. Both may pass: it is tried again."""
        comm = link = None
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._admit(address)
            comm = await self._reach(address)
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._greet(comm)
            await comm.write(pickle.dumps([self._begin]))
            async with asyncio.timeout(self._begin.settings.timeouts.photos + CONNECT_SECONDS):
                name = await self._ready(comm)
        except TimeoutError:
            self._refuse(address, _("it does not answer in time: look at its log"))
        except OSError as error:
            self._refuse(address, _("it can't be spoken to ({error}): look at its log", error=first_line(error)))
        except UnfitWorkerError as error:
            if address not in self._worked:
                self._unfit.add(address)
            self._refuse(address, str(error))
        else:
            log.info("Worker %s joins", name, extra=event("worker_joined", worker=name))
            self._refusals.pop(address, None)
            self._worked.add(address)
            self._unfit.discard(address)
            self._joined.set()
            link, comm = DaskLink(name, comm), None
            self._join(link)
        finally:
            if comm:
                comm.abort()
        if address in self._unfit:
            return
        if link:  # a worker or run that was stopped for a while, or a broken network, is soon back
            await link.lost.wait()
        else:
            await asyncio.sleep(AGAIN_SECONDS)
        self._known.pop(address, None)

    async def _admit(self, address: str) -> None:
        if self._client is None:
            raise ConnectionError
        told = await self._client.run(admit, workers=[address], on_error="return")
        if isinstance(error := told.get(address), BaseException):
            raise UnfitWorkerError(
                _(
                    "it can't begin ({error}): install {version} there, as it is here",
                    error=first_line(error),
                    version=version(),
                )
            )

    async def _reach(self, address: str) -> "Comm":
        from distributed.comm import connect

        arguments: dict[str, Any] = self._security.get_connection_args("client") if self._security else {}
        try:
            comm = await connect(address, timeout=CONNECT_SECONDS, **arguments)
        except OSError as error:
            raise UnfitWorkerError(
                _(
                    "it can't be reached from here ({error}): open its port (--worker-port), for orders and settings "
                    "don't go through the scheduler",
                    error=first_line(error),
                )
            ) from None
        await comm.write({"op": KNOCK, "reply": False})
        return comm

    async def _greet(self, comm: "Comm") -> None:
        asked = time.time()
        theirs, clock = await comm.read()
        heard = time.time()
        if theirs != version():
            raise UnfitWorkerError(
                _("it has {theirs}, this run {ours}: install the same there", theirs=theirs, ours=version())
            )
        # Its clock was read at some moment between the two.
        off = max(asked - clock, clock - heard)
        if off > self._settings.clock_tolerance:
            raise UnfitWorkerError(
                _(
                    "its clock is {seconds:.0f} s from this machine's: have both set by the network "
                    "(cluster.clock_tolerance is {tolerance:g} s)",
                    seconds=off,
                    tolerance=self._settings.clock_tolerance,
                )
            )

    async def _ready(self, comm: "Comm") -> str:
        while True:
            for answer in pickle.loads(await comm.read()):  # noqa: S301 (as in `serve`)
                if isinstance(answer, Ready):
                    if answer.problem:
                        raise UnfitWorkerError(answer.problem)
                    return answer.name

    def _refuse(self, address: str, why: str) -> None:
        if self._refusals.get(address) == why:
            return  # it was said before
        self._refusals[address] = why
        log.warning(_("Worker {address} is refused: {why}.", address=address, why=why), extra=event("worker_refused"))

    def _nobody(self) -> str:
        if not self._refusals:
            return _(
                "{address}: no worker in {seconds:g} s (cluster.patience). Start some: dask worker {address}",
                address=self._address,
                seconds=self._settings.patience,
            )
        refused = "\n".join(f"{where}: {why}." for where, why in self._refusals.items())
        return _(
            "{address}: no worker to be used in {seconds:g} s (cluster.patience). Refused were:\n{refused}",
            address=self._address,
            seconds=self._settings.patience,
            refused=refused,
        )
