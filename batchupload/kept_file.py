"""A small file that is replaced now and then while a run goes on, off the loop; it never holds the run up."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from batchupload.language import _

DISK_SECONDS = 1.0
"""How long a disk is waited for. What it has not taken by then is let be."""


def replace_file(path: Path, content: bytes, mode: int) -> None:
    """Have `path` hold just `content`, whole or as it was before. No sync: it tells of a moment. Raises `OSError`."""
    made = path.with_name(f"{path.name}.new")
    with suppress(FileNotFoundError):
        made.unlink()  # of a run that was killed just then
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # whatever the umask
            file.write(content)
        made.replace(path)
    except OSError:
        with suppress(OSError):
            made.unlink()
        raise


class KeptFile:
    """The file at `path`, written by a thread of its own: one thing after the other."""

    def __init__(self, path: Path, mode: int) -> None:
        self._path = path
        self._mode = mode
        self._thread = ThreadPoolExecutor(1, "kept-file")
        self._doing: asyncio.Future[str] | None = None

    async def write(self, content: Callable[[], bytes]) -> str:
        """Replace it; nothing where the disk does not take what was there before. Why it failed, if it did."""
        if self._doing and not self._doing.done() and not (await asyncio.wait([self._doing], timeout=DISK_SECONDS))[0]:
            return _("the disk does not answer")
        made = content()
        return await self._do(lambda: replace_file(self._path, made, self._mode))

    async def remove(self) -> None:
        """Take it away, after what is being written."""
        await self._do(lambda: self._path.unlink(missing_ok=True))
        self._thread.shutdown(wait=False)

    async def _do(self, call: Callable[[], None]) -> str:
        def attempted() -> str:
            try:
                call()
            except OSError as error:
                return error.strerror or str(error)
            return ""

        self._doing = asyncio.get_running_loop().run_in_executor(self._thread, attempted)
        done = (await asyncio.wait([self._doing], timeout=DISK_SECONDS))[0]
        return done.pop().result() if done else _("the disk does not answer")
