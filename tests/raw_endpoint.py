"""An endpoint on raw sockets that does anything at any moment, by a seed, and writes down all it saw and said.

It shares no code and no idea of HTTP with the program: it reads requests by itself, decides by itself whether it took
an order, and each of its answers names the order and the attempt: `HT000017 #41-1-1` is answer 1 to request 1 of
connection 41. One thread serves each connection.
"""

import contextlib
import hashlib
import itertools
import random
import re
import select
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from raw_answers import ACCEPT, AGAIN, ENDED_BY_CLOSE, HINTS, NOWHERE, OPEN, REFUSE, Answer, Kind, choose_kind, made
from raw_log import NO_ORDER, Log
from raw_plans import PLAIN, Plan, draw_plan

LONGEST = 20.0
"""Seconds for which a connection lives at most."""
RECEIVE_BUFFER = 16 * 1024
"""Bytes; small, so that "in the body" is not after it for the sender."""

ORDER = re.compile(rb'name="order_id"\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]*)\r\n')


class GoneError(Exception):
    """The other side is gone, or this endpoint closed the connection."""


class RawEndpoint:
    """Listens on loopback until the end of its `with` block; `seed` decides what is done to whom.

    `stormy` is the share of orders that never get a plain answer, `calm` the share that get little else.
    `patience` is the client's reply timeout in seconds: some answers come later than that.
    """

    def __init__(
        self, seed: int, patience: float, *, calm: float = 0.4, stormy: float = 0.3, tls: ssl.SSLContext | None = None
    ) -> None:
        self.log = Log()
        self.struck: Counter[str] = Counter()
        self._seed = seed
        self.patience = patience
        self._calm, self._stormy = calm, stormy
        self._tls = tls
        self._attempts: Counter[str] = Counter()
        self._taken: set[str] = set()
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._over = False

    def __enter__(self) -> Self:
        self._listener, self._elsewhere = _listening(), _listening()
        self.port, self.elsewhere = self._listener.getsockname()[1], self._elsewhere.getsockname()[1]
        for listener in (self._listener, self._elsewhere):
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        for listener in (self._listener, self._elsewhere):
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.settle(0.0)

    def settle(self, seconds: float) -> None:
        """Give the connections so long to end by themselves, then end them."""
        until = time.monotonic() + seconds
        while any(thread.is_alive() for thread in self._threads) and time.monotonic() < until:
            time.sleep(0.01)
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(LONGEST)
        self._threads.clear()

    def _accept(self, listener: socket.socket) -> None:
        number = 0
        while not self._over:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            number += 1
            if listener is self._elsewhere:
                self.log.write(-number, NO_ORDER, "elsewhere")
                connection.close()
                continue
            self.log.write(number, NO_ORDER, "opened")
            thread = threading.Thread(target=self._serve, args=(connection, number), daemon=True)
            self._threads = [old for old in self._threads if old.is_alive()]
            self._threads.append(thread)
            thread.start()

    def _serve(self, plain: socket.socket, number: int) -> None:
        chance = random.Random(f"{self._seed} connection {number}")
        connection = plain
        try:
            with self._lock:
                self._open.add(plain)
            if chance.random() < 0.02:
                self.struck["before the first byte"] += 1
                Request(self, plain, number, 0).strike_unread(chance)
            if self._tls:
                plain.settimeout(5)
                connection = self._tls.wrap_socket(plain, server_side=True, suppress_ragged_eofs=True)
                with self._lock:
                    self._open = (self._open - {plain}) | {connection}
            for count in range(1, 1000):
                request = Request(self, connection, number, count)
                request.head(chance)
                request.body()
        except (GoneError, OSError) as error:
            self.log.write(number, NO_ORDER, "ended", why=str(error) or type(error).__name__)
        except Exception as error:
            self.log.write(number, NO_ORDER, "fault", why=repr(error))
            raise
        finally:
            with self._lock:
                self._open.discard(connection)
                self._open.discard(plain)
            connection.close()

    def plan(self, order_id: str) -> tuple[Plan, random.Random]:
        """What is done to the next request of this order."""
        with self._lock:
            self._attempts[order_id] += 1
            number, taken = self._attempts[order_id], order_id in self._taken
        mood = random.Random(f"{self._seed} order {order_id}").random()
        chance = random.Random(f"{self._seed} order {order_id} {number}")
        plain = 0.9 if mood < self._calm else 0.0 if mood < self._calm + self._stormy else 0.3
        return draw_plan(chance, plain, self.patience, grudging=taken and chance.random() < 0.5), chance

    def take(self, order_id: str) -> None:
        """The order is taken, whatever is said of it."""
        with self._lock:
            self._taken.add(order_id)


