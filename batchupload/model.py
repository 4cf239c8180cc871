"""The nouns that flow from manifest to report; frozen, without I/O, imported by every other file."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from batchupload.reasons import Reason

PHOTO_FIELDS = ("face", "back", "hand")
"""The photos that a set usually has, in the order in which they are read, checked and sent."""

OwnColumn = tuple[str, int]
"""A manifest's own column: its name, and how many columns before it have the same name."""


def is_address(path: str) -> bool:
    """Whether a photo's path is an address such as https://… rather than a file's."""
    return "://" in path


class BatchuploadError(Exception):
    """Wrong usage, config or manifest: the message says what is wrong and what to do."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something can't be used: a reason, and a detail that names the cell, field or limit."""

    reason: Reason
    detail: str
    field: str = ""
    """The photo's, if it is about one; `detail` names it too."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a manifest."""

    manifest: Path
    line: int
    """Physical line where the row begins; the header is line 1."""
    order_id: str
    photos: Mapping[str, str]
    """Photo field → path as the manifest has it, cleaned."""
    own: Mapping[OwnColumn, str]
    """The manifest's other columns, untouched."""
    problem: Problem | None = None
    """Set where the row can't be used as it is."""


Fetched = Mapping[str, bytes] | Problem
"""Photo field → bytes, for photos that have an address; or why one of them could not be had."""


class NoteKind(StrEnum):
    """What there is to say of photos beside their outcome."""

    REPAIRED = "repaired"
    ALIKE = "alike"
    """A warning, as are the following: two photos of an order look the same."""
    OTHER_ORDER = "other_order"
    """Another order of the run has the very same photo."""
    SMALL = "small"
    BLANK = "blank"


@dataclass(frozen=True, slots=True)
class Note:
    """Something to be said of an order's photos; it changes no outcome."""

    kind: NoteKind
    text: str


@dataclass(frozen=True, slots=True)
class Photo:
    """One validated photo: `content` is what was validated and what is sent."""

    field: str
    content: bytes
    media_type: str
    """`image/jpeg` or `image/png`, by content."""


