"""Colour that means something: green is done, yellow waits, red went wrong."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TextIO

from batchupload.foreign import visible
from batchupload.model import Outcome

DUMB = frozenset({"dumb", "unknown"})
"""Values of TERM for terminals without colours, and without a cursor that can be moved."""


class Tone(StrEnum):
    """A meaning, and the ANSI code that shows it."""

    PLAIN = ""
    GOOD = "32"
    WAIT = "33"
    BAD = "31"
    FAINT = "2"


TONES = {
    Outcome.UPLOADED: Tone.GOOD,
    Outcome.UNKNOWN: Tone.WAIT,
    Outcome.DEFERRED: Tone.WAIT,
    Outcome.INVALID: Tone.BAD,
    Outcome.REJECTED: Tone.BAD,
    Outcome.FAILED: Tone.BAD,
}
"""The others, which cost nobody anything, are plain."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a line."""

    text: str
    tone: Tone = Tone.PLAIN


Line = tuple[Span, ...]


def plain(line: Iterable[Span]) -> str:
    """The text alone."""
    return "".join(visible(span.text) for span in line)


def painted(line: Iterable[Span]) -> str:
    """The text with its colours."""
    return "".join(
        f"\x1b[{span.tone}m{visible(span.text)}\x1b[0m" if span.tone else visible(span.text) for span in line
    )


def wanted(out: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether what goes to `out` is to be coloured, by what NO_COLOR, FORCE_COLOR, CLICOLOR and TERM say."""
    if environment.get("NO_COLOR"):
        return False
    forced = environment.get("FORCE_COLOR") or environment.get("CLICOLOR_FORCE")
    if forced:
        return forced != "0"
    return environment.get("CLICOLOR") != "0" and environment.get("TERM") not in DUMB and out.isatty()


def with_outcomes_painted(text: str) -> str:
    """A summary with the outcome at the head of a line in its colour."""
    names = "|".join(TONES)
    return re.sub(
        rf"^  ({names})(?= +[\d,]+\b)",
        lambda found: "  " + painted([Span(found[1], TONES[Outcome(found[1])])]),
        text,
        flags=re.MULTILINE,
    )
