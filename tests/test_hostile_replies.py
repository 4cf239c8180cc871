"""What comes from outside is read in a time that grows with its length and no faster, and one body has one answer."""

import asyncio
import csv
import gzip
import json
import os
import signal
import time
import zlib
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import Shop, command, environment, outcomes, read_report, send, settings_for, under_way

from batchupload.columns import clean
from batchupload.manifest import open_manifest, read_rows
from batchupload.model import Finding, Reply, Verdict
from batchupload.reasons import Reason
from batchupload.shop_settings import ManifestSettings, ReplyRule
from batchupload.source import ManifestError
from batchupload.verdict import judge, retry_after

NOW = datetime(2026, 1, 2, tzinfo=UTC)
OK = '{"code":200,"msg":"提交成功"}'
NO = '{"code":400,"msg":"no"}'
WARNING = "<br />\n<b>Warning</b>:  x in <b>/a.php</b> on line <b>3</b><br />\n"
LONG = 1 << 20


def finding(body: bytes, rules: Any = (), **more: Any) -> Finding:
    return judge(Reply(200, body, **more), True, [ReplyRule.model_validate(rule) for rule in rules], NOW, 300.0)


# One answer in one body

TWO = [
    NO + OK,
    OK + OK,
    WARNING + NO + OK,
    WARNING + NO + "\n" + OK,
    NO + "\n" + WARNING + OK,
    f"{WARNING}{NO}<br />\n{OK}",
    f"<p>said {NO} before</p>\n{OK}",
    f"{WARNING}[{NO}]\n{OK}",
    f"{WARNING}{NO[:-1]}\n{OK}",
    f"{WARNING}{OK}\n{OK}",
    f"{WARNING}{{'code': 400}}\n{OK}",
    f'{WARNING}{{"msg":"no"}}\n{OK}',
    f'{WARNING}{{"status":"error"}}\n{OK}',
    f'{WARNING}{{"status":"error"\n{OK}',
    f'{WARNING}{{"status"\n{OK}',
    f'{WARNING}{{"code":400,"code":200}}\n{OK}',
    f'{WARNING}{{"code":NaN}}\n{OK}',
    f"{OK}\n{WARNING}{NO}",
    f"x\n{NO}\r\n\r\n{OK}",
    f"{WARNING}" + '{"a":' * 20_000 + f"\n{OK}",
    f"<html>busy</html>HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n{OK}",
    f"HTTP/1.0 200\nX:\n\n{OK}",
]


@pytest.mark.parametrize("body", TWO)
def test_two_answers_in_one_body_are_none(body: str) -> None:
    for encoding in ("utf-8", "utf-8-sig", "gb18030"):
        found = finding(body.encode(encoding))
        assert (found.verdict, found.reason) == (Verdict.AMBIGUOUS, Reason.REPLY_UNREADABLE)


ONE = [
    OK,
    WARNING + OK,
    "\ufeff" + OK,
    "Notice: {closure}() in a.php\n" + OK,
    "<style>p { margin: 0 }</style>\n" * 60 + OK,
    "<script>function(){}</script>\n" + OK,
    f"{WARNING * 60}{OK}",
    "Undefined index: code\n" + OK,
    'Undefined array key "code"\n' + OK,
    OK.replace('"msg"', '"data":{"code":400},"msg"'),
    WARNING + '{"msg":"{\\"code\\":400}","code":200}',
    WARNING + OK + "\r\n \n",
    WARNING + '{\n  "code" : 200\n}',
    f"Warning: file_get_contents(): HTTP request failed! HTTP/1.1 404 Not Found\r\n in x.php on line 5<br />\n{OK}",
]


@pytest.mark.parametrize("body", ONE)
def test_one_answer_is_read_whatever_stands_before_it(body: str) -> None:
    assert finding(body.encode()).verdict is Verdict.ACCEPTED
    if "\ufeff" not in body:
        assert finding(body.encode("gb18030")).verdict is Verdict.ACCEPTED


@pytest.mark.parametrize(
    "behind",
    [gzip.compress(OK.encode(), mtime=0), gzip.compress(b"", mtime=0), b"\0", b"x", OK.encode()],
    ids=["answer", "nothing", "zero", "letter", "text"],
)
def test_bytes_behind_a_packed_answer_leave_it_open(behind: bytes) -> None:
    for first in (NO, OK):
        found = finding(gzip.compress(first.encode()) + behind, content_encoding="gzip")
        assert (found.verdict, found.reason) == (Verdict.AMBIGUOUS, Reason.REPLY_UNREADABLE)
        packed = zlib.compress(first.encode(), wbits=-15) + behind
        assert finding(packed, content_encoding="deflate").verdict is Verdict.AMBIGUOUS
    assert finding(gzip.compress(OK.encode()), content_encoding="gzip").verdict is Verdict.ACCEPTED


# In bounded time


