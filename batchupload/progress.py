"""A snapshot of a run → words: one line for logs, two lines that fit for terminals."""

from collections.abc import Iterable
from dataclasses import dataclass

from batchupload.cells import cut, width
from batchupload.colour import TONES, Line, Span, Tone, plain
from batchupload.language import _
from batchupload.model import DONE, Outcome
from batchupload.reasons import Reason
from batchupload.snapshot import Snapshot, State
from batchupload.summary import AGAIN, WORDS, duration, size

GAP = "  "
BAR_COLUMNS = 5, 30
"""The shortest bar that tells anything, and the longest."""
RATE_COLUMNS, BYTES_COLUMNS, LEFT_COLUMNS = width("1,234/s"), width("12.3 MB/s"), width("12 min 05 s left")
"""What the block keeps free for each, so that it stands still while the figures change."""
MOST_LEFT = 99 * 3600
"""Seconds; a longer time left is said to be longer, and no more."""


@dataclass(frozen=True, slots=True)
class Block:
    """What a terminal shows of a run: two lines."""

    bar: int
    """Columns of the bar, which comes before `counts`; 0 where there is no room for one."""
    done: int
    """Columns of it that are done."""
    counts: str
    outcomes: Line


def line(now: Snapshot) -> str:
    """On one line, as long as it takes."""
    share = f" ({now.rows / now.total:.0%})" if now.total else ""
    left = _left(now)
    done = _(
        "{rows:,} of {total:,} rows{checked}{share}",
        rows=now.rows,
        total=now.total,
        checked=_checked(now),
        share=share,
    )
    parts = [done, _rate(now), _bytes(now)]
    parts += [plain(_outcomes(now)[0]), _("about {left}", left=left) if left else "", now.pace.note]
    return ", ".join(part for part in parts if part)


def counts(now: Snapshot) -> str:
    """How far it is and how fast."""
    share = f" ({now.rows / now.total:.0%})" if now.total else ""
    left = _left(now)
    done = _("{rows:,} of {total:,}{share}", rows=now.rows, total=now.total, share=share)
    parts = [done, _rate(now), _("about {left}", left=left) if left else ""]
    return ", ".join(part for part in parts if part)


def outcomes(now: Snapshot) -> Line:
    """What became of the rows so far."""
    return _outcomes(now)[0]


def note(now: Snapshot) -> Span:
    """How many go at once and why, or what it waits for."""
    return Span(now.pace.note, Tone.PLAIN if now.pace.state is State.GOING else Tone.WAIT)


def block(now: Snapshot, columns: int) -> Block:
    """On two lines of at most so many columns. What does not fit is left out, what matters least first."""
    total = f"{now.total:,}"
    parts = [f"{now.rows:>{len(total)},}/{total}{_checked(now)}", f"{_rate(now):>{RATE_COLUMNS}}"]
    if now.sends:
        parts.append(f"{_bytes(now):>{BYTES_COLUMNS}}")
    # The room of the time left is kept while there is none to tell, so that the bar does not jump.
    if width(GAP.join(parts)) + len(GAP) + LEFT_COLUMNS > columns:
        del parts[2:]
    used = width(GAP.join(parts)) + len(GAP) + LEFT_COLUMNS
    bar = min(columns - used - len(GAP), BAR_COLUMNS[1])
    bar = bar if bar >= BAR_COLUMNS[0] else 0
    done = bar * min(now.rows, now.total) // now.total if now.total else bar
    first = cut(GAP.join([*parts, _left(now)]).rstrip(), columns)
    variants = _outcomes(now)
    second = next((told for told in variants if width(plain(told)) <= columns), variants[-1])
    if now.pace.note:
        second = (*second, Span(GAP), note(now))
    return Block(bar, done, first, _cut(second, columns))


def _checked(now: Snapshot) -> str:
    return "" if now.sends else _(" checked")


def _rate(now: Snapshot) -> str:
    return f"{now.rows_per_second:,.{1 if now.rows_per_second < 100 else 0}f}/s"


def _bytes(now: Snapshot) -> str:
    return f"{size(now.bytes_per_second)}/s" if now.sends else ""


def _left(now: Snapshot) -> str:
    if now.seconds_left is None or now.rows >= now.total:
        return ""
    seconds = round(now.seconds_left)
    if seconds > MOST_LEFT:
        return _("over {hours} h left", hours=MOST_LEFT // 3600)
    return _("{seconds} s left", seconds=seconds) if seconds < 60 else _("{duration} left", duration=duration(seconds))


def _outcomes(now: Snapshot) -> tuple[Line, ...]:
    """The counts in words, from long to short. How many went wrong is said also where none did."""
    in_order = now.reasons.get((Outcome.DEFERRED, Reason.NOT_SENT), 0)
    counts = {str(outcome): now.outcomes.get(outcome, 0) for outcome in Outcome}
    counts[Outcome.DEFERRED] -= in_order
    counts["in order"] = in_order
    fine, again = (*DONE, "in order"), sum(counts[outcome] for outcome in AGAIN)
    always = Outcome.FAILED if now.sends else Outcome.INVALID
    tones = {**{str(outcome): tone for outcome, tone in TONES.items()}, "in order": Tone.GOOD}
    words = {str(outcome): _(word) for outcome, word in WORDS.items()} | {"in order": _("in order")}
    told = {
        word: Span(
            _("{count:,} {outcome}", count=count, outcome=words[word]),
            tones.get(word, Tone.PLAIN) if count else Tone.PLAIN,
        )
        for word, count in counts.items()
        if count or word == always
    }
    good = [span for word, span in told.items() if word in fine]
    bad = [span for word, span in told.items() if word not in fine]
    sum_of_good = Span(_("{count:,} fine", count=sum(counts[word] for word in fine)), Tone.GOOD)
    person = counts[Outcome.INVALID] + counts[Outcome.REJECTED]
    sums = (
        sum_of_good,
        Span(_("{count:,} need a person", count=person), Tone.BAD if person else Tone.PLAIN),
        Span(_("{count:,} another run", count=again), Tone.WAIT if again else Tone.PLAIN),
    )
    return _listed([*good, *bad]), _listed([sum_of_good, *bad]), _listed(sums)


def _listed(spans: Iterable[Span]) -> Line:
    with_commas = [part for span in spans for part in (Span(", "), span)]
    return tuple(with_commas[1:])


def _cut(spans: Line, columns: int) -> Line:
    rest, kept = cut(plain(spans), columns), []
    for span in spans:
        kept.append(Span(rest[: len(span.text)], span.tone))
        rest = rest[len(span.text) :]
    return tuple(kept)
