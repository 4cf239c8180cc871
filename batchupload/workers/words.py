"""What a run and its workers say to each other. The bytes of photos stay at the worker."""

import copyreg
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from typing import Protocol

from batchupload.model import Attempt, AwayPhotos, Finding, Note, Problem, Wanted
from batchupload.reasons import Reason
from batchupload.settings import Settings

LEASE_SECONDS = 10.0
"""A worker that has heard nothing for so long breaks off all it does: whoever lost it may then let others go on."""


class LinkLostError(Exception):
    """The worker can't be reached any more."""


@dataclass(frozen=True, slots=True)
class Place:
    """A folder with photos, as this machine sees it."""

    folder: Path
    """Absolute."""
    photo: str
    """One of the photos that are there; empty where none was seen."""


@dataclass(frozen=True, slots=True)
class Begin:
    """The first word to a worker: what it needs to know of the run."""

    settings: Settings
    send: bool
    version: str
    places: tuple["Place", ...]
    """Where photos lie: it must be able to read there."""
    language: str = "en"
    """What it says to people is to be in this one."""


@dataclass(frozen=True, slots=True)
class Look:
    """Read and check the photos of several orders; hold each set under its key."""

    number: int
    wanted: tuple[Wanted, ...]
    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Send:
    """Make one attempt with the photos held under `key`, which are let go with it."""

    number: int
    key: int
    order_id: str


@dataclass(frozen=True, slots=True)
class Drop:
    """Let these photos go."""

    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BreakOff:
    """The drain time is over: end what is under way, and say how far it had come."""


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bytes a second that this worker may send; None for no limit."""

    rate: float | None


@dataclass(frozen=True, slots=True)
class Ready:
    """The answer to `Begin`."""

    version: str
    name: str
    """Host and process, for a person."""
    clock: datetime
    problem: str = ""
    """Why it can't do its work, if so."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found, for each order; None where the drain time ended it."""

    number: int
    found: tuple[AwayPhotos | Problem | Reason, ...] | None


@dataclass(frozen=True, slots=True)
class Sent:
    """The attempt, ended, its start by the worker's clock. None where it could not begin."""

    number: int
    attempt: Attempt | None
    held: float = 0.0
    """Seconds for which the worker's share of the bandwidth has held up its uploads, since it began."""


def _pickle_as_call(kind: type) -> None:
    """Of a small frozen record: its class, and its fields in their order.

    Python's own way for one with slots asks at each what its fields are, which was half of what a message cost.
    """
    names = [field.name for field in fields(kind)]
    values = attrgetter(*names) if len(names) > 1 else lambda one: (getattr(one, names[0]),)
    copyreg.pickle(kind, lambda one: (kind, values(one)))


for _kind in (Wanted, Note, Problem, AwayPhotos, Finding, Attempt, Look, Looked, Send, Sent):
    _pickle_as_call(_kind)

Ask = Begin | Look | Send | Drop | BreakOff | Bandwidth
Answer = Ready | Looked | Sent


class Link(Protocol):
    """The way to one worker. Both methods raise `LinkLostError`."""

    name: str
    """The worker's, for a person."""
    lease: float
    """Seconds after its loss from which the worker certainly sends no more; 0 where it is dead when it is lost."""

    async def give(self, asks: Sequence[Ask]) -> None:
        """Hand these over."""

    async def take(self) -> Sequence[Answer]:
        """Wait for answers; there may be none for a while."""
