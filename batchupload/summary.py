"""Endings → counts, and what they tell a person at the end of a run."""

import shlex
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from batchupload.bounds import Verdict
from batchupload.cells import pad, width, wrap
from batchupload.foreign import to_json
from batchupload.language import N_, _, several, together
from batchupload.model import DONE, Attempt, Ending, NoteKind, Outcome
from batchupload.model import Verdict as AttemptVerdict
from batchupload.reasons import Reason

AGAIN = (Outcome.FAILED, Outcome.UNKNOWN, Outcome.DEFERRED)
"""Outcomes that another run may mend."""
NEXT_STEP = {
    Outcome.UPLOADED: "",
    Outcome.SKIPPED: "",
    Outcome.DUPLICATE: "",
    Outcome.INVALID: N_("repair the row or photo"),
    Outcome.REJECTED: N_("read the endpoint's message"),
    Outcome.FAILED: N_("run again"),
    Outcome.UNKNOWN: N_("run again, or look at the order"),
    Outcome.DEFERRED: N_("run again"),
}
WORDS = {
    Outcome.UPLOADED: N_("uploaded"),
    Outcome.SKIPPED: N_("skipped"),
    Outcome.DUPLICATE: N_("duplicate"),
    Outcome.INVALID: N_("invalid"),
    Outcome.REJECTED: N_("rejected"),
    Outcome.FAILED: N_("failed"),
    Outcome.UNKNOWN: N_("unknown"),
    Outcome.DEFERRED: N_("deferred"),
}
"""Outcomes as people call them; in English just as the code does."""
WARNINGS = {
    NoteKind.ALIKE: N_("two photos of an order look the same: put in the right one, if so."),
    NoteKind.OTHER_ORDER: N_("a photo stands under another order too: see that each has its own person's."),
    NoteKind.SMALL: N_("a photo is very small (photos.small_side): have it taken again, if it can't be read."),
    NoteKind.BLANK: N_("a photo is blank: have it taken again."),
}
"""What a warning means, and what to do."""
TELL_NOTHING_NEW = frozenset({Reason.ACCEPTED, Reason.REPEATED_ROW})
STOPPED_EARLY = frozenset(
    {
        Reason.ENDPOINT_DOWN,
        Reason.ADDRESS_REFUSED,
        Reason.CANARY,
        Reason.MAX_FAILURES,
        Reason.DEADLINE,
        Reason.WORKERS_LOST,
        Reason.READERS_LOST,
    }
)
GO_ON = {
    Reason.CANARY: N_("If that is right, go on all the same with --canary 0."),
    Reason.MAX_FAILURES: N_("Go on all the same with a higher --max-failures."),
}
"""How to overrule the stop."""
ATTEMPT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Seconds by which attempts are counted: each with those that took no longer, and one more for all that did."""
RECORDS_LOST = frozenset({Reason.LEDGER_LOST, Reason.REPORT_LOST})


@dataclass(slots=True)
class Tally:
    """Counts of a run, growing with it."""

    reasons: Counter[tuple[Outcome, Reason]] = field(default_factory=Counter)
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    rows: int = 0
    sent: int = 0
    """Orders with at least one attempt."""
    attempted: Counter[AttemptVerdict] = field(default_factory=Counter)
    """Attempts that have ended, also of orders that have not."""
    attempt_seconds: float = 0.0
    attempt_buckets: list[int] = field(default_factory=lambda: [0] * (len(ATTEMPT_BUCKETS) + 1))
    bytes_sent: int = 0
    """Body bytes of those attempts."""
    notes: Counter[NoteKind] = field(default_factory=Counter)
    """What there was to say of photos."""

    @property
    def set_aside(self) -> int:
        """Rows that only a person brings on."""
        return sum(count for (_, reason), count in self.reasons.items() if reason is Reason.QUARANTINED)

    @property
    def attempts(self) -> int:
        """All that have ended."""
        return self.attempted.total()

    def attempt(self, attempt: Attempt) -> None:
        """Count one attempt."""
        self.attempted[attempt.finding.verdict] += 1
        self.attempt_seconds += attempt.seconds
        self.attempt_buckets[bisect_left(ATTEMPT_BUCKETS, attempt.seconds)] += 1
        self.bytes_sent += attempt.bytes_sent

    def add(self, ending: Ending) -> None:
        """Count one row."""
        self.reasons[ending.outcome, ending.reason] += 1
        self.outcomes[ending.outcome] += 1
        self.rows += 1
        self.sent += bool(ending.attempts)
        for note in ending.notes:
            self.notes[note.kind] += 1


@dataclass(frozen=True, slots=True)
class Summary:
    """A run that has ended."""

    tally: Tally
    seconds: float
    report: Path
    checked_only: bool
    """Whether nothing was to be sent."""
    left_out: int = 0
    """Rows beyond `--limit`."""
    stopped: Reason | None = None
    seen: str = ""
    """What was seen that stopped it."""
    signal: int | None = None
    broken: str = ""
    """Why the manifests were not read to their end, if so."""
    again: Sequence[str] = ()
    """The command that does again what is worth it."""
    release: Sequence[str] = ()
    """The command that lists what is set aside."""
    run: int | None = None
    """Its number in the ledger; None where nothing was to be sent."""
    died: str = ""
    """What is to be said of the run before, where that did not come to its end."""
    bounded: Verdict | None = None
    """What bounded it."""
    page: Path | None = None
    only: bool = False
    """Whether only rows with certain outcomes were taken."""
    """The report page, where there is one."""

    @property
    def exit_code(self) -> int:
        """As the README's table has it."""
        if self.stopped in RECORDS_LOST:
            return 5
        if self.stopped is Reason.INTERNAL_ERROR:
            return 70
        if self.signal:
            return 128 + self.signal
        if self.stopped in STOPPED_EARLY:
            return 3
        good = DONE | {Outcome.DEFERRED} if self.checked_only else DONE
        bad = self.broken or self.stopped or any(outcome not in good for outcome in self.tally.outcomes)
        return 1 if bad else 0

    @property
    def only_set_aside(self) -> bool:
        """Whether another run would mend nothing of what is left, before a person has released it."""
        left = sum(self.tally.outcomes[outcome] for outcome in AGAIN)
        return 0 < left == self.tally.set_aside and not self.broken

    @property
    def next_command(self) -> str:
        """What to type next, or nothing."""
        if self.stopped is Reason.REPORT_LOST:
            return ""
        if self.only_set_aside:
            return shlex.join(self.release)
        if not any(self.tally.outcomes[outcome] for outcome in AGAIN) and not self.broken:
            return ""
        words = list(self.again)
        if self.stopped is Reason.ADDRESS_REFUSED and "--endpoint" in words:
            words[words.index("--endpoint") + 1] = "URL"  # not the wrong one again
        return shlex.join(words)

    def as_json(self) -> str:
        """For machines, on one line."""
        return to_json(self.facts())

    def facts(self) -> dict[str, object]:
        """For machines."""
        tally = self.tally
        reasons: dict[str, dict[str, int]] = {}
        for (outcome, reason), count in tally.reasons.items():
            reasons.setdefault(outcome, {})[reason] = count
        return {
            "exit_code": self.exit_code,
            "run": self.run,
            "rows": tally.rows,
            "outcomes": {outcome.value: tally.outcomes[outcome] for outcome in Outcome},
            "reasons": reasons,
            "left_out": self.left_out,
            "sent_orders": tally.sent,
            "attempts": tally.attempts,
            "bytes_sent": tally.bytes_sent,
            "notes": tally.notes,
            "seconds": round(self.seconds, 3),
            "orders_per_second": round(tally.sent / self.seconds, 3) if self.seconds else 0.0,
            "bounded_by": self.bounded.bound if self.bounded else None,
            "stopped": self.stopped,
            "seen": self.seen or None,
            "broken": self.broken or None,
            "report": str(self.report),
            "page": str(self.page) if self.page else None,
            "next_command": self.next_command or None,
        }

    def as_text(self, columns: int) -> str:
        """For people, in lines of so many `columns`; paths and commands stay whole."""
        tally = self.tally
        lines = [*wrap(self.verdict(), columns), ""]
        room = max(10, *(width(called(outcome)) + 1 for outcome in tally.outcomes)) if tally.outcomes else 10
        margin = max((len(reason) for _, reason in tally.reasons), default=0) + 13
        for outcome in Outcome:
            if not tally.outcomes[outcome]:
                continue
            only_set_aside = tally.reasons[outcome, Reason.QUARANTINED] == tally.outcomes[outcome]
            told_below = only_set_aside or (self.checked_only and outcome is Outcome.DEFERRED)
            step = "" if told_below else _(NEXT_STEP[outcome])
            rows = f"{tally.outcomes[outcome]:>9,}"
            lines.append(f"  {pad(called(outcome), room)}{rows}{f'   → {step}' if step else ''}")
            for reason, count in [(reason, n) for (of, reason), n in tally.reasons.most_common() if of is outcome]:
                if reason in TELL_NOTHING_NEW:
                    continue
                head = f"    {count:>7,}  {reason:<{margin - 13}}  "
                sentence = wrap(reason.sentence, max(30, columns - margin - 2))
                lines.append(head + ("\n" + " " * (margin + 2)).join(sentence))
        rate = _("{rate:,.1f} orders/s", rate=tally.sent / self.seconds) if self.seconds else ""
        if lines[-1]:
            lines.append("")
        if repaired := tally.notes[NoteKind.REPAIRED]:
            lines.append(
                _(
                    "Repaired {photos} on the way; see detail. The files are as they were.",
                    photos=several(repaired, "{n:,} photo", "{n:,} photos"),
                )
            )
        for kind, meaning in WARNINGS.items():
            if noted := tally.notes[kind]:
                times = several(noted, "{n:,} time", "{n:,} times")
                lines += wrap(_("Warning, {times}: {meaning}", times=times, meaning=_(meaning)), columns)
        if not self.checked_only:
            if tally.attempts and not tally.bytes_sent:
                sends = several(tally.attempts, "{n:,} send", "{n:,} sends")
                lines.append(_("Nothing went out in {sends}.", sends=sends))
            elif tally.attempts:
                lines.append(
                    _(
                        "Sent {orders} in {sends}, {size} in {duration} ({rate}).",
                        orders=several(tally.sent, "{n:,} order", "{n:,} orders"),
                        sends=several(tally.attempts, "{n:,} send", "{n:,} sends"),
                        size=size(tally.bytes_sent),
                        duration=duration(self.seconds),
                        rate=rate,
                    )
                )
            if self.bounded:
                lines += wrap(_("It was held back by {what}.", what=self.bounded.sentence), columns)
        if faults := sum(count for (_, reason), count in tally.reasons.items() if reason is Reason.INTERNAL_ERROR):
            lines += wrap(faults_told(faults), columns)
        if self.left_out:
            lines.append(
                _("{count:,} rows beyond --limit were left alone; they are not in the report.", count=self.left_out)
            )
        if self.broken:
            lines += wrap(self.broken, columns)
        if self.died:
            lines += wrap(self.died, columns)
        lines.append(_("Report: {report}", report=self.report))
        if self.page:
            lines.append(_("Page:   {page}", page=self.page))
        if self.next_command:
            lines.append(_("Next:   {command}", command=self.next_command))
        if self.tally.set_aside and (release := shlex.join(self.release)) != self.next_command:
            lines.append(_("Aside:  {command}", command=release))
        return "\n".join(lines)

    def verdict(self) -> str:
        """The run in one sentence."""
        rows = several(self.tally.rows, "{n:,} row", "{n:,} rows")
        if self.stopped is Reason.STOPPED:
            left = self.tally.outcomes[Outcome.DEFERRED]
            return _(
                "Stopped after {duration}, as asked; {left:,} of {rows} are left for another run.",
                duration=duration(self.seconds),
                left=left,
                rows=rows,
            )
        if self.stopped:
            why = together(
                self.stopped.sentence,
                _("{seen}.", seen=self.seen.rstrip(".。")) if self.seen else "",
                _(GO_ON.get(self.stopped, "")),
            )
            return _("Stopped early after {duration}. {why}", duration=duration(self.seconds), why=why)
        if not self.tally.rows and not self.broken:
            if self.only:
                return _("There was nothing to do: no row has an outcome that --only names.")
            return _("There was nothing to do: the manifest has no rows.")
        if self.checked_only:
            bad = self.tally.outcomes[Outcome.INVALID]
            told = _("Checked {rows}; nothing was sent.", rows=rows)
            if bad:
                return together(told, _("{bad:,} can't be sent as they are.", bad=bad))
            return together(told, _("All good."))
        if self.broken:
            return _("The manifest was not read to its end; {rows} were.", rows=rows)
        counts = self.tally.outcomes
        aside = self.tally.set_aside
        person = counts[Outcome.INVALID] + counts[Outcome.REJECTED] + aside
        what = what_is_left(self.tally.rows, person, sum(counts[outcome] for outcome in AGAIN) - aside)
        return _("Finished: {what_is_left}", what_is_left=what)