@dataclass(frozen=True, slots=True)
class PhotoSet:
    """The photos of one order."""

    photos: tuple[Photo, ...]
    digest: bytes
    """XXH3-128 of each photo, and in which field it is: equal digests mean the same photos in the same fields."""
    notes: tuple[Note, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all photos."""
        return sum(len(photo.content) for photo in self.photos)

    @property
    def fields(self) -> tuple[str, ...]:
        """The photo field of each."""
        return tuple(photo.field for photo in self.photos)


@dataclass(frozen=True, slots=True)
class AwayPhotos:
    """What is known of a photo set that a worker read and holds."""

    key: int
    """By which it is asked for."""
    fields: tuple[str, ...]
    size: int
    digest: bytes
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """Photos of one order that are to be read and checked."""

    photos: Mapping[str, str]
    folder: Path
    """Where the manifest lies."""
    before: bytes | None = None
    """The digest that an attempt before had: they must still be the same."""
    trusted: bytes | None = None
    """The digest of photos that were validated once, and need not be again."""
    again: bool = False
    """Whether they were looked for a moment ago, and one was not there."""


class Verdict(StrEnum):
    """What one attempt proves about the order."""

    ACCEPTED = "accepted"
    """The endpoint's own answer said so."""
    REJECTED = "rejected"
    """The endpoint understood and refused; trying again would not help."""
    RETRY = "retry"
    """Certainly not accepted; another attempt may succeed."""
    AMBIGUOUS = "ambiguous"
    """May have been accepted: the answer was lost or unreadable. Another attempt is harmless."""
    MISADDRESSED = "misaddressed"
    """Certainly not accepted, and the fault is in the address: trying again would not help."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back over HTTP."""

    http_status: int
    body: bytes = b""
    """The body as received, before decompression."""
    cut: Reason | None = None
    """Why the body is not whole, where it isn't."""
    content_encoding: str = ""
    retry_after: str = ""
    """The `Retry-After` header as sent: seconds or a date."""
    date: str = ""
    """The `Date` header as sent."""
    early: bool = False
    """Whether it began before the whole body had been handed over: it can't be the answer to that."""


class Phase(StrEnum):
    """How far an attempt got."""

    CONNECT = "connect"
    BODY = "body"
    REPLY = "reply"


class Cause(StrEnum):
    """Why an attempt ended without a reply."""

    TIMEOUT = "timeout"
    DNS = "dns"
    REFUSED = "refused"
    TLS = "tls"
    CERTIFICATE_NOT_YET_VALID = "certificate_not_yet_valid"
    """By this machine's clock, as is the next."""
    CERTIFICATE_EXPIRED = "certificate_expired"
    BROKEN = "broken"
    MALFORMED = "malformed"
    FILES_EXHAUSTED = "files_exhausted"


@dataclass(frozen=True, slots=True)
class NoReply:
    """An attempt that ended without a reply."""

    phase: Phase
    cause: Cause


@dataclass(frozen=True, slots=True)
class Finding:
    """What a reply or a broken transfer means."""

    verdict: Verdict
    reason: Reason
    http_status: int | None = None
    code: str = ""
    """The `code` of the endpoint's JSON, as text."""
    message: str = ""
    """The endpoint's own text, or the error's."""
    retry_after: float | None = None
    """Seconds the endpoint asked to wait."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One send of one order, ended."""

    started_at: datetime
    began: float
    """Its start by the monotonic clock, seconds."""
    seconds: float
    uploading: float
    """Seconds of these until the whole body was handed to the network."""
    bytes_sent: int
    """Body bytes handed to the network."""
    finding: Finding


@dataclass(frozen=True, slots=True)
class Streak:
    """Nights running on which an order failed with the same photos."""

    photos: bytes
    """Digest of these."""
    nights: int
    first: str
    """Date of the first of them, `2026-11-24`."""
    last: str
    reason: str
    """Of the last night, as is the message."""
    message: str


@dataclass(frozen=True, slots=True)
class Standing:
    """What earlier runs left of an order at the endpoint."""

    uploaded: bytes | None = None
    """Digest of the photos that are known to be there."""
    uploaded_run: int | None = None
    doubtful_run: int | None = None
    """The run whose attempt may have been accepted without our knowing, where no accepted one came since."""
    streak: Streak | None = None
    """The nights that it failed on, up to now; `after` leaves that alone, and `met`."""
    met: frozenset[tuple[bytes, str, str]] = frozenset()
    """What its sends met since the last that was accepted: digest of the photos, reason, and what is the same in the
    message each time."""
    known: bool = True
    """False if the ledger could not be read: an attempt of an earlier run may have been accepted."""

    @property
    def in_doubt(self) -> bool:
        """Whether an attempt of an earlier run may have been accepted without our knowing."""
        return self.doubtful_run is not None or not self.known

    def after(self, verdict: Verdict, digest: bytes, run: int) -> "Standing":
        """The standing after one more attempt with the photos of `digest`.

        A refusal changes nothing: an attempt before it may have been accepted all the same.
        """
        match verdict:
            case Verdict.ACCEPTED:
                return Standing(digest, run)
            case Verdict.AMBIGUOUS if digest != self.uploaded:
                return Standing(doubtful_run=run)
        return self


class Outcome(StrEnum):
    """The eight things that can become of a row; see the README's table of outcomes."""

    UPLOADED = "uploaded"
    SKIPPED = "skipped"
    DUPLICATE = "duplicate"
    INVALID = "invalid"
    REJECTED = "rejected"
    FAILED = "failed"
    UNKNOWN = "unknown"
    DEFERRED = "deferred"


DONE = frozenset({Outcome.UPLOADED, Outcome.SKIPPED, Outcome.DUPLICATE})
"""Outcomes that need nobody."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a row ended: its outcome, the reason, and the attempts that led there."""

    row: Row
    outcome: Outcome
    reason: Reason
    detail: str = ""
    attempts: tuple[Attempt, ...] = ()
    started_at: datetime | None = None
    seconds: float = 0.0
    notes: tuple[Note, ...] = ()
    """What `detail` says of the photos, to be counted."""
    known: bool = False
    """Whether nothing new went wrong: nothing was sent, or it met what it had met in an earlier run."""

    @property
    def finding(self) -> Finding | None:
        """What the last attempt found."""
        return self.attempts[-1].finding if self.attempts else None

    @property
    def bytes_sent(self) -> int:
        """Body bytes of all attempts."""
        return sum(attempt.bytes_sent for attempt in self.attempts)


@dataclass(frozen=True, slots=True)
class Order:
    """A row on its way through the pipeline, between attempts."""

    row: Row
    standing: Standing = Standing()
    attempts: tuple[Attempt, ...] = ()
    digest: bytes | None = None
    """Digest of the photo set of the first attempt; a later attempt must have the same."""
    notes: tuple[Note, ...] = ()
    """What is to be said of its photos."""
    missed: bool = False
    """Whether its photos were looked for before, and one was not there."""

    @property
    def wanted(self) -> Wanted:
        """Its photos, for its next attempt."""
        trusted = self.digest or self.standing.uploaded
        return Wanted(self.row.photos, self.row.manifest.parent, self.digest, trusted, self.missed)

    def after(self, attempt: Attempt, digest: bytes) -> "Order":
        """The order with one more attempt behind it."""
        return Order(self.row, self.standing, (*self.attempts, attempt), digest, self.notes)


@dataclass(frozen=True, slots=True)
class Loaded:
    """An order whose photos are at hand."""

    order: Order
    photo_set: PhotoSet | AwayPhotos
