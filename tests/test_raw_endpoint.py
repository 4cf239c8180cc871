"""The program against an endpoint that shares none of its ideas of HTTP; `python tests/raw_runs.py` by hand."""

import hashlib
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from raw_answers import ACCEPT, AGAIN, REFUSE, VAGUE
from raw_check import NOTES, PATH, Memory, Run, check
from raw_endpoint import RawEndpoint
from raw_log import NO_ORDER, Event
from raw_runs import play, round_of

HOST = "127.0.0.1:1"


@pytest.mark.parametrize(("seed", "orders"), [(5, 250), (6, 300), (17, 150), (14, 30)])
def test_no_report_says_what_the_endpoint_did_not(tmp_path: Path, seed: int, orders: int) -> None:
    plan = round_of(seed, orders)
    counts, violations = play(plan, tmp_path)
    again = f"python tests/raw_runs.py --seed {seed} --orders 1 --round {orders}"
    assert not violations, f"{len(violations)}, such as {violations[:5]}; again: {again}"
    uploaded = sum(counts[f"run {number} uploaded"] for number in (1, 2, 3))
    assert 0.6 * orders < uploaded <= orders
    assert (counts["run 3 invalid"] > 0) == (orders > 60)
    assert counts["run 3 skipped"] >= counts["run 1 uploaded"]
    assert sum(what.startswith("struck") for what in counts) > 10


def test_the_rounds_have_every_number_of_sends_at_once_with_and_without_tls() -> None:
    plans = [round_of(seed) for seed in range(1, 41)]
    assert {plan.concurrency for plan in plans} == {1, 8, 16, 32}
    assert {(plan.tls, plan.stopped) for plan in plans} == {(False, False), (False, True), (True, False), (True, True)}
    assert [round_of(seed).tls for seed in (5, 6, 17, 14)] == [False, False, True, False]
    assert round_of(14).concurrency == 1


def test_the_endpoint_writes_down_what_it_read_and_said() -> None:
    """Requests by hand, in pieces; some are struck before they are whole."""
    body = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name, content)
        for name, content in ((b"order_id", b"HT1"), (b"face", b"\r\n--a"), (b"back", b""), (b"hand", b"--c"))
    )
    request = f"POST {PATH} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: multipart/form-data; boundary=b\r\n".encode()
    request += b"Content-Length: %d\r\n\r\n%s--b--\r\n" % (len(body) + 7, body)
    heard = b""
    with RawEndpoint(7, 0.1, calm=1.0) as endpoint:
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", endpoint.port), timeout=5) as client, suppress(OSError):
                for at in range(0, len(request), 50):
                    client.sendall(request[at : at + 50])
                client.shutdown(socket.SHUT_WR)
                while more := client.recv(1000):
                    heard += more
        endpoint.settle(2.0)
    events = endpoint.log.events
    wholes = [event.facts["parts"] for event in events if event.what == "whole"]
    sums = [hashlib.sha256(content).hexdigest() for content in (b"HT1", b"\r\n--a", b"", b"--c")]
    assert wholes
    assert all([content for _, content in parts] == sums for parts in wholes)
    assert all([name for name, _ in parts] == ["order_id", "face", "back", "hand"] for parts in wholes)
    said = [event for event in events if event.what == "answer" and event.facts["plain"]]
    assert said
    assert all(f"HT1 #{event.attempt}-1 ".encode() in heard for event in said if event.facts["code"] == "200")
    assert not [event for event in events if event.what == "fault"]


