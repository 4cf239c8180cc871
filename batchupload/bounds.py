"""What the next send waited for → what bounded a run: the link, the endpoint, a limit or this machine. Pure."""

from dataclasses import dataclass, field
from enum import StrEnum

from batchupload.language import _

FEWEST_SECONDS = 1.0
"""What took less than this, or waited less without being busy, was bounded by nothing worth telling."""
BUSY = 0.75
"""Share of a run from which the event loop, where it was not waiting, counts as bound by the processor.

Measured: 0.79 to 0.97 against an endpoint that answers at once, 0.70 at 20 ms an answer, 0.35 at 80 ms (32 at once).
"""
OVERLOADED_SHARE = 0.1
"""Share of sends from which an endpoint that refuses them for the time being, or is late, counts as the bound."""
STRETCHED = 0.6
"""Where the fastest answer took less than this share of a usual one, more at once would mostly wait at the endpoint."""


class Holdup(StrEnum):
    """What the next send waits for."""

    PHOTOS = "photos"
    """None was read and checked yet."""
    PLACES = "places"
    """As many were under way as may be at once."""
    RATE = "rate"
    """The limit of orders a second."""
    QUIET = "quiet"
    """The endpoint asked for time, or is down and probed."""


class Bound(StrEnum):
    """What bounded a run."""

    LINK = "link"
    ENDPOINT = "endpoint"
    LIMIT = "limit"
    MACHINE = "machine"


@dataclass(slots=True)
class Waits:
    """Seconds of a run, growing with it."""

    holdups: dict[Holdup, float] = field(default_factory=lambda: dict.fromkeys(Holdup, 0.0))
    """For each, how long the next send waited for it."""
    uploading: float = 0.0
    """Of all sends together, until the body was handed over."""
    answering: float = 0.0
    """Of all sends together, from then to the end."""
    answered: float = 0.0
    """Of the sends that were accepted or refused, from begin to end."""
    at_best: float = 0.0
    """The same, had each been as fast as the fastest of its size."""
    sends: int = 0
    """How many there were."""
    overloaded: int = 0
    """Those that met an endpoint with too much to do."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What bounded a run, with a sentence for a person."""

    bound: Bound
    sentence: str


def what_bounded(waits: Waits, seconds: float, *, busy: float, held: float, capped: str) -> Verdict | None:
    """What bounded a run of so many `seconds`; None where it was too short to tell.

    `busy` is the share of it in which the event loop had work to do, `held` the seconds for which the bandwidth limit
    held up uploads, and `capped` names the setting that kept the number of sends at once from growing, if one did.
    """
    total = sum(waits.holdups.values())
    if seconds < FEWEST_SECONDS:
        return None
    if held >= seconds / 2:
        return Verdict(Bound.LIMIT, _("your limit {setting}", setting="pace.bandwidth"))
    if total < min(FEWEST_SECONDS, seconds / 2):
        return Verdict(Bound.MACHINE, _("this machine's processor")) if busy >= BUSY else None
    top = max(waits.holdups, key=waits.holdups.__getitem__)
    if top is Holdup.RATE:
        return Verdict(Bound.LIMIT, _("your limit {setting}", setting="pace.rate"))
    if top is Holdup.QUIET:
        return Verdict(Bound.ENDPOINT, _("the endpoint, which asked for time or did not answer"))
    if waits.overloaded > OVERLOADED_SHARE * waits.sends:
        return Verdict(
            Bound.ENDPOINT,
            _(
                "the endpoint: {overloaded:,} of {sends:,} sends met a 429, a 503 or no answer in time",
                overloaded=waits.overloaded,
                sends=waits.sends,
            ),
        )
    if busy >= BUSY:
        return Verdict(Bound.MACHINE, _("this machine's processor"))
    if top is Holdup.PHOTOS:
        return Verdict(Bound.MACHINE, _("this machine, in reading and checking photos"))
    if capped and waits.at_best >= STRETCHED * waits.answered:
        return Verdict(Bound.LIMIT, _("your limit {setting}", setting=capped))
    share = waits.uploading / max(waits.uploading + waits.answering, 1e-9)
    if share > 0.5:
        return Verdict(Bound.LINK, _("the link to the endpoint: {share:.0%} of a send was its upload", share=share))
    return Verdict(
        Bound.ENDPOINT, _("the endpoint: {share:.0%} of a send was the wait for its answer", share=1 - share)
    )
