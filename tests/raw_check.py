"""Report and ledger of a run against the raw endpoint's log: every promise that the two together can show broken.

The rules stand here as the contract has them; nothing of the program is imported.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from raw_answers import ACCEPT, REFUSE
from raw_log import NO_ORDER, Event

PATH = "/order/api/haoteam/getimg"
NAMED = re.compile(r"(\S+) #(\d+-\d+)-(\d+)")
"""How each answer names its order, its attempt, and its place among the answers to it."""
BUFFERS = 256 * 1024
"""Bytes: more than the endpoint's system holds of a body that the endpoint never read."""
NOTES = ("an attempt before it may have been accepted", "what became of that is not known")
"""What `detail` of a refused order says if an attempt before the refusal may have been accepted."""
AT_ONCE = 0.1
"""Seconds within which a plain answer came; no load on this machine makes the client miss many of these."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise."""

    rule: str
    order_id: str
    text: str


@dataclass(slots=True)
class Attempt:
    """One request as the endpoint saw it."""

    name: str
    order_id: str = NO_ORDER
    read: int = 0
    length: int = 0
    whole_at: float | None = None
    taken: bool = False
    parts: Sequence[Sequence[str]] = ()
    more: bool = False
    request: Mapping[str, Any] = field(default_factory=dict)
    answers: list[Event] = field(default_factory=list)

    @property
    def first(self) -> Mapping[str, Any]:
        """The first answer to it; empty if there was none."""
        return self.answers[0].facts if self.answers else {}

    def says(self, word: str) -> bool:
        """Whether its first answer, whole or in part, says this."""
        return word in {self.first.get("says"), self.first.get("cut_says")}

    @property
    def plain(self) -> bool:
        """Whether it was accepted at once, with nothing else amiss."""
        at_once = self.whole_at is not None and bool(self.answers) and self.answers[0].at - self.whole_at < AT_ONCE
        return bool(self.first.get("plain")) and at_once and len(self.answers) == 1


@dataclass(slots=True)
class Memory:
    """What earlier runs with the same ledger left of the orders."""

    known: set[str] = field(default_factory=set)
    """Orders that a report called uploaded."""
    doubtful: set[str] = field(default_factory=set)
    """Orders that the endpoint took, and that no report called uploaded."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the program, and what the endpoint saw of it."""

    wanted: Sequence[tuple[str, str]]
    """Line and order number of each row; an empty line stands for any."""
    photos: Mapping[str, Mapping[str, str]]
    """Order → field → SHA-256 of the file."""
    rows: Sequence[Mapping[str, str]]
    """The report's."""
    ledger: Sequence[Mapping[str, Any]]
    """The ledger's attempts of this run."""
    outcomes: Sequence[tuple[str, str]]
    """Order number and outcome of each row, as the ledger has them."""
    events: Sequence[Event]
    host: str
    most_attempts: int


def attempts_of(events: Iterable[Event]) -> dict[str, Attempt]:
    """The attempts that a log tells of, by their names, in order."""
    found: dict[str, Attempt] = {}
    for event in events:
        if event.attempt == NO_ORDER:
            continue
        attempt = found.setdefault(event.attempt, Attempt(event.attempt))
        attempt.order_id = event.order_id if event.order_id != NO_ORDER else attempt.order_id
        attempt.read = max(attempt.read, event.facts.get("read", 0))
        attempt.length = max(attempt.length, event.facts.get("length", 0))
        match event.what:
            case "request":
                attempt.request = event.facts
            case "whole":
                attempt.whole_at, attempt.parts, attempt.more = event.at, event.facts["parts"], event.facts["more"]
            case "taken":
                attempt.taken = True
            case "answer":
                attempt.answers.append(event)
            case "completed":
                last = attempt.answers[-1]
                attempt.answers[-1] = replace(last, facts={**last.facts, **event.facts})
    return found


def check(run: Run, memory: Memory) -> list[Violation]:
    """What is broken in this run; `memory` is brought up to date."""
    attempts = attempts_of(run.events)
    by_order: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts.values():
        by_order[attempt.order_id].append(attempt)
    found = [
        *_rows(run),
        *_names(run, attempts),
        *_words(run, by_order, attempts),
        *_lost(run, by_order, attempts, memory),
        *_again(by_order, memory),
        *_sent(run, attempts),
        *_figures(run, by_order, len({event.connection for event in run.events if event.what == "opened"})),
        *_missed(run, by_order),
    ]
    for row in run.rows:
        if row["outcome"] == "uploaded":
            memory.known.add(row["order_id"])
    memory.doubtful |= {attempt.order_id for attempt in attempts.values() if attempt.taken}
    memory.doubtful -= memory.known
    return found


