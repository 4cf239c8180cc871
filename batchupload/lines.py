"""Bytes of a manifest file → its lines of text, in the encoding that is found out, and the same at every reading."""

import codecs
import io
import os
import re
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from xxhash import xxh3_128_digest

from batchupload.model import BatchuploadError

if TYPE_CHECKING:
    from typing_extensions import Buffer

LINE_LIMIT = 256 * 1024
"""Characters of one physical line, and of one row that runs over several."""
BLOCK = 128 * 1024
"""Bytes that are read, and known again, at a time."""
# No text in UTF-8 holds one of these: they stand for bytes that were none.
_STRAY = re.compile("[\udc80-\udcff]")
# What Chinese takes three bytes for. In GBK such a run of bytes is rare, while two by chance look like UTF-8.
_SURELY_UTF_8 = re.compile("[\u0800-\ud7ff\ue000-\U0010ffff]")


class ManifestError(BatchuploadError):
    """The manifest can't be read at all, or no further."""


@dataclass(frozen=True, slots=True)
class Source:
    """A manifest file as it was when it was opened first.

    What is said of its rows then must hold when they are sent: what was appended since is not read, and what was
    changed is refused.
    """

    path: Path
    stamp: tuple[int, int]
    """Its size, and its time of change in nanoseconds."""
    blocks: tuple[bytes, ...]
    """XXH3-128 of each block."""
    encoding: str = ""


def open_source(path: Path, encoding: str) -> Source:
    """Read the file to its end, and find out its encoding where that is `auto`.

    Raises `ManifestError`, and `OSError` where the file can't be read.
    """
    if not path.is_file():
        what = "this is not a file" if path.exists() else "no such file"
        raise ManifestError(f"{path}: {what}. Name a CSV manifest.")
    with path.open("rb") as file:
        stamp = _stamp(os.fstat(file.fileno()))
        source = Source(path, stamp, tuple(_digests(file, stamp[0])))
    return replace(source, encoding=_encoding(source, encoding))


def is_changed(source: Source) -> bool:
    """Whether the file is no longer as it was, at its end or anywhere."""
    try:
        return _stamp(source.path.stat()) != source.stamp
    except OSError:
        return True


def read_lines(source: Source, errors: str = "strict") -> Generator[tuple[int, str], None, None]:
    """Physical lines with their numbers; of an overlong one only the beginning, longer than the limit.

    Raises `OSError`, `UnicodeError`, and `ManifestError` where the file is no longer what it was.
    """
    with _bytes_of(source) as file:
        text = io.TextIOWrapper(file, encoding=source.encoding, errors=errors, newline="")
        try:
            number = 0
            while part := text.readline(LINE_LIMIT + 1):
                number += 1
                line = part
                while len(part) > LINE_LIMIT and not part.endswith(("\n", "\r")):
                    part = text.readline(LINE_LIMIT + 1)
                yield number, line
        finally:
            text.detach()


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _digests(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0 and (block := file.read(min(BLOCK, size))):
        size -= len(block)
        yield xxh3_128_digest(block)


class _SameBytes(io.RawIOBase):
    """The bytes that the file had, and no others."""

    def __init__(self, source: Source, file: BinaryIO) -> None:
        self._source = source
        self._file = file
        self._blocks = iter(source.blocks)
        self._left = source.stamp[0]
        self._block = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, room: "Buffer") -> int:
        if not self._block and (known := next(self._blocks, None)):
            block = self._file.read(min(BLOCK, self._left))
            if xxh3_128_digest(block) != known:
                raise ManifestError(f"{self._source.path}: it was changed while it was read. Run again.")
            self._left -= len(block)
            self._block = memoryview(block)
        view = memoryview(room).cast("B")
        some, self._block = self._block[: len(view)], self._block[len(view) :]
        view[: len(some)] = some
        return len(some)

    def close(self) -> None:
        self._file.close()
        super().close()


def _bytes_of(source: Source) -> io.BufferedReader:
    return io.BufferedReader(_SameBytes(source, source.path.open("rb")))


def _encoding(source: Source, wanted: str) -> str:
    """The encoding in which the whole file decodes: by BOM, NULs, strict UTF-8, strict GB18030, in this order."""
    with _bytes_of(source) as file:
        head = file.read(4096)
    remedy = "Save it as CSV UTF-8, or name its encoding with --encoding."
    if wanted != "auto":
        candidates = ["utf-8-sig" if codecs.lookup(wanted).name == "utf-8" else wanted]
        remedy = "Leave --encoding (manifest.encoding) out, so that it is found out, or save it as CSV UTF-8."
    elif head.startswith(codecs.BOM_UTF8):
        candidates = ["utf-8-sig"]
        remedy = "Correct this line, or save it as CSV UTF-8."
    elif head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        candidates = ["utf-16"]
    elif head.count(0) * 10 > len(head) * 2:
        # Latin letters, digits and separators have their zero byte first in big-endian and second in little-endian.
        candidates = ["utf-16-be" if head[0::2].count(0) > head[1::2].count(0) else "utf-16-le"]
    else:
        candidates = ["utf-8", "gb18030"]
    for candidate in candidates:
        if _decodes(source, candidate):
            return candidate
        if candidate == "utf-8" and wanted == "auto":
            _refuse_mixture(replace(source, encoding=candidate))
    names = " or ".join(candidate.removesuffix("-sig") for candidate in candidates)
    raise ManifestError(
        f"{source.path}, line {_undecodable_line(source, candidates[-1])}: not readable as {names}. {remedy}"
    )


def _decodes(source: Source, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    with _bytes_of(source) as file:
        try:
            while chunk := file.read(BLOCK):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeError:
            return False
    return True


def _refuse_mixture(source: Source) -> None:
    """Raise `ManifestError` where most of the text is UTF-8: another encoding would make nonsense of it."""
    first = stray = good = 0
    with closing(read_lines(source, "surrogateescape")) as lines:
        for number, line in lines:
            if line.isascii():
                continue
            if _STRAY.search(line):
                stray += 1
                first = first or number
            elif _SURELY_UTF_8.search(line):
                good += 1
    if good > stray:
        raise ManifestError(
            f"{source.path}, line {first}: this line isn't UTF-8, while {good:,} others are. Correct it, "
            "or save the whole manifest as CSV UTF-8."
        )


def _undecodable_line(source: Source, encoding: str) -> int:
    """The first line that does not decode."""
    with closing(read_lines(replace(source, encoding=encoding), "replace")) as lines:
        try:
            return next((number for number, line in lines if "\ufffd" in line), 1)
        except UnicodeError:  # UTF-16 that does not begin as such
            return 1
