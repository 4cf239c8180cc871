"""Bytes of a manifest → its lines of text, in the encoding that is found out."""

import codecs
import io
import re
from collections.abc import Generator
from contextlib import closing

from batchupload.language import _
from batchupload.source import BLOCK, ManifestError, Source, open_bytes

LINE_LIMIT = 256 * 1024
"""Characters of one physical line, and of one row that runs over several."""
# No text in UTF-8 holds one of these: they stand for bytes that were none.
_STRAY = re.compile("[\udc80-\udcff]")
# What Chinese takes three bytes for. In GBK such a run of bytes is rare, while two by chance look like UTF-8.
_SURELY_UTF_8 = re.compile("[\u0800-\ud7ff\ue000-\U0010ffff]")


def find_encoding(source: Source, wanted: str) -> str:
    """The encoding in which all of it decodes: by BOM, NULs, strict UTF-8, strict GB18030, in this order.

    Raises `ManifestError`, which names the line, where none does; and `OSError`.
    """
    with open_bytes(source) as file:
        head = file.read(4096)
    remedy = _("Save it as CSV UTF-8, or name its encoding with --encoding.")
    if wanted != "auto":
        candidates = ["utf-8-sig" if codecs.lookup(wanted).name == "utf-8" else wanted]
        remedy = _("Leave --encoding (manifest.encoding) out, so that it is found out, or save it as CSV UTF-8.")
    elif head.startswith(codecs.BOM_UTF8):
        candidates = ["utf-8-sig"]
        remedy = _("Correct this line, or save it as CSV UTF-8.")
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
            _refuse_mixture(source)
    names = _(" or ").join(candidate.removesuffix("-sig") for candidate in candidates)
    raise ManifestError(
        _(
            "{path}, line {line}: not readable as {names}. {remedy}",
            path=source.path,
            line=_undecodable_line(source, candidates[-1]),
            names=names,
            remedy=remedy,
        )
    )


def read_lines(source: Source, encoding: str, errors: str = "strict") -> Generator[tuple[int, str], None, None]:
    """Physical lines with their numbers; of an overlong one only the beginning, longer than the limit.

    Raises `OSError`, `UnicodeError`, and `ManifestError` where the file is no longer what it was.
    """
    with open_bytes(source) as file:
        text = io.TextIOWrapper(file, encoding=encoding, errors=errors, newline="")
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


def _decodes(source: Source, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    with open_bytes(source) as file:
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
    with closing(read_lines(source, "utf-8", "surrogateescape")) as lines:
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
            _(
                "{path}, line {first}: this line isn't UTF-8, while {good:,} others are. Correct it, or "
                "save the whole manifest as CSV UTF-8.",
                path=source.path,
                first=first,
                good=good,
            )
        )


def _undecodable_line(source: Source, encoding: str) -> int:
    """The first line that does not decode."""
    with closing(read_lines(source, encoding, "replace")) as lines:
        try:
            return next((number for number, line in lines if "\ufffd" in line), 1)
        except UnicodeError:  # UTF-16 that does not begin as such
            return 1