def _rows(run: Run) -> Iterator[Violation]:
    """Each row of the manifest has one row in the report, and the ledger has the same."""
    lines = any(line for line, _ in run.wanted)
    wanted = Counter((line if lines else "", order_id) for line, order_id in run.wanted)
    reported = Counter((row["line"] if lines else "", row["order_id"]) for row in run.rows)
    for (line, order_id), count in ((wanted - reported) + (reported - wanted)).items():
        what = "missing" if (line, order_id) in wanted - reported else "too many"
        yield Violation("rows", order_id, f"line {line}: {count} {what}")
    recorded, told = Counter(run.outcomes), Counter((row["order_id"], row["outcome"]) for row in run.rows)
    for order_id, outcome in (recorded - told) + (told - recorded):
        yield Violation("rows", order_id, f"{outcome} stands in only one of report and ledger")


def _names(run: Run, attempts: Mapping[str, Attempt]) -> Iterator[Violation]:
    """No order has the answer to another attempt, nor one that was not the first to it."""
    told = [("row", row["order_id"], row["message"]) for row in run.rows]
    told += [(f"attempt {record['number']}", record["order_id"], record["message"] or "") for record in run.ledger]
    for where, order_id, message in told:
        if not (named := NAMED.search(message)):
            continue
        its_order, name, index = named.groups()
        attempt = attempts.get(name)
        if its_order != order_id and its_order != NO_ORDER:
            yield Violation("another's answer", order_id, f"{where} has the answer to {its_order}: {message}")
        elif attempt is None or attempt.order_id not in {order_id, NO_ORDER}:
            yield Violation("another's answer", order_id, f"{where} has an answer from no attempt of it: {message}")
        elif index != "1" and not attempt.first.get("shared"):
            yield Violation("another's answer", order_id, f"{where} has answer {index} to its attempt: {message}")


def _words(run: Run, by_order: Mapping[str, Sequence[Attempt]], attempts: Mapping[str, Attempt]) -> Iterator[Violation]:
    """`uploaded` and `rejected` are what the endpoint said to a very attempt of the order, status and code too."""
    told = [(row["order_id"], row["outcome"], row["message"]) for row in run.rows]
    told += [(record["order_id"], record["verdict"] or "", record["message"] or "") for record in run.ledger]
    for order_id, word, message in told:
        named = NAMED.search(message)
        attempt = attempts.get(named[2]) if named else None
        said = [attempt] if attempt else by_order.get(order_id, [])
        if word in {"uploaded", "accepted"}:
            accepted = [one for one in said if one.first.get("says") == ACCEPT and one.order_id == order_id]
            if not accepted:
                yield Violation("unsaid", order_id, f"{word}, but no first, whole answer said so: {message}")
            elif all(one.length - one.read > BUFFERS for one in accepted):
                yield Violation("unsaid", order_id, f"{word} by an early answer: most of the upload never left")
        unread = [one for one in by_order.get(NO_ORDER, []) if one.says(REFUSE)]
        if word == "rejected" and not any(one.says(REFUSE) for one in (*said, *unread)):
            yield Violation("unsaid", order_id, f"{word}, but no first answer said so: {message}")
    for row in run.rows:
        named = NAMED.search(row["message"])
        attempt = attempts.get(named[2]) if named else None
        if attempt and named and named[3] == "1":
            first = attempt.first
            if (row["http_status"], row["code"]) not in {
                (str(first["status"]), first["code"]),
                (str(first["status"]), ""),
            }:
                text = f"HTTP {row['http_status']}, code {row['code']} are not those of its answer"
                yield Violation("unsaid", row["order_id"], text)


def _lost(
    run: Run, by_order: Mapping[str, Sequence[Attempt]], attempts: Mapping[str, Attempt], memory: Memory
) -> Iterator[Violation]:
    """An order that the endpoint took is called uploaded or unknown, or refused with a word that it may be there."""
    for row in run.rows:
        order_id, outcome = row["order_id"], row["outcome"]
        now = [attempt.name for attempt in by_order.get(order_id, []) if attempt.taken]
        if not now and order_id not in memory.doubtful:
            continue
        noted = outcome == "rejected" and any(note in row["detail"] for note in NOTES)
        if outcome not in {"uploaded", "unknown", "skipped", "duplicate"} and not noted:
            by = f"in attempts {now}" if now else "in an earlier run"
            yield Violation("lost", order_id, f"taken {by}, but {outcome}, {row['reason']}: {row['detail']}")
    for row in run.rows:
        if row["outcome"] == "skipped" and row["order_id"] not in memory.known:
            yield Violation("lost", row["order_id"], "skipped, but no earlier run called it uploaded")
    for record in run.ledger:
        named = NAMED.search(record["message"] or "")
        attempt = attempts.get(named[2]) if named else None
        if (
            attempt
            and attempt.taken
            and attempt.order_id == record["order_id"]
            and record["verdict"] in {"retry", "misaddressed", "rejected"}
        ):
            yield Violation("lost", record["order_id"], f"{attempt.name} was taken; the ledger: {record['verdict']}")


