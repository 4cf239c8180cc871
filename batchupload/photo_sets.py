"""Photos of one order → the digest by which the ledger knows them: which picture in which field. Pure."""

from collections.abc import Mapping, Sequence
from itertools import combinations

SIZE = 16
"""Bytes of one photo's digest (XXH3-128)."""
BY_POSITION = (("face", "back", "hand"), ("face", "back", "hand", "custom"))
"""Sets whose digest names no fields, as none did in earlier versions: what their ledgers know stays known."""


def set_digest(digests: Mapping[str, bytes]) -> bytes:
    """Join the digests of photos by field: one behind the other, then the initials of the fields."""
    return b"".join(digests.values()) + _initials(tuple(digests))


def photo_digests(digest: bytes) -> bytes:
    """Take the digests of the photos out of that of their set."""
    return digest[: len(digest) - len(digest) % SIZE]


def initials_by_count(required: Sequence[str], fields: Sequence[str]) -> Mapping[int, bytes]:
    """Say what ends the digest of so many photos, if a shop takes only one set of that many.

    `fields` are all photos that it takes, in their order, `required` those of them that no order is without.
    """
    optional = [field for field in fields if field not in required]
    found: dict[int, bytes] = {}
    for count in range(len(optional) + 1):
        sets = [
            tuple(field for field in fields if field in {*required, *more}) for more in combinations(optional, count)
        ]
        if len(sets) == 1:
            found[len(required) + count] = _initials(sets[0])
    return found


def named(digest: bytes, initials: Mapping[int, bytes]) -> bytes:
    """Bring a digest of an earlier version to today's form; one that may be of several sets stays, and equals none."""
    count, rest = divmod(len(digest), SIZE)
    return digest if rest else digest + initials.get(count, b"")


def _initials(fields: tuple[str, ...]) -> bytes:
    return b"" if fields in BY_POSITION else "".join(field[0] for field in fields).encode()