def faults_told(count: int) -> str:
    """What a person is to know of rows that met a fault of the program itself."""
    rows = several(count, "{n:,} row", "{n:,} rows")
    return _(
        "{rows} met a fault in batchupload itself: please report it, with their detail and the lines above.",
        rows=rows,
    )


def what_is_left(rows: int, person: int, again: int) -> str:
    """How many of `rows` need a `person`, and how many another run: `9 rows, 1 needs a person and 2 another run.`"""
    told = several(rows, "{n:,} row", "{n:,} rows")
    if not person and not again:
        return _("{rows}, all done.", rows=told)
    if not person:
        left = several(again, "{n:,} needs another run", "{n:,} need another run")
        return _("{rows}, {left}.", rows=told, left=left)
    left = several(person, "{n:,} needs a person", "{n:,} need a person")
    if not again:
        return _("{rows}, {left}.", rows=told, left=left)
    return _("{rows}, {left} and {again:,} another run.", rows=told, left=left, again=again)


def called(outcome: str) -> str:
    """An outcome, with its word in a language where that is another: `uploaded 已上传`."""
    word = _(WORDS[Outcome(outcome)]) if outcome in WORDS else outcome
    return outcome if word == outcome else f"{outcome} {word}"


def size(count: float) -> str:
    """Bytes as people read them: `1.2 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds as people read them: `41.2 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 60:
        return _("{seconds:.1f} s", seconds=seconds)
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return _("{minutes} min {seconds:02} s", minutes=minutes, seconds=rest)
    return _("{hours} h {minutes:02} min", hours=minutes // 60, minutes=minutes % 60)
