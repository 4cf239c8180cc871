"""What a run came to → the message that tells of it, in counts and words that may leave this machine. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from batchupload.foreign import visible
from batchupload.language import _, several
from batchupload.model import DONE, Outcome
from batchupload.reasons import Reason
from batchupload.sheet import plain
from batchupload.summary import NEXT_STEP, Summary, called, duration, size

When = Literal["trouble", "always", "never"]
MOST_BYTES = 2000
"""Of a message's text; WeCom takes 2,048."""
MOST_REASONS = 5
MOST_ORDERS = 10
NEED_A_PERSON = frozenset({Outcome.INVALID, Outcome.REJECTED})


@dataclass(frozen=True, slots=True)
class Notice:
    """A message."""

    title: str
    body: str
    trouble: bool
    """Whether somebody should act."""


def is_trouble(exit_code: int) -> bool:
    """Whether a run with this exit code is neither done nor stopped by a person's signal."""
    return 0 < exit_code <= 128


def is_due(when: When, exit_code: int, *, begun: bool, attended: bool) -> bool:
    """Whether a run is told of. Of one that could not begin a person who is `attended` to knows by the screen."""
    if when == "trouble":
        return is_trouble(exit_code) and (begun or not attended)
    return when == "always"


def of_run(summary: Summary, name: str, orders: Sequence[str] = ()) -> Notice:
    """The message about a run that has ended; `orders` are lines about those that need a person, where wanted.

    No path and none of the endpoint's words are in it: they may name people.
    """
    tally = summary.tally
    outcomes = [
        _("{outcome}: {count:,}", outcome=called(outcome), count=count)
        + (f" → {_(NEXT_STEP[outcome])}" if NEXT_STEP[outcome] else "")
        for outcome in Outcome
        if (count := tally.outcomes[outcome])
    ]
    bad = [(reason, count) for (outcome, reason), count in tally.reasons.most_common() if outcome not in DONE]
    reasons = [
        _("{count:,} × {reason}: {sentence}", count=count, reason=reason, sentence=reason.sentence)
        for reason, count in bad[:MOST_REASONS]
    ]
    took = [_("It took {duration}.", duration=duration(summary.seconds))]
    if tally.attempts:
        took = [
            _(
                "Sent {orders} in {sends}, {size} in {duration}.",
                orders=several(tally.sent, "{n:,} order", "{n:,} orders"),
                sends=several(tally.attempts, "{n:,} send", "{n:,} sends"),
                size=size(tally.bytes_sent),
                duration=duration(summary.seconds),
            )
        ]
    took.append(
        _("Exit code {code}, run {run}.", code=summary.exit_code, run=summary.run)
        if summary.run
        else _("Exit code {code}.", code=summary.exit_code)
    )
    records = [_("Report: {report}", report=summary.report.name)]
    records += [_("Page: {page}", page=summary.page.name)] if summary.page else []
    if summary.next_command:
        command = summary.release if summary.only_set_aside else summary.again
        records.append(_("Next: {command}", command=_outward(command)))
    parts = (outcomes, reasons, took, records, orders)
    body = "\n\n".join("\n".join(part) for part in parts if part)
    title = _("batchupload, {name}: {verdict}", name=name, verdict=replace(summary, seen="").verdict())
    return Notice(title, _fitting(body), is_trouble(summary.exit_code))


def of_no_run(name: str, exit_code: int, meaning: str) -> Notice:
    """The message about a run that could not begin; what it said itself holds paths."""
    body = _(
        "Exit code {code}: {meaning}.\n\nIts log says what is the matter and what to do. "
        "`batchupload doctor` looks at all that a run depends on.",
        code=exit_code,
        meaning=_(meaning),
    )
    return Notice(_("batchupload, {name}: a run could not begin.", name=name), body, trouble=True)


def of_fault(name: str, exit_code: int, meaning: str) -> Notice:
    """The message about a run that a fault of the program itself ended; what was raised may name a photo."""
    body = _(
        "Exit code {code}: {meaning}.\n\nIts log says what was raised, which run that was, and what to do; please "
        "report it. `batchupload status` and `batchupload history` say how far the run came.",
        code=exit_code,
        meaning=_(meaning),
    )
    return Notice(_("batchupload, {name}: a fault in batchupload itself ended a run.", name=name), body, trouble=True)


def of_test(name: str) -> Notice:
    """A message that only shows that messages arrive."""
    body = _("Sent by hand with `batchupload notify`, to see whether messages arrive. Nothing is the matter.")
    return Notice(_("batchupload, {name}: a test message.", name=name), body, trouble=False)


def needs_a_person(summary: Summary) -> bool:
    """Whether there is an order to be named."""
    return any(summary.tally.outcomes[outcome] for outcome in NEED_A_PERSON) or summary.tally.set_aside > 0


def orders_of(rows: Iterable[Mapping[str, str]], *, mask: bool) -> Sequence[str]:
    """Lines about the first rows of a report that need a person."""
    return list(_first(_lines_of(rows, mask=mask), MOST_ORDERS))


def _lines_of(rows: Iterable[Mapping[str, str]], *, mask: bool) -> Iterator[str]:
    for row in rows:
        if row.get("outcome") in NEED_A_PERSON or row.get("reason") == Reason.QUARANTINED:
            order = visible(plain(row.get("order_id") or ""))[:64]
            said = visible(plain(row.get("message") or ""))[:60]
            shown = f"…{order[-4:]}" if mask else order or _("(no order number)")
            why = _("{outcome}, {reason}", outcome=called(row["outcome"]), reason=row.get("reason"))
            yield f"{shown}: {why}" + (f": {said}" if said else "")


def _first(lines: Iterator[str], most: int) -> Iterator[str]:
    for place, line in enumerate(lines):
        if place == most:
            yield _("… and more: see the report")
            return
        yield " ".join(line.split())


def _outward(command: Sequence[str]) -> str:
    """A command with the names of files in place of their paths, and without addresses."""
    words = [
        "URL" if before == "--endpoint" else word.rstrip("/").rpartition("/")[2] or word
        for before, word in zip(("", *command), command, strict=False)
    ]
    return " ".join(words) + (_(" (paths shortened)") if any("/" in word for word in command) else "")


def _fitting(text: str) -> str:
    """As many whole lines as may be sent; the last are the ones to go."""
    lines, room = [], MOST_BYTES
    for line in text.split("\n"):
        room -= len(line.encode()) + 1
        if room < 0:
            break
        lines.append(line)
    return "\n".join(lines).rstrip()
