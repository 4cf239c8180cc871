"""What stands between a connection and aiohttp, by itself: one answer is handed on, to its end and no further."""

import asyncio
import errno
import select
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from batchupload.connection import (
    DISCARD,
    DISCARDS,
    HEAD_BYTES,
    INTERIM_LIMIT,
    UNSENT,
    Listener,
    _socket,
    _socket_to_here,
)


class Behind(asyncio.Protocol):
    """As aiohttp's: closes the connection as soon as its answer is over."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.pieces: list[bytes] = []
        self.told: list[object] = []
        self.transport: Transport | None = None

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)
        if self.transport and b"".join(self.pieces).endswith(self.answer):
            self.transport.closing = True

    def eof_received(self) -> bool:
        self.told.append("eof")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append(exc)

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")


class Transport(asyncio.Transport):
    """A connection that is only looked at."""

    def __init__(self, behind: asyncio.BaseProtocol, sock: socket.socket | None = None, waiting: int = 0) -> None:
        super().__init__({"socket": sock})
        self.behind = behind
        self.closing = self.aborted = False
        self.waiting = waiting

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.behind

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def abort(self) -> None:
        self.closing = self.aborted = True


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection, the first ours; the other takes little before it is read."""
    with socket.socket() as listening, socket.socket() as ours:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        ours.connect(listening.getsockname())
        ours.setblocking(False)
        theirs, _ = listening.accept()
        with theirs:
            yield ours, theirs


def listening(answer: bytes, sock: socket.socket, waiting: int = 0) -> tuple[Listener, Behind, Transport]:
    behind = Behind(answer)
    transport = Transport(behind, sock, waiting)
    behind.transport = transport
    listener = Listener(transport)
    listener.handed_over = lambda: True
    return listener, behind, transport


BODY = b'{"code":400}\r\n\r\n.'
HEAD = b"HTTP/1.1 200 OK\r\nA: b\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n11\r\n" + BODY + b"\r\n0\r\n\r\n"
ANSWERS = {
    "its length said": HEAD + b"content-LENGTH: \t17 \r\n\r\n" + BODY,
    "nothing in it": HEAD + b"Content-Length: 0\r\n\r\n",
    "in chunks": CHUNKED,
    "in chunks, and a length that counts for nothing": CHUNKED.replace(b"A: b", b"Content-Length: 3"),
    "a status of its own": b"HTTP/1.1 101 Switching\r\n\r\n",
}
BEHIND = b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n" + b'{"code":200}'


@pytest.mark.parametrize("before", [b"", b"\r\n\n\r\n", INTERIM, b"\r\n" + INTERIM + b"\r\n" + INTERIM])
@pytest.mark.parametrize("name", ANSWERS)
def test_one_answer_is_handed_on_in_whatever_pieces_it_comes(
    pair: tuple[socket.socket, socket.socket], name: str, before: bytes
) -> None:
    answer = ANSWERS[name]
    whole = before + answer + BEHIND
    ways = [[whole[at : at + 1] for at in range(len(whole))], [whole]]
    ways += [[whole[:at], whole[at:]] for at in range(1, len(whole))]
    ways += [[whole[:at], whole[at : at + 2], whole[at + 2 :]] for at in range(1, len(whole))]
    for pieces in ways:
        listener, behind, _ = listening(answer, pair[0])
        for piece in pieces:
            listener.data_received(piece)
        assert b"".join(behind.pieces) == INTERIM * before.count(INTERIM) + answer
        assert not listener.early
        listener.let_go()


