"""Those who are told how a run ended, on loopback; and a program that can talk to nobody else."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GUARD = """
import os, sys
def refuse(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    if host not in (None, "", "127.0.0.1", "::1", "localhost", b"127.0.0.1", os.uname().nodename):
        sys.stderr.write(f"LEFT LOOPBACK {host}\\n")
        sys.stderr.flush()
        raise OSError("no test talks to another machine")
sys.addaudithook(refuse)
"""


def guarded(folder: Path) -> dict[str, str]:
    """Variables with which no program gets off this machine, by whatever library it tries."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(GUARD)
    return {"PYTHONPATH": str(folder), "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1", "HOME": str(folder)}


@dataclass
class Listener:
    """A server that keeps what it is sent."""

    port: int = 0
    heard: list[tuple[str, Any]] = field(default_factory=list)
    """Host and path, and the message."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def messages(self) -> list[Any]:
        return [message for _, message in self.heard]

    def url(self, path: str = "hook", more: str = "") -> str:
        return f"json://127.0.0.1:{self.port}/{path}?retry=0{more}"


async def _request(reader: asyncio.StreamReader) -> tuple[str, str, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in head.split("\r\n")[1:])}
    method, path, _ = head.split(" ", 2)
    return (
        method,
        f"{fields.get('host', '')}{path}" if method != "CONNECT" else path,
        (await reader.readexactly(int(fields.get("content-length", 0)))),
    )


def _answer(status: str, more: str = "") -> bytes:
    body = '{"errcode": 0, "code": 0, "msg": "success"}'
    return f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{more}\r\n{body}".encode()


@asynccontextmanager
async def listening(
    status: str = "200 OK", *, hangs: bool = False, more: str = "", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Listener]:
    """A webhook; with `tls` a proxy, which stands in for whatever host it is to connect to."""
    listener = Listener()
    gone = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            method, where, body = await _request(reader)
            if method == "CONNECT" and tls:
                writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
                await writer.start_tls(tls)
                method, where, body = await _request(reader)
            listener.heard.append((where, json.loads(body)))
            listener.asked.set()
            if hangs:
                await gone.wait()
            writer.write(_answer(status, more))
            await writer.drain()
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    listener.port = server.sockets[0].getsockname()[1]
    try:
        yield listener
    finally:
        gone.set()
        server.close()


@asynccontextmanager
async def mailbox() -> AsyncIterator[Listener]:
    """A mail server that takes everything; `heard` has the recipients and the mail."""
    listener = Listener()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to = ""
        writer.write(b"220 here\r\n")
        while line := (await reader.readline()).decode().strip():
            verb = line[:4].upper()
            if verb == "RCPT":
                to += line
            if verb == "DATA":
                writer.write(b"354 go on\r\n")
                mail = await reader.readuntil(b"\r\n.\r\n")
                listener.heard.append((to, mail))
            writer.write(b"221 bye\r\n" if verb == "QUIT" else b"250 ok\r\n")
            if verb == "QUIT":
                break
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    listener.port = server.sockets[0].getsockname()[1]
    try:
        yield listener
    finally:
        server.close()
