"""The first pass over the manifests, before the first send: how many rows, and which orders stand twice."""

import os
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import groupby
from pathlib import Path

from batchupload.model import Problem, Row, is_address

PACKED_AT_ONCE = 4096
"""Rows that are packed at a time."""
MOST_ORDER_ID = 1000
"""Characters of an order number that are kept; one that is longer is none."""


class Relation(Enum):
    """How a row stands to the other rows."""

    SINGLE = auto()
    SAME = auto()
    """Others have its order and its photos."""
    CONFLICT = auto()
    """Others have its order with other photos."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What the first pass found. Orders are known by a 64-bit hash, so that a million take 16 MB."""

    rows: int
    repeated: "array[int]"
    """Hashes of the orders that stand more than once, sorted.

    Two orders in a million share a hash once in 30 million runs (n² / 2⁶⁵); they would be called conflicting,
    which sends nothing.
    """
    conflicting: bytearray
    """For each of these 1 where its rows name different photos."""
    known: "Mapping[Path, KnownRows]" = field(default_factory=dict)
    """Manifest → its rows, by which each has its row in the report even if the manifest can't be read again."""

    def place(self, row: Row) -> int | None:
        """The place of the row's order among those that stand more than once, if it does."""
        return _place(self.repeated, order_key(row))

    def relation(self, place: int | None) -> Relation:
        """How a row whose order has this place stands to the other rows."""
        return Relation.SINGLE if place is None else Relation.CONFLICT if self.conflicting[place] else Relation.SAME


class KnownRows:
    """Line and order number of each row of a manifest, packed to some 10 bytes a row."""

    def __init__(self, manifest: Path) -> None:
        self.count = 0
        self._manifest = manifest
        self._packer = zlib.compressobj(1)
        self._packed: list[bytes] = []
        self._fresh: list[bytes] = []

    def add(self, row: Row) -> None:
        """Know one more row."""
        self.count += 1
        order_id = row.order_id[:MOST_ORDER_ID].encode("unicode_escape")
        self._fresh.append(b"%d %b\n" % (row.line, order_id))
        if len(self._fresh) >= PACKED_AT_ONCE:
            self._packed.append(self._packer.compress(b"".join(self._fresh)))
            self._fresh.clear()

    def rows(self, problem: Problem) -> Iterator[Row]:
        """All of them, each with this `problem`, and without what else stood there."""
        packer, unpacker = self._packer.copy(), zlib.decompressobj()
        end = packer.compress(b"".join(self._fresh)) + packer.flush()
        rest = b""
        for packed in (*self._packed, end):
            *lines, rest = (rest + unpacker.decompress(packed)).split(b"\n")
            for text in lines:
                line, _, order_id = text.partition(b" ")
                yield Row(self._manifest, int(line), order_id.decode("unicode_escape"), {}, {}, problem)


def survey(rows: Iterable[Row], root: Path | None) -> Survey:
    """Read all rows once; about 26 bytes are kept for each and 9 for each repeated order, and 40 more for a moment.

    `root` is the folder of all photos; None where each manifest has them in its own.
    """
    orders, photos = array("q"), array("q")
    count = 0
    known: dict[Path, KnownRows] = {}
    for row in rows:
        count += 1
        if row.manifest not in known:
            known[row.manifest] = KnownRows(row.manifest)
        known[row.manifest].add(row)
        if row.problem is None:
            orders.append(order_key(row))
            paths = ((field, _plain(path)) for field, path in row.photos.items())
            photos.append(hash((root or row.manifest.parent, *paths)))
    repeated = array("q", (key for key, several in groupby(sorted(orders)) if next(several) == next(several, None)))
    photos_of = array("q", bytes(8 * len(repeated)))
    seen, conflicting = bytearray(len(repeated)), bytearray(len(repeated))
    for order, photo_set in zip(orders, photos, strict=True) if repeated else ():
        place = _place(repeated, order)
        if place is None:
            continue
        if seen[place] and photos_of[place] != photo_set:
            conflicting[place] = 1
        seen[place], photos_of[place] = 1, photo_set
    return Survey(count, repeated, conflicting, known)


def order_key(row: Row) -> int:
    """The 64-bit hash by which a row's order is known."""
    return hash(row.order_id)


def _plain(path: str) -> str:
    """One spelling of those that name the same file."""
    odd = not is_address(path) and ("./" in path or "//" in path or "\\" in path)
    return os.path.normpath(path.replace("\\", "/")) if odd else path


def _place(keys: "array[int]", key: int) -> int | None:
    at = bisect_left(keys, key)
    return at if at < len(keys) and keys[at] == key else None