@dataclass
class Request:
    """One request of a connection, read by hand."""

    endpoint: RawEndpoint
    socket: socket.socket
    connection: int
    count: int
    order_id: str = NO_ORDER
    received: bytes = b""
    read: int = 0
    """Bytes of the body read so far."""
    length: int = 0
    answers: int = 0
    whole: bool = False
    shared: bool = False
    """Whether the second answer belongs to the body of the first."""

    @property
    def attempt(self) -> str:
        return f"{self.connection}-{self.count}"

    def write(self, what: str, **facts: Any) -> None:
        self.endpoint.log.write(
            self.connection, self.attempt, what, self.order_id, read=self.read, length=self.length, **facts
        )

    def strike_unread(self, chance: random.Random) -> None:
        """Close, reset, wait or answer before the order is known: such an answer names none."""
        act = chance.choice(("close", "reset", "wait", "answer", "answer"))
        time.sleep(chance.choice((0, 0, 0.01, 1.3 * self.endpoint.patience)))
        if act == "answer":
            kind = choose_kind(chance, chance.choice((AGAIN, REFUSE, NOWHERE)))
            self._say(self._made(kind, "length", chance))
        if act != "wait":
            self._end("reset" if act == "reset" else "close")

    def head(self, chance: random.Random) -> None:
        """Read the head, or strike in the middle of it."""
        strike = chance.randrange(1, 200) if self.count == 1 and chance.random() < 0.02 else 1 << 30
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._receive(min(512, strike))
            if len(data) >= strike:
                self.endpoint.struck["in the head"] += 1
                self.strike_unread(chance)
                strike = 1 << 30
            if len(data) > 16_384:
                raise GoneError("the head has no end")
        head, _, rest = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        values = dict(headers)
        self.length = int(values.get("content-length", -1))
        self._boundary = re.sub(r'^.*boundary="?([^";]+)"?.*$', r"\1", values.get("content-type", "")).encode()
        self.received, self.read = rest, len(rest)
        twice = [name for name, count in Counter(name for name, _ in headers).items() if count > 1]
        kept = {
            name: values[name] for name in ("host", "cookie", "authorization", "connection", "expect") if name in values
        }
        self.write("request", line=first, twice=twice, headers=kept)

    def body(self) -> None:
        """Read the body as the plan has it, and do what the plan says."""
        while not (found := ORDER.search(self.received)) and self.read < self.length:
            self._take_in(min(512, self.length - self.read))
        if not found:
            self.write("no order")
            raise GoneError("a body without order number")
        self.order_id = found[1].decode("utf-8", "replace")
        self.write("order known")
        plan, chance = self.endpoint.plan(self.order_id)
        early = plan.strike != "at the end"
        share = plan.share if plan.strike == "in the body" else 0
        self._read_on(self.read + int(share * (self.length - self.read - 1)) if early else self.length)
        self.endpoint.struck[f"{plan.strike}: {plan.act}" + (f" {plan.delivery}" if plan.act == "answer" else "")] += 1
        first = self._first_answer(plan, chance) if plan.act == "answer" else None
        if self.whole:
            self._take(plan.takes or (first is not None and first.says == ACCEPT), first)
        time.sleep(plan.idle)
        if first:
            self._answer(plan, first, chance)
        else:
            self._act(plan)
        if early and not plan.reads_on:
            time.sleep(plan.gap)
            self._end("close")
        if early:
            self._read_on(self.length)
            self._take(plan.takes, first)
        self._finish(plan)

    def _act(self, plan: Plan) -> None:
        """Do something else than answer."""
        patience = self.endpoint.patience
        match plan.act:
            case "shut for writing" | "shut for reading":
                how = socket.SHUT_WR if plan.act == "shut for writing" else socket.SHUT_RD
                socket.socket.shutdown(self.socket, how)
                self.write(plan.act)
            case "say nothing":
                time.sleep(1.3 * patience)
            case "hint without end":
                for _ in range(int(2 * patience / 0.01)):
                    self._send(HINTS)
                    time.sleep(0.01)
            case _:
                self._end(plan.act)

    def _first_answer(self, plan: Plan, chance: random.Random) -> Answer:
        first = self._made(plan.kind, plan.framing, chance)
        if plan.both_in_one_body or plan.delivery == "half":
            return Answer(first.cut_says, first.cut_says, first.status, "", first.content)
        return first

    def _take(self, wanted: bool, said: Answer | None = None) -> None:
        """Take the order, unless what is said of it, whole or in part, rules that out."""
        if wanted and (said is None or {said.says, said.cut_says} <= OPEN):
            self.endpoint.take(self.order_id)
            self.write("taken")

    def _answer(self, plan: Plan, first: Answer, chance: random.Random) -> None:
        content, self.shared = first.content, plan.both_in_one_body
        if plan.interim:
            self._send(plan.interim)
        if plan.delivery in {"late", "too late"}:
            time.sleep(self.endpoint.patience * (0.5 if plan.delivery == "late" else 1.3))
        by_close = plan.framing in ENDED_BY_CLOSE
        if plan.delivery == "half":
            self._say(first, content[: chance.randrange(1, len(content))], complete=False)
            time.sleep(plan.gap)
            self._end(chance.choice(("close", "reset")))
        if plan.delivery == "twice":
            second = self._made(plan.second, "length", chance, 2)
            self._say(first, content + second.content, complete=not by_close)
        elif plan.delivery in {"in pieces", "in drops"}:
            drops = plan.delivery == "in drops"
            cuts = range(1, 300) if drops else sorted(chance.randrange(len(content)) for _ in range(3))
            gap = 0.005 if drops else plan.gap if plan.idle else min(plan.gap, 0.02)
            self._say(first, b"", complete=False)
            for start, end in itertools.pairwise([0, *cuts, len(content)]):
                self._send(content[start:end])
                time.sleep(gap)
            self.write("completed", says=first.says)
        else:
            self._say(first, plain=plan.delivery == PLAIN)
        if plan.delivery == "again later":
            time.sleep(plan.gap)
            self._say(self._made(plan.second, "length", chance, 2))
        if by_close:
            self._end("reset" if plan.end == "reset" else "close")

    def _finish(self, plan: Plan) -> None:
        if plan.end == "half-close":
            socket.socket.shutdown(self.socket, socket.SHUT_WR)
            self.write("shut for writing")
        elif plan.end != "keep":
            self._end(plan.end)

    def _made(self, kind: Kind, framing: str, chance: random.Random, index: int = 1) -> Answer:
        message = f"{self.order_id} #{self.attempt}-{index} {'提交成功' if kind.says == ACCEPT else '请重试'}"
        return made(kind, framing, message, self.endpoint.elsewhere, chance)

    def _say(self, answer: Answer, content: bytes | None = None, *, complete: bool = True, plain: bool = False) -> None:
        """Send an answer and write down what it says; before it is sent, since the client may act on it at once."""
        self.answers += 1
        self.write(
            "answer", index=self.answers, says=answer.says if complete else answer.cut_says, cut_says=answer.cut_says,
            status=answer.status, code=answer.code, whole_body=self.whole, plain=plain, shared=self.shared,
        )  # fmt: skip
        self._send(answer.content if content is None else content)

    def _send(self, content: bytes) -> None:
        try:
            self.socket.settimeout(5)
            self.socket.sendall(content)
        except OSError as error:
            self.write("not sent", why=str(error))
            raise GoneError(str(error)) from None

    def _receive(self, most: int) -> bytes:
        self.socket.settimeout(LONGEST)
        try:
            data = self.socket.recv(most)
        except OSError:
            data = b""
        if not data:
            if self.length:
                self.write("gone")
            raise GoneError("gone")
        return data

    def _take_in(self, most: int) -> None:
        data = self._receive(most)
        self.received += data
        self.read += len(data)

    def _read_on(self, until: int) -> None:
        parts = [self.received]
        while self.read < until:
            data = self._receive(min(65_536, until - self.read))
            parts.append(data)
            self.read += len(data)
        self.received = b"".join(parts)
        if self.read >= self.length and not self.whole:
            self.whole = True
            more = len(self.received) > self.length or self._has_more()
            self.write("whole", parts=list(_parts(self.received, self._boundary)), more=more)

    def _has_more(self) -> bool:
        """Whether the client sent anything behind the body, before any answer."""
        if self.answers or isinstance(self.socket, ssl.SSLSocket) or not select.select([self.socket], [], [], 0)[0]:
            return False
        with contextlib.suppress(OSError):
            return bool(self.socket.recv(1, socket.MSG_PEEK))
        return False

    def _end(self, how: str) -> None:
        self.write(how)
        if how == "reset":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            with contextlib.suppress(OSError):  # in good order, also if there is something unread
                socket.socket.shutdown(self.socket, socket.SHUT_WR)
        self.socket.close()
        raise GoneError(how)


def _parts(body: bytes, boundary: bytes) -> Iterator[tuple[str, str]]:
    """Name and SHA-256 of each part of a multipart body; what is not framed as it should be gets the name `?`."""
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary)
    if not boundary or pieces[0] or not pieces[-1].startswith(b"--\r\n"):
        yield "?", "the frame"
    for piece in pieces[1:-1]:
        head, _, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = re.search(rb'; name="([^"]*)"', head)
        yield name[1].decode() if name else "?", hashlib.sha256(content).hexdigest()


def _listening() -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    return listener