@dataclass
class Scene:
    """A run in which all is as it should be, to be spoilt in one place."""

    rows: list[dict[str, str]] = field(default_factory=list)
    ledger: list[dict[str, Any]] = field(default_factory=list)
    outcomes: list[tuple[str, str]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)

    def __post_init__(self) -> None:
        self.order("A", "uploaded", (ACCEPT,), taken=(0,))
        self.order("B", "uploaded", (VAGUE, ACCEPT), taken=(0, 1))
        self.order("C", "rejected", (REFUSE,))
        self.order("D", "rejected", (VAGUE, REFUSE), taken=(0,), detail=NOTES[0])
        self.order("E", "unknown", ("", ""), taken=(1,))
        self.order("F", "failed", (AGAIN, AGAIN))
        self.order("G", "deferred", ())
        self.order("H", "skipped", ())
        self.order("I", "rejected", (REFUSE,), detail=f"run 1 sent it, and {NOTES[1]}")
        self.memory = Memory(known={"H"}, doubtful={"I"})

    def order(
        self, order_id: str, outcome: str, answers: Sequence[str], taken: Sequence[int] = (), detail: str = ""
    ) -> None:
        """Add an order with its attempts, each with its answer, or `""` for none."""
        message = status = code = ""
        for place, says in enumerate(answers):
            attempt = f"{len(self.events)}-1"
            message = status = code = ""
            self.seen(attempt, order_id, says, taken=place in taken)
            if says:
                message, status = f"{order_id} #{attempt}-1", {ACCEPT: "200", AGAIN: "503"}.get(says, "400")
                code = {ACCEPT: "200", REFUSE: "400"}.get(says, "")
            verdict = {ACCEPT: "accepted", REFUSE: "rejected", AGAIN: "retry"}.get(says, "ambiguous")
            self.ledger.append({"order_id": order_id, "number": place + 1, "verdict": verdict, "message": message})
        self.rows.append({
            "line": str(len(self.rows) + 2), "order_id": order_id, "outcome": outcome, "reason": "", "detail": detail,
            "http_status": status, "code": code, "message": message, "attempts": str(len(answers)),
            "bytes_sent": str(1000 * len(answers)),
        })  # fmt: skip
        self.outcomes.append((order_id, outcome))

    def seen(self, attempt: str, order_id: str, says: str, *, taken: bool) -> None:
        facts = {"read": 1000, "length": 1000}
        headers = {"host": HOST, "connection": "close"}
        parts = [["order_id", ""], *([name, f"{order_id} {name}"] for name in ("face", "back", "hand"))]
        code = {ACCEPT: "200", REFUSE: "400"}.get(says, "")
        answer = {"index": 1, "says": says, "cut_says": says, "status": {ACCEPT: 200, AGAIN: 503}.get(says, 400)}
        steps: dict[str, dict[str, Any]] = {
            "opened": {},
            "request": {"line": f"POST {PATH} HTTP/1.1", "twice": [], "headers": headers},
            "whole": {"parts": parts, "more": False},
            **({"taken": {}} if taken else {}),
            **({"answer": {**answer, "code": code, "plain": says == ACCEPT}} if says else {}),
        }
        for what, more in steps.items():
            name = NO_ORDER if what == "opened" else attempt
            self.events.append(Event(0.0, int(attempt.split("-")[0]), name, what, order_id, {**facts, **more}))

    def facts(self, what: str, order_id: str) -> dict[str, Any]:
        """Facts of the last event of this kind for the order."""
        return next(event.facts for event in reversed(self.events) if (event.what, event.order_id) == (what, order_id))

    def row(self, order_id: str) -> dict[str, str]:
        return next(row for row in self.rows if row["order_id"] == order_id)

    def rules(self) -> set[str]:
        wanted = [(str(line), order_id) for line, order_id in enumerate("ABCDEFGHI", 2)]
        photos = {of: {name: f"{of} {name}" for name in ("face", "back", "hand")} for of in "ABCDEFGHI"}
        run = Run(wanted, photos, self.rows, self.ledger, self.outcomes, self.events, HOST, 3)
        return {violation.rule for violation in check(run, self.memory)}


def test_the_checker_finds_nothing_where_nothing_is_wrong() -> None:
    scene = Scene()
    assert scene.rules() == set()
    assert scene.memory == Memory(known={"A", "B", "H"}, doubtful={"D", "E", "I"})


def _calls(order_id: str, outcome: str, **cells: str) -> Callable[[Scene], None]:
    """Have report and ledger agree on another outcome."""

    def doctor(scene: Scene) -> None:
        scene.row(order_id).update(outcome=outcome, **cells)
        scene.outcomes = [(of, outcome if of == order_id else was) for of, was in scene.outcomes]

    return doctor


def _swaps_in_the_ledger(scene: Scene) -> None:
    scene.ledger[0]["message"] = scene.ledger[3]["message"]


def _says(word: str) -> Callable[[Scene], None]:
    return lambda scene: scene.facts("answer", "A").update(says=word, cut_says=word)


def _misses_plain_answers(scene: Scene) -> None:
    for order_id in "JKLM":
        scene.order(order_id, "unknown", (ACCEPT,), taken=(0,))


