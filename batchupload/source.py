"""A manifest file, or standard input → its bytes, the same at every reading: where the flow begins."""

import gzip
import io
import os
import select
import sys
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from xxhash import xxh3_128_digest

from batchupload.language import _
from batchupload.model import BatchuploadError

if TYPE_CHECKING:
    from typing_extensions import Buffer

STDIN = Path("-")
"""The manifest that comes by standard input."""
STDIN_LIMIT = 1 << 30
"""Bytes of it at most; they are kept in memory, compressed to about a fifth."""
BLOCK = 128 * 1024
"""Bytes that are read, and known again, at a time."""
LOOK_SECONDS = 0.25
"""How often a signal is looked for while nothing comes by standard input."""
MUCH, MOST_TIMES = 16 << 20, 200
"""A packed file that unpacks to more bytes than the first, and to more than so many times its size, is no manifest.
One of orders that differ gets a tenth of its size at best, one of a single byte a thousandth."""
_GZIP = b"\x1f\x8b\x08"


class ManifestError(BatchuploadError):
    """The manifest can't be read at all, or no further."""


@dataclass(frozen=True, slots=True)
class Source:
    """A manifest as it was when it was opened first.

    What is said of its rows then must hold when they are sent: what was appended since is not read, and what was
    changed is refused.
    """

    path: Path
    stamp: tuple[int, int]
    """Its size, and its time of change in nanoseconds."""
    blocks: tuple[bytes, ...]
    """XXH3-128 of each block; of standard input, which can't be read again, the block itself, compressed."""
    packed: bool
    """Whether it is gzipped."""
    kept: bool = False
    """Whether it came by standard input."""


def open_source(path: Path) -> Source:
    """Read it to its end. Raises `ManifestError`, and `OSError` where the file can't be read."""
    if path == STDIN:
        return _open_stdin()
    if not path.is_file():
        what = _("this is not a file") if path.exists() else _("no such file")
        raise ManifestError(
            _(
                "{path}: {what}. Name a manifest: CSV, Excel or JSON lines; or - for standard input.",
                path=path,
                what=what,
            )
        )
    with path.open("rb") as file:
        packed = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        stamp = _stamp(os.fstat(file.fileno()))
        return Source(path, stamp, tuple(map(xxh3_128_digest, _blocks(file, stamp[0]))), packed)


def is_changed(source: Source) -> bool:
    """Whether the file is no longer as it was, at its end or anywhere."""
    if source.kept:
        return False
    try:
        return _stamp(source.path.stat()) != source.stamp
    except OSError:
        return True


def open_bytes(source: Source) -> "io.BufferedReader[_Stream]":
    """Its bytes, unpacked. Reading raises `OSError`, and `ManifestError` where they are no longer what they were."""
    return io.BufferedReader(_Stream(_unpacked(source) if source.packed else _same(source)))


def _open_stdin() -> Source:
    if sys.stdin is None or sys.stdin.isatty():
        raise ManifestError(_("standard input is a terminal. Pipe a manifest into it: … | batchupload run -"))
    size, blocks, start = 0, [], b""
    for block in _arriving(sys.stdin.buffer, STDIN_LIMIT + 1):
        size, start = size + len(block), (start + block)[: len(_GZIP)]
        blocks.append(zlib.compress(block, 1))
    if size > STDIN_LIMIT:
        raise ManifestError(
            _("standard input: more than {limit} GiB. Save it as a file, and name that.", limit=STDIN_LIMIT >> 30)
        )
    return Source(Path("stdin"), (size, 0), tuple(blocks), start == _GZIP, kept=True)


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _blocks(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0 and (block := file.read(min(BLOCK, size))):
        size -= len(block)
        yield block


def _arriving(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield what comes through a pipe, at most `size` bytes.

    A signal that came just before a read would wait for that read, so each read begins only when there is something.
    """
    while size > 0:
        while not select.select([file], [], [], LOOK_SECONDS)[0]:
            pass
        if not (block := os.read(file.fileno(), min(BLOCK, size))):
            return
        size -= len(block)
        yield block


class _Stream(io.RawIOBase):
    """A file that reads what `blocks` gives."""

    def __init__(self, blocks: Generator[bytes, None, None]) -> None:
        self._blocks = blocks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, room: "Buffer") -> int:
        self._rest = self._rest or memoryview(next(self._blocks, b""))
        view = memoryview(room).cast("B")
        some, self._rest = self._rest[: len(view)], self._rest[len(view) :]
        view[: len(some)] = some
        return len(some)

    def close(self) -> None:
        self._blocks.close()
        super().close()


def _same(source: Source) -> Generator[bytes, None, None]:
    """The bytes that there were, and no others."""
    if source.kept:
        yield from map(zlib.decompress, source.blocks)
        return
    left = source.stamp[0]
    with source.path.open("rb") as file:
        for known in source.blocks:
            block = file.read(min(BLOCK, left))
            if xxh3_128_digest(block) != known:
                raise ManifestError(_("{path}: it was changed while it was read. Run again.", path=source.path))
            left -= len(block)
            yield block


def _unpacked(source: Source) -> Generator[bytes, None, None]:
    """What a gzip file holds."""
    size, most = 0, max(MUCH, source.stamp[0] * MOST_TIMES)
    try:
        with io.BufferedReader(_Stream(_same(source))) as packed, gzip.GzipFile(fileobj=packed, mode="rb") as file:
            while block := file.read1(BLOCK):
                size += len(block)
                if size > most:
                    raise ManifestError(
                        _(
                            "{path}: this gzip file unpacks to over {times} times its size: it is no manifest, or one "
                            "of blank lines. Unpack it, look at it, and save the rows anew.",
                            path=source.path,
                            times=MOST_TIMES,
                        )
                    )
                yield block
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise ManifestError(
            _("{path}: the gzip file is cut off or damaged. Fetch it again.", path=source.path)
        ) from None