@pytest.mark.parametrize("name", ["its length said", "in chunks"])
def test_a_connection_that_aiohttp_keeps_open_hands_on_no_more_than_a_piece_at_a_time(
    pair: tuple[socket.socket, socket.socket], name: str
) -> None:
    """Each blank line may be the end of an answer in chunks; that of one with a length is known."""
    listener, behind, _ = listening(b"never", pair[0])
    listener.data_received(ANSWERS[name] + b"more")
    assert any(b"".join(behind.pieces[:n]) == ANSWERS[name] for n in range(len(behind.pieces) + 1))
    assert b"".join(behind.pieces) == ANSWERS[name] + (b"more" if name == "in chunks" else b"")


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_early_if_the_request_was_not_out_when_it_began(
    pair: tuple[socket.socket, socket.socket], name: str
) -> None:
    answer, ours = ANSWERS[name], pair[0]
    out = [False]
    for at in (1, 5, len(answer) - 1):
        listener, _, _ = listening(answer, ours)
        listener.handed_over = lambda: out[0]
        out[0] = False
        listener.data_received(b"\r\n" + answer[:at])
        out[0] = True  # too late: it began before
        listener.data_received(answer[at:])
        assert listener.early
        out[0] = False
        listener, _, _ = listening(answer, ours)
        listener.handed_over = lambda: out[0]
        listener.data_received(b"\r\n" + INTERIM + b"\r\n")
        out[0] = True  # an interim response is no answer
        listener.data_received(answer[:at])
        out[0] = False
        listener.data_received(answer[at:])
        assert not listener.early
    listener = Listener(Transport(Behind(answer), ours))  # nothing of the request is known yet
    listener.data_received(answer)
    assert listener.early
    listener, _, _ = listening(answer, ours, waiting=1)
    listener.data_received(answer)
    assert listener.early