BROKEN: dict[str, tuple[str, Callable[[Scene], object]]] = {
    "a row is missing": ("rows", lambda scene: scene.rows.pop(0)),
    "a row stands twice": ("rows", lambda scene: scene.rows.append(scene.rows[0])),
    "a row has another line": ("rows", lambda scene: scene.row("A").update(line="99")),
    "the ledger has another outcome": ("rows", lambda scene: scene.outcomes.__setitem__(0, ("A", "failed"))),
    "another order's answer": ("another's answer", lambda scene: scene.row("A").update(message="B #10-1-1")),
    "another order's answer in the ledger": ("another's answer", _swaps_in_the_ledger),
    "another order's attempt": ("another's answer", lambda scene: scene.row("A").update(message="A #5-1-1")),
    "an answer that was never sent": ("another's answer", lambda scene: scene.row("A").update(message="A #999-1-1")),
    "the second answer": ("another's answer", lambda scene: scene.row("A").update(message="A #0-1-2")),
    "uploaded, refused": ("unsaid", _says(REFUSE)),
    "uploaded, nothing certain": ("unsaid", _says(VAGUE)),
    "uploaded without an answer": ("unsaid", _calls("E", "uploaded")),
    "accepted in the ledger without an answer": ("unsaid", lambda scene: scene.ledger[5].update(verdict="accepted")),
    "rejected without a refusal": ("unsaid", _calls("F", "rejected")),
    "uploaded, and most of the upload never left": (
        "unsaid",
        lambda scene: scene.facts("answer", "A").update(length=9_000_000, whole_body=False),
    ),
    "the status of another answer": ("unsaid", lambda scene: scene.row("A").update(http_status="503")),
    "the code of another answer": ("unsaid", lambda scene: scene.row("C").update(code="200")),
    "taken, and failed": ("lost", _calls("E", "failed")),
    "taken, and deferred": ("lost", _calls("E", "deferred")),
    "taken, and invalid": ("lost", _calls("E", "invalid")),
    "taken, and rejected without a word": ("lost", lambda scene: scene.row("D").update(detail="")),
    "taken by an earlier run, and rejected without a word": ("lost", lambda scene: scene.row("I").update(detail="")),
    "taken by an earlier run, and deferred": ("lost", lambda scene: scene.memory.doubtful.add("G")),
    "skipped, and never uploaded": ("lost", lambda scene: scene.memory.known.clear()),
    "taken, and not in the ledger": ("lost", lambda scene: scene.ledger[1].update(verdict="retry")),
    "uploaded before, and sent": ("sent again", lambda scene: scene.memory.known.add("C")),
    "a photo with other bytes": ("photos", lambda scene: scene.facts("whole", "A")["parts"][1].__setitem__(1, "other")),
    "a field more": ("photos", lambda scene: scene.facts("whole", "A")["parts"].append(["more", ""])),
    "fields in another order": ("photos", lambda scene: scene.facts("whole", "A")["parts"].reverse()),
    "bytes behind the body": ("photos", lambda scene: scene.facts("whole", "A").update(more=True)),
    "another path": ("photos", lambda scene: scene.facts("request", "A").update(line="POST / HTTP/1.1")),
    "another host": ("photos", lambda scene: scene.facts("request", "A")["headers"].update(host="127.0.0.2:1")),
    "a cookie": ("photos", lambda scene: scene.facts("request", "A")["headers"].update(cookie="PHPSESSID=abc")),
    "a header twice": ("photos", lambda scene: scene.facts("request", "A")["twice"].append("host")),
    "another address": ("photos", lambda scene: scene.events.append(Event(0, -1, NO_ORDER, "elsewhere", NO_ORDER, {}))),
    "no order number": ("photos", lambda scene: scene.events.append(Event(0, 1, "1-1", "no order", NO_ORDER, {}))),
    "a connection used again": ("connection", lambda scene: scene.seen("0-2", "A", "", taken=False)),
    "a connection to be kept": ("connection", lambda scene: scene.facts("request", "A")["headers"].pop("connection")),
    "fewer attempts than were seen": ("figures", lambda scene: scene.row("B").update(attempts="1")),
    "more attempts than were seen": ("figures", lambda scene: scene.row("A").update(attempts="2", bytes_sent="2000")),
    "more attempts than are allowed": ("figures", lambda scene: scene.order("J", "failed", (AGAIN,) * 4)),
    "fewer attempts in the ledger": ("figures", lambda scene: scene.ledger.pop()),
    "fewer bytes than came": ("figures", lambda scene: scene.row("F").update(bytes_sent="1999")),
    "more bytes than there are": ("figures", lambda scene: scene.row("F").update(bytes_sent="2001")),
    "plain answers that are missed": ("missed", _misses_plain_answers),
    "a fault of the endpoint": ("endpoint", lambda scene: scene.events.append(Event(0, 1, NO_ORDER, "fault", "", {}))),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_the_checker_finds_each_broken_promise(what: str) -> None:
    rule, doctor = BROKEN[what]
    scene = Scene()
    doctor(scene)
    assert rule in scene.rules()


def test_every_rule_of_the_checker_has_been_seen_to_strike() -> None:
    source = Path(__file__).with_name("raw_check.py").read_text()
    named = {part.split('"')[0] for part in source.split('Violation("')[1:]}
    assert named == {rule for rule, _ in BROKEN.values()}
