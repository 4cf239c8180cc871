"""Which photo was seen under which order of a run: an exact content hash, in at most 64 MB."""

import struct
from collections.abc import Iterator

from batchupload.photo_sets import photo_digests

_KEYS = struct.Struct("<Q8x")
"""Half of each photo's digest."""
MOST_SLOTS = 1 << 22
"""Of 8 bytes; 3 photos of 1,000,000 orders fill them by 72 %."""
MOST_NAME_BYTES = 28 << 20
_FULL = 0.8
"""Beyond that the way to a free slot gets long."""


class Sightings:
    """An open hash table in one array: no object for each photo, which would take ten times the memory.

    A slot holds 32 bits of the photo's hash (22 more are in its place) and where the order's name is. That two photos
    are taken for one happens about once in 500 runs of a million orders.
    """

    def __init__(self, orders: int) -> None:
        slots = 1024
        while slots < min(orders * 4, MOST_SLOTS):
            slots *= 2
        self._mask = slots - 1
        self._slots = memoryview(bytearray(8 * slots)).cast("Q")
        self._left = int(slots * _FULL)
        self._names = bytearray(1)  # 0 is an empty slot

    @property
    def full(self) -> bool:
        """Whether no more photos are remembered."""
        return self._left <= 0 or len(self._names) > MOST_NAME_BYTES

    def meet(self, order_id: str, digest: bytes) -> Iterator[tuple[int, str]]:
        """Remember an order's photos by the digest of its set; for each that another had: its place, and that order."""
        name, slots, mask = order_id.encode()[:65535], self._slots, self._mask
        at = 0
        for place, (key,) in enumerate(_KEYS.iter_unpack(photo_digests(digest))):
            tag, slot = key >> 32, key & mask
            while (entry := slots[slot]) and entry >> 32 != tag:
                slot = (slot + 1) & mask
            if entry:
                seen = self._name(entry & 0xFFFFFFFF)
                if seen != name:
                    yield place, seen.decode()
            elif not self.full:
                if not at:
                    at = len(self._names)
                    self._names += len(name).to_bytes(2) + name
                slots[slot] = tag << 32 | at
                self._left -= 1

    def _name(self, at: int) -> bytes:
        size = int.from_bytes(self._names[at : at + 2])
        return bytes(self._names[at + 2 : at + 2 + size])
