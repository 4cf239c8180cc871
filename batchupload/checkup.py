"""One thing that was looked at: how it stands, and what to mend; the noun of `doctor`. Frozen, without I/O."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from batchupload.cells import pad
from batchupload.foreign import to_json, visible
from batchupload.language import N_, _


class Level(StrEnum):
    """How it stands."""

    OK = "ok"
    WARNING = "warning"
    """A run goes, but somebody should look at it."""
    MEND = "mend"
    """A run would end early, or fail."""


WORDS = {Level.OK: N_("ok"), Level.WARNING: N_("warning"), Level.MEND: N_("mend")}
EXIT_CODE = {Level.OK: 0, Level.WARNING: 1, Level.MEND: 2}


@dataclass(frozen=True, slots=True)
class Checkup:
    """What was found of one thing."""

    name: str
    level: Level
    found: str
    remedy: str = ""
    """What to do; empty where all is well."""

    def line(self) -> str:
        """On one line."""
        remedy = f" → {self.remedy}" if self.remedy else ""
        return visible(f"{pad(_(WORDS[self.level]), 9)}{self.name:<10}{self.found}{remedy}")


def ok(name: str, found: str) -> Checkup:
    """All is well with it."""
    return Checkup(name, Level.OK, found)


def warning(name: str, found: str, remedy: str) -> Checkup:
    """Somebody should look at it."""
    return Checkup(name, Level.WARNING, found, remedy)


def mend(name: str, found: str, remedy: str) -> Checkup:
    """It keeps runs from their work."""
    return Checkup(name, Level.MEND, found, remedy)


def exit_code(checkups: Sequence[Checkup]) -> int:
    """0 where all is well, 1 with a warning, 2 where something is to be mended."""
    return max((EXIT_CODE[checkup.level] for checkup in checkups), default=0)


def as_text(checkups: Sequence[Checkup]) -> str:
    """A line for each."""
    return "\n".join(checkup.line() for checkup in checkups)


def as_json(checkups: Sequence[Checkup]) -> str:
    """All on one line."""
    return to_json({"exit_code": exit_code(checkups), "checks": [asdict(checkup) for checkup in checkups]})