def _again(by_order: Mapping[str, Sequence[Attempt]], memory: Memory) -> Iterator[Violation]:
    """What an earlier run called uploaded is not sent again."""
    for order_id in memory.known & by_order.keys():
        names = [attempt.name for attempt in by_order[order_id]]
        yield Violation("sent again", order_id, f"known as uploaded, and sent in {names}")


def _sent(run: Run, attempts: Mapping[str, Attempt]) -> Iterator[Violation]:
    """The endpoint gets the photos on disk byte for byte, and nothing else; each attempt has its own connection."""
    for event in run.events:
        if event.what == "elsewhere":
            yield Violation("photos", NO_ORDER, "another address was contacted")
        if event.what == "no order":
            yield Violation("photos", NO_ORDER, f"{event.attempt} had no order number in its whole body")
        if event.what == "fault":
            yield Violation("endpoint", NO_ORDER, f"a fault of this endpoint itself: {event.facts}")
    for attempt in attempts.values():
        order_id, request = attempt.order_id, attempt.request
        if not attempt.name.endswith(("-1", "-0")):
            yield Violation("connection", order_id, f"{attempt.name} is not the first request of its connection")
        headers = request.get("headers", {})
        if request and (request["line"], headers.get("host")) != (f"POST {PATH} HTTP/1.1", run.host):
            yield Violation("photos", order_id, f"{attempt.name}: {request['line']} to {headers.get('host')}")
        if {"cookie", "authorization", "expect"} & headers.keys() or request.get("twice"):
            yield Violation("photos", order_id, f"{attempt.name}: headers that it should not have: {request}")
        if request and headers.get("connection", "").lower() != "close":
            yield Violation("connection", order_id, f"{attempt.name} does not ask for the connection to be closed")
        if attempt.whole_at is not None:
            parts = [tuple(part) for part in attempt.parts if part[0] != "order_id"]
            if parts != list(run.photos.get(order_id, {}).items()) or attempt.more:
                yield Violation("photos", order_id, f"{attempt.name}: {parts}, more: {attempt.more}")


def _figures(run: Run, by_order: Mapping[str, Sequence[Attempt]], connections: int) -> Iterator[Violation]:
    """`attempts` and `bytes_sent` are possible by what the endpoint saw, and the same in report and ledger."""
    recorded = Counter(record["order_id"] for record in run.ledger)
    nobodys = connections - sum(len(seen) for order_id, seen in by_order.items() if order_id != NO_ORDER)
    for row in run.rows:
        order_id, count, sent = row["order_id"], int(row["attempts"]), int(row["bytes_sent"])
        seen = by_order.get(order_id, []) if row["outcome"] not in {"duplicate", "invalid"} else []
        if not len(seen) <= count <= min(len(seen) + max(nobodys, 0), run.most_attempts):
            yield Violation("figures", order_id, f"{count} attempts, but {len(seen)} seen, {nobodys} of no order")
        if recorded[order_id] != count and row["outcome"] not in {"duplicate", "invalid"}:
            yield Violation("figures", order_id, f"{count} attempts, but {recorded[order_id]} in the ledger")
        length = max((attempt.length for attempt in seen), default=0)
        if sum(attempt.read for attempt in seen) > sent or (seen and sent > count * length):
            text = f"{sent} bytes sent, but {[attempt.read for attempt in seen]} of {length} each came"
            yield Violation("figures", order_id, text)
        if row["outcome"] == "uploaded" and sent < length:
            yield Violation("figures", order_id, f"uploaded with {sent} of {length} bytes")


def _missed(run: Run, by_order: Mapping[str, Sequence[Attempt]]) -> Iterator[Violation]:
    """An order that was accepted at once, as usual, is uploaded; a few may be missed on a machine under load."""
    plain = {order_id for order_id, seen in by_order.items() if seen[-1].plain}
    rows = [row for row in run.rows if row["order_id"] in plain and row["reason"] != "stopped"]
    missed = [row for row in rows if row["outcome"] not in {"uploaded", "duplicate"}]
    if len(missed) > max(3, 0.02 * len(plain)):
        text = f"{len(missed)} of {len(plain)} were accepted at once, but not uploaded, such as {dict(missed[0])}"
        yield Violation("missed", missed[0]["order_id"], text)
