"""What a worker process runs: words come by its standard input and go by its standard output, until that is closed."""

import asyncio
import os
import signal
import sys

from batchupload.workers.processes import frame, words_from
from batchupload.workers.worker import Worker


async def serve() -> None:
    """Work until the run has closed the pipe, or is gone."""
    loop = asyncio.get_running_loop()
    asks = asyncio.StreamReader(1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(asks), sys.stdin.buffer)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout.buffer)
    answers = asyncio.StreamWriter(transport, protocol, None, loop)
    worker = Worker()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(worker.work()), group.create_task(_answer(worker, answers))]
        try:
            while True:
                worker.give(await words_from(asks))
        except (asyncio.IncompleteReadError, ConnectionError):
            for task in tasks:
                task.cancel()


async def _answer(worker: Worker, answers: asyncio.StreamWriter) -> None:
    while True:
        answers.write(frame(await worker.take()))  # also where there are none, so that the run hears of it
        await answers.drain()


if __name__ == "__main__":
    # They are for the run, which lets what is under way end; the terminal and systemd send them to all its processes.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    asyncio.run(serve())
    os._exit(0)  # a disk that does not answer is not waited for