def chain(piece: str) -> bytes:
    return (piece * (LONG // len(piece))).encode()


HOSTILE = {
    "line breaks": chain("\n"),
    "line breaks and a word": chain("\n") + b"x",
    "line breaks behind a word": b"x" + chain("\n") + b"x",
    "spaces and line breaks": b"x" + chain(" \r\n\t") + b"x",
    "tags": chain(">"),
    "tags and braces": chain(">{"),
    "objects begun": chain('\n{"a":'),
    "objects begun, then a list": b'x\n{"a":\n' * 45 + b'{"b":[' + chain("1,"),
    "objects": b"x" + chain('\n{"a":1}'),
    "objects begun on one line": b"x" + chain('{"'),
    "empty objects": b"x" + chain("\n{}"),
    "braces and spaces": b"x\n" + chain("{" + " " * 100),
    "titles begun": chain("<title"),
    "titles begun with a blank": chain("<title "),
    "titles without end": b"<title>" + chain("x"),
    "members": chain('"code" '),
    "a long message": b'{"code":400,"msg":"' + chain(" ") + b'x"}',
    "a message of control characters": b'{"code":400,"msg":"' + chain("\\u0001") + b'x"}',
    "a number": b'{"code":' + chain("1") + b"}",
    "a deep list": chain("["),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_reply_keeps_the_loop_busy(name: str) -> None:
    began = time.process_time()
    for body in (HOSTILE[name], gzip.compress(HOSTILE[name])):
        finding(body, content_encoding="gzip" if body[:2] == b"\x1f\x8b" else "")
    assert time.process_time() - began < 5


@pytest.mark.parametrize("header", ["1" * 8000, " " * 8000, "Fri, " * 1600, "1:" * 4000, "," * 8000, "-" * 8000])
def test_no_header_keeps_the_loop_busy(header: str) -> None:
    began = time.process_time()
    for _ in range(100):
        retry_after(Reply(503, retry_after=header, date=header), NOW, 300.0)
    assert time.process_time() - began < 5


def test_no_pattern_of_the_user_keeps_the_loop_busy() -> None:
    rules = [{"message": pattern, "then": "accept"} for pattern in ("(a+)+$", "(a|aa)+$", "(.*a){20}$")]
    began = time.process_time()
    body = json.dumps({"code": 400, "msg": "a" * 490 + "!"}).encode()
    assert finding(body, rules).verdict is Verdict.REJECTED
    assert time.process_time() - began < 5


CELLS = {
    "spaces within": "a" + " " * 200_000 + "a",
    "line breaks within": "a" + "\n" * 200_000 + "a",
    "marks within": "a" + "\u200b" * 200_000 + "a",
    "quotes": '="' * 100_000,
    "apostrophes": "'" * 200_000,
}


@pytest.mark.parametrize("name", CELLS)
def test_no_cell_keeps_a_reader_busy(tmp_path: Path, name: str) -> None:
    cell = CELLS[name]
    manifest = tmp_path / "orders.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["order_id", "face", "back", "hand"], [cell, *"fbh"], ["HT1", cell, *"bh"]])
    settings = ManifestSettings(order_id_pattern="(a+ ?)+")
    began = time.process_time()
    clean(cell)
    assert len(list(read_rows(open_manifest(manifest, settings), settings))) >= 2
    assert time.process_time() - began < 5


@pytest.mark.parametrize("header", ["a," * 60_000, "x" * 200_000 + ",note", "," * 60_000 + "a", "\u200b" * 200_000])
def test_no_header_line_keeps_a_reader_busy(tmp_path: Path, header: str) -> None:
    manifest = tmp_path / "orders.csv"
    settings = ManifestSettings(delimiter=",")
    manifest.write_text(f"order_id,face,back,hand,{header}\nHT0001,f,b,h\n", encoding="utf-8")
    began = time.process_time()
    assert open_manifest(manifest, settings)
    assert time.process_time() - began < 10


def test_no_unknown_column_keeps_a_reader_busy(tmp_path: Path) -> None:
    manifest = tmp_path / "orders.csv"
    manifest.write_text(",".join(["ab" * 1200] * 100) + "\nHT0001,f,b,h\n", encoding="utf-8")
    began = time.process_time()
    with pytest.raises(ManifestError, match="missing"):
        open_manifest(manifest, ManifestSettings(delimiter=","))
    assert time.process_time() - began < 5


async def test_a_signal_gets_through_while_hostile_replies_come_in(shop: Shop) -> None:
    shop.orders(400)
    shop.manifest()
    (shop.folder / "batchupload.yaml").write_text("endpoint: {replies: [{message: '(a+)+$', then: retry}]}\n")
    bodies = [
        b"x" + b"\n" * 65_000 + b"x",
        b'{"code":400,"msg":"' + b"a" * 400 + b'!"}',
        b"<title " * 9000,
    ]
    answered = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        with suppress(OSError, EOFError):
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
            body = bodies[answered % len(bodies)]
            answered += 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        words = command("run", "orders.csv", "--endpoint", url, "--canary", "0", "--config", "batchupload.yaml")
        async with under_way(words, shop.folder, environment(), lambda: answered > 20) as process:
            os.kill(process.pid, signal.SIGTERM)
            async with asyncio.timeout(40):
                assert await process.wait() == 143
    report = read_report(next(shop.folder.glob("orders.report-*.csv")))
    assert len(report) == 400


async def test_what_no_pattern_takes_is_rejected_at_once(shop: Shop) -> None:
    orders = shop.orders(20)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError):
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
            body = b'{"code":400,"msg":"' + b"a" * 400 + b'!"}'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        settings = settings_for(url, endpoint={"replies": [{"message": "(a+)+$", "then": "retry"}]}, pace={"canary": 0})
        _, report = await send(shop.manifest(), settings)
    assert outcomes(report) == dict.fromkeys(orders, ("rejected", "endpoint_refused"))
