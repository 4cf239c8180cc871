"""Workers that are processes of this machine, as many as are worth having; words go through pipes."""

import asyncio
import pickle
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from batchupload.language import _
from batchupload.model import BatchuploadError
from batchupload.patience import Patience
from batchupload.workers.words import Answer, Ask, Begin, LinkLostError, Ready

START_SECONDS = 30.0
"""The longest that a process may take to start."""
END_SECONDS = 5.0
"""The longest that it may take to end, once its pipe is closed."""
SILENCE_SECONDS = 10.0
"""A process that says nothing for so long is given up; it says something each second."""
LENGTH = 4
"""Bytes that tell the length of what comes behind them."""


class ProcessLink:
    """The way to a worker process of our own. It is dead when it is lost: it has died, or is killed for its silence."""

    lease = 0.0

    def __init__(self, process: Process, to: asyncio.StreamWriter, come_from: asyncio.StreamReader) -> None:
        self._process = process
        self._to, self._from = to, come_from
        self.name = f"process {process.pid}"

    async def give(self, asks: Sequence[Ask]) -> None:
        """See `Link`."""
        try:
            self._to.write(frame(asks))
            await self._to.drain()
        except ConnectionError as error:
            raise LinkLostError(str(error)) from None

    async def take(self) -> Sequence[Answer]:
        """See `Link`."""
        try:
            async with Patience(SILENCE_SECONDS):
                answers: Sequence[Answer] = await words_from(self._from)
        except TimeoutError:
            self._process.kill()
            raise LinkLostError(_("it said nothing for {seconds:g} s", seconds=SILENCE_SECONDS)) from None
        except (asyncio.IncompleteReadError, ConnectionError):
            raise LinkLostError(_("the process has died")) from None
        return answers

    async def end(self) -> None:
        """Have it end; nothing of it is left."""
        self._to.close()
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


def frame(words: Sequence[Ask] | Sequence[Answer]) -> bytes:
    """Words → bytes with their length in front."""
    content = pickle.dumps(words, pickle.HIGHEST_PROTOCOL)
    return len(content).to_bytes(LENGTH) + content


async def words_from(pipe: asyncio.StreamReader) -> Any:
    """The next words that come. Raises `IncompleteReadError` at the end."""
    length = int.from_bytes(await pipe.readexactly(LENGTH))
    return pickle.loads(await pipe.readexactly(length))  # noqa: S301, a process of our own at the other end


@asynccontextmanager
async def worker_process(begin: Begin) -> AsyncGenerator[ProcessLink, None]:
    """A worker that is ready. Raises `BatchuploadError` where it does not get so."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "batchupload.workers.process", stdin=PIPE, stdout=PIPE, limit=1 << 20
    )
    if not process.stdin or not process.stdout:
        raise RuntimeError("started without pipes")
    link = ProcessLink(process, process.stdin, process.stdout)
    try:
        async with asyncio.timeout(START_SECONDS):
            await link.give([begin])
            while not (answers := await link.take()):
                pass
        match answers[0]:
            case Ready(problem=""):
                yield link
            case other:
                raise BatchuploadError(_("A worker process can't work: {why}.", why=other))
    except (TimeoutError, LinkLostError) as error:
        raise BatchuploadError(
            _("A worker process did not start: {why}.", why=str(error) or _("it took too long"))
        ) from None
    finally:
        await link.end()