def test_an_answer_is_early_while_the_other_side_has_not_taken_all(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    while select.select([], [ours], [], 0)[1]:
        ours.send(bytes(65536))
    listener, _, _ = listening(BODY, ours)
    listener.data_received(ANSWERS["its length said"])
    assert listener.early


def test_nobody_has_more_interim_responses_than_the_limit(pair: tuple[socket.socket, socket.socket]) -> None:
    listener, behind, transport = listening(b"never", pair[0])
    listener.data_received(INTERIM * INTERIM_LIMIT)
    assert not transport.aborted
    listener.data_received(INTERIM + INTERIM)
    assert transport.aborted
    assert b"".join(behind.pieces) == INTERIM * (INTERIM_LIMIT + 1)


def test_a_head_without_end_is_not_kept(pair: tuple[socket.socket, socket.socket]) -> None:
    listener, behind, _ = listening(b"never", pair[0])
    for _ in range(HEAD_BYTES // 65536):
        listener.data_received(b"x" * 65536)
        assert listener._head
    listener.data_received(b"x")
    assert listener._head is None
    listener.data_received(b"\r\n\r\nmore")
    assert b"".join(behind.pieces) == b"x" * (HEAD_BYTES + 1) + b"\r\n\r\nmore"


@pytest.mark.parametrize("told", [None, ConnectionResetError()])
def test_what_else_befalls_the_connection_is_told(
    pair: tuple[socket.socket, socket.socket], told: Exception | None
) -> None:
    listener, behind, _ = listening(b"", pair[0])
    listener.pause_writing()
    listener.resume_writing()
    assert listener.eof_received() is True
    listener.connection_lost(told)
    assert behind.told == ["pause", "resume", "eof", told]
    with pytest.raises(TypeError):
        Listener(Transport(asyncio.BaseProtocol()))


# Who closes first

CLOSES = {
    "said": ANSWERS["its length said"].replace(b"A: b", b"CONNECTION:\tclose "),
    "by its version": ANSWERS["its length said"].replace(b"HTTP/1.1", b"HTTP/1.0"),
}


def is_open(theirs: socket.socket) -> bool:
    """Whether nobody has closed the other end of the connection."""
    return not select.select([theirs], [], [], 0.2)[0]


@pytest.mark.parametrize("name", CLOSES)
async def test_the_server_has_time_to_close_if_it_said_that_it_will(
    pair: tuple[socket.socket, socket.socket], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchupload.connection.CLOSE_SECONDS", 300.0)
    ours, theirs = pair
    listener, _, _ = listening(CLOSES[name], ours)
    listener.data_received(CLOSES[name])
    ours.close()  # as aiohttp does
    closing = asyncio.ensure_future(listener.let_server_close())
    await asyncio.sleep(0.05)
    assert not closing.done()
    assert is_open(theirs)
    theirs.send(b"more")
    await asyncio.sleep(0.05)
    assert not closing.done()
    theirs.close()
    await asyncio.wait_for(closing, 30)
    assert listener._kept is None


async def test_a_server_that_does_not_close_or_says_ever_more_is_not_waited_for(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pair
    monkeypatch.setattr("batchupload.connection.CLOSE_SECONDS", 0.1)
    listener, _, _ = listening(CLOSES["said"], ours)
    listener.data_received(CLOSES["said"])
    ours.close()
    await asyncio.wait_for(listener.let_server_close(), 30)
    assert not is_open(theirs)
    await listener.let_server_close()  # and again: nothing is left to do


async def test_what_comes_behind_an_answer_is_read_for_so_long_only(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchupload.connection.CLOSE_SECONDS", 300.0)
    ours, _ = pair
    listener, _, _ = listening(CLOSES["said"], ours)
    listener.data_received(CLOSES["said"])
    asked: list[int] = []

    async def more(sock: socket.socket, size: int) -> bytes:
        asked.append(size)
        return b"x"

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_recv", more)
    await asyncio.wait_for(listener.let_server_close(), 30)
    assert asked == [DISCARD] * DISCARDS
    assert listener._kept is None


async def test_a_connection_that_breaks_meanwhile_is_closed_without_a_word(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, _, _ = listening(CLOSES["said"], pair[0])
    listener.data_received(CLOSES["said"])

    async def reset(*_: object) -> bytes:
        raise ConnectionResetError

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_recv", reset)
    await listener.let_server_close()
    assert listener._kept is None


def test_a_connection_that_stays_open_or_can_not_be_kept_is_let_go(pair: tuple[socket.socket, socket.socket]) -> None:
    listener, _, _ = listening(ANSWERS["its length said"], pair[0])
    listener.data_received(ANSWERS["its length said"])
    assert listener._kept is None
    pair[0].close()
    listener, behind, _ = listening(CLOSES["said"], pair[0])
    listener.handed_over = lambda: False
    listener.data_received(CLOSES["said"])  # its socket can't be had any more
    assert listener._kept is None
    assert b"".join(behind.pieces) == CLOSES["said"]


async def test_what_has_come_is_read_before_more_is_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    loop = asyncio.get_running_loop()
    listener, behind, transport = listening(BODY, ours)
    loop.add_reader(ours, lambda: listener.data_received(ours.recv(65536)))
    try:
        await listener.catch_up()
        assert behind.pieces == []
        theirs.send(ANSWERS["its length said"])
        await asyncio.to_thread(select.select, [ours], [], [], 30)
        await listener.catch_up()
        assert b"".join(behind.pieces) == ANSWERS["its length said"]
        transport.closing = True
        await listener.catch_up()
    finally:
        loop.remove_reader(ours)


# The socket


def test_a_connection_holds_little_back_unsent() -> None:
    for family in (socket.AF_INET, socket.AF_INET6):
        with _socket((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ())) as made:
            assert (made.family, made.type, made.proto) == (family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            assert made.getblocking() is False
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT


@pytest.mark.parametrize("place", [("192.0.2.1", 80), ("::ffff:192.0.2.1", 80, 0, 0), ("name", 80), "path"])
def test_a_connection_to_another_machine_is_refused_where_only_this_one_is_allowed(place: Any) -> None:
    kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
    for here in (("127.0.0.1", 80), ("127.9.9.9", 80), ("::1", 80, 0, 0)):
        _socket_to_here((*kind, here)).close()
    with pytest.raises(PermissionError, match="allow_plaintext") as refused:
        _socket_to_here((*kind, place))
    assert refused.value.errno == errno.EACCES
