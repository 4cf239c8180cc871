"""What is going on with a ledger, for a second terminal: the run that holds it, or what became of the last."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from batchupload.colour import Line, plain
from batchupload.history import LastRun, elapsed, read_ledger
from batchupload.language import _, several
from batchupload.ledger_file import holder, is_held, resolved
from batchupload.progress import counts, note, outcomes
from batchupload.run_dates import run_seconds
from batchupload.snapshot import Snapshot
from batchupload.status_file import Told, read_status, status_path
from batchupload.summary import called, duration, size

OLD_SECONDS = 15.0
"""A status that is older than that is told to be old."""


@dataclass(frozen=True, slots=True)
class Status:
    """What is known at one moment."""

    on: bool
    """Whether a run is on."""
    last: LastRun | None
    """It, or else the one before; None where there was none yet."""
    told: Told | None
    """What it told of itself; where no run is on, the last words of one that died."""
    held_by: str
    """Who else holds the ledger, if somebody does."""

    @property
    def now(self) -> Snapshot | None:
        """The counts, as far as they are told."""
        return self.told.now if self.told else None

    def as_json(self) -> str:
        """On one line."""
        last, told = self.last, self.told
        state = "going" if self.on else None if last is None else "ended" if last.ended_at else "died"
        found: dict[str, Any] = {"on": self.on, "state": state, "held_by": self.held_by or None}
        if last:
            found |= {key: value for key, value in asdict(last).items() if key != "summary"}
            found |= {"host": told.facts.host if told else None, "summary": last.summary}
            found |= {"now": told.now.facts() if told else None}
        return json.dumps(found, ensure_ascii=False)

    def as_text(self, paint: Callable[[Line], str] = plain) -> str:
        """For a person."""
        if self.last is None:
            return _("No run is on, and by this ledger none was yet: --config or --ledger names another one.")
        where = [_("  manifest   {manifest}", manifest=manifest) for manifest in self.last.manifests]
        where += [_("  report     {report}", report=self.last.report or _("purged"))]
        if self.on:
            return "\n".join([self._begun(self.last), *where, *self._counts(paint)])
        first = self._died(self.last) if self.last.ended_at is None else _ended(self.last)
        held = [_("The ledger is held by {who}: a purge, or a run that is just beginning.", who=self.held_by)] * bool(
            self.held_by
        )
        return "\n".join([_("No run is on. {last}", last=first), *where, *held])

    def _begun(self, last: LastRun) -> str:
        ago = elapsed(time.time() - datetime.fromisoformat(last.started_at).timestamp())
        return _(
            "Run {run} is on since {begun}, for {ago}, by process {pid} on {host}.",
            run=last.run,
            begun=_clock(last.started_at),
            ago=ago,
            pid=last.pid,
            host=self.told.facts.host if self.told else "?",
        )

    def _counts(self, paint: Callable[[Line], str]) -> list[str]:
        if not self.now:
            return [_("  It has not told how far it is: look again, or see who may write beside the ledger.")]
        now = self.now
        sends = several(sum(now.attempts.values()), "{n:,} send", "{n:,} sends")
        lines = [
            _("  rows       {counts}", counts=counts(now)),
            _("  outcomes   {outcomes}", outcomes=paint(outcomes(now))),
            _(
                "  sends      {sends}, {size}, {rate}/s",
                sends=sends,
                size=size(now.bytes_sent),
                rate=size(now.bytes_per_second),
            ),
            _("  pace       {note}", note=paint((note(now),))),
        ]
        if (age := time.time() - now.taken_at) > OLD_SECONDS:
            text = _(
                "  This is {age} old: the run may be stopped (Ctrl-Z), or the disk of the ledger be full or slow.",
                age=duration(age),
            )
            lines.append(text)
        return lines

    def _died(self, last: LastRun) -> str:
        begun = _clock(last.started_at)
        if not self.now:
            return _(
                "Run {run}, begun {begun}, died. Run again: the same command finishes what is missing.",
                run=last.run,
                begun=begun,
            )
        return _(
            "Run {run}, begun {begun}, died after {seen}, with {rows:,} of {total:,} rows done. "
            "Run again: the same command finishes what is missing.",
            run=last.run,
            begun=begun,
            seen=f"{datetime.fromtimestamp(self.now.taken_at).astimezone():%Y-%m-%d %H:%M:%S}",
            rows=self.now.rows,
            total=self.now.total,
        )


def status(ledger: Path) -> Status:
    """Look at the ledger and at who holds it. Raises `LedgerError` where it can't be read."""
    path = resolved(ledger)
    if not path.exists():
        return Status(False, None, None, "")
    told = read_status(status_path(path))  # before the ledger: what is told is then of no later run than that knows
    with read_ledger(path) as history:
        last = history.last()
    held, who = is_held(path), holder(path)
    by = _("process {pid}, begun {begun}", pid=who[0], begun=who[1]) if who else _("another program")
    if last is None:
        return Status(False, None, None, by if held else "")
    told = told if told and told.facts.run == last.run else None
    # A purge holds the ledger as a run does. Where the lock can't be seen, nothing is claimed but what is told.
    is_its = held and (who is None or who[0] == last.pid)
    on = last.ended_at is None and bool(is_its or (held is None and told and _is_fresh(told)))
    return Status(on, last, told, by if held and not on else "")


def _is_fresh(told: Told) -> bool:
    return abs(time.time() - told.now.taken_at) < OLD_SECONDS  # ahead of now is a clock that was set, not news


def _ended(last: LastRun) -> str:
    ended = last.ended_at or last.started_at
    return _(
        "The last, run {run}, ended {ended} after {took}, with exit {code}{outcomes}.",
        run=last.run,
        ended=_clock(ended),
        took=elapsed(run_seconds(last.started_at, last.ended_at, last.summary)),
        code=last.summary["exit_code"] if last.summary else "?",
        outcomes=_outcomes(last.summary) if last.summary else "",
    )


def _outcomes(summary: Mapping[str, Any]) -> str:
    told = ", ".join(f"{count:,} {called(outcome)}" for outcome, count in summary["outcomes"].items() if count)
    return f": {told}" if told else ""


def _clock(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S}"
