"""Nothing private leaves: a canary in photos and paths is looked for in everything that a run writes."""

import asyncio
import io
import os
from pathlib import Path

import pytest
from conftest import Shop, batchupload, outcomes, picture, send, send_to_sandbox, settings_for
from PIL import Image

from batchupload.sandbox import Sandbox, SandboxOptions, parse_fault

EXIF_CANARY = "CANARY-440301199001011234"
PATH_CANARY = "canary-photos"
UTF16 = "utf-16-le"


def marked(name: str, order_id: str) -> bytes:
    """A photo with text in its metadata."""
    exif = Image.Exif()
    exif[0x010E] = EXIF_CANARY
    file = io.BytesIO()
    with Image.open(io.BytesIO(picture(name, order_id))) as drawn:
        drawn.save(file, "JPEG", exif=exif.tobytes())
    return file.getvalue()


def pieces(content: bytes) -> list[bytes]:
    """What of a photo would be known again: a stretch of its coded data, also as text."""
    middle = content[len(content) // 2 : len(content) // 2 + 12]
    return [middle, middle.hex().encode(), repr(middle)[2:-1].encode()]


async def test_no_photo_no_metadata_and_no_path_is_in_logs_ledger_or_temporary_files(
    shop: Shop, tmp_path: Path
) -> None:
    contents: list[bytes] = []
    for number in range(12):
        order_id = f"HT{number:06}"
        photos = {name: marked(name, order_id) for name in ("face", "back", "hand")}
        contents += photos.values()
        shop.order(order_id, photos)
    (shop.folder / "spoilt.jpg").write_bytes(contents[0][:-30])
    shop.order("HT900001", hand="spoilt.jpg")
    for row in shop.rows[1:]:
        row[1:] = [f"{PATH_CANARY}/{path}" for path in row[1:]]
    (tmp_path / "work").mkdir()
    shop.folder.rename(tmp_path / "work" / PATH_CANARY)
    manifest = tmp_path / "work" / "orders.csv"
    manifest.write_text("\n".join(",".join(row) for row in shop.rows))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    rules = ("accepted_then_reset=20%", "http_503=10%", "html_page=10%", "php_warning=10%", "reset_in_body=10%")
    async with Sandbox(SandboxOptions(tuple(map(parse_fault, rules)))) as server:
        env = {"TMPDIR": str(temporary), "HOME": str(temporary), "BATCHUPLOAD_RETRY_BASE": "0.01"}
        done = await asyncio.to_thread(
            batchupload, "run", "orders.csv", "-vv", "--endpoint", server.url, "--report", "report.csv",
            cwd=tmp_path / "work", env=env,
        )  # fmt: skip
    assert server.accepted
    assert "Traceback" not in done.stderr
    assert not list(temporary.iterdir())
    private = [
        EXIF_CANARY.encode(),
        EXIF_CANARY.encode(UTF16),
        *(piece for content in contents for piece in pieces(content)),
    ]
    written = [path for path in (tmp_path / "work").iterdir() if path.is_file() and path != manifest]
    assert {"report.csv", "report.html", "batchupload.db", "batchupload.db.lock"} == {path.name for path in written}
    everything = {path.name: path.read_bytes() for path in written} | {"screen": (done.stdout + done.stderr).encode()}
    for name, content in everything.items():
        assert not any(piece in content for piece in private), name
        assert os.stat(tmp_path / "work" / name).st_mode & 0o077 == 0 if name != "screen" else True
    for name in ("screen", "batchupload.db"):
        assert PATH_CANARY.encode() not in everything[name], name


@pytest.mark.parametrize("status", [b"301 Moved", b"302 Found", b"307 Temporary Redirect", b"308 Permanent Redirect"])
async def test_no_other_host_gets_a_byte(shop: Shop, status: bytes) -> None:
    shop.orders(4)
    manifest = shop.manifest()
    heard = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(100))
        writer.close()

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        head = b"HTTP/1.1 %s\r\nLocation: %s/\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        writer.write(head % (status, elsewhere.encode()))
        await writer.drain()
        writer.close()

    async with (
        await asyncio.start_server(listen, "127.0.0.1", 0) as other,
        await asyncio.start_server(redirect, "127.0.0.1", 0) as endpoint,
    ):
        elsewhere, url = (f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in (other, endpoint))
        env = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"), elsewhere)
        done = await asyncio.to_thread(batchupload, "run", manifest, "--endpoint", url, cwd=shop.folder, env=env)
    assert done.returncode == 1
    assert "4  redirected" in done.stdout
    assert heard == []


async def test_where_every_order_is_redirected_the_run_stops_and_no_other_host_gets_a_byte(shop: Shop) -> None:
    orders = shop.orders(60)
    heard, sent = [], []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(100))
        writer.close()

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        sent.append(head)
        writer.write(
            b"HTTP/1.1 307 Moved\r\nConnection: close\r\nLocation: %s/\r\nContent-Length: 0\r\n\r\n"
            % elsewhere.encode()
        )
        await writer.drain()
        writer.close()

    async with (
        await asyncio.start_server(listen, "127.0.0.1", 0) as other,
        await asyncio.start_server(redirect, "127.0.0.1", 0) as endpoint,
    ):
        elsewhere, url = (f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in (other, endpoint))
        summary, report = await send(shop.manifest(), settings_for(url, pace={"concurrency": 4}))
    assert summary.exit_code == 3
    endings = outcomes(report)
    assert sorted(endings) == orders
    failed = [order for order, ending in endings.items() if ending == ("failed", "redirected")]
    assert 5 <= len(failed) <= 5 + 4
    assert len(sent) == len(failed)
    assert {endings[order] for order in set(orders) - set(failed)} == {("deferred", "address_refused")}
    assert heard == []


@pytest.mark.parametrize(
    "name", ['a"b.jpg', "a\r\nX-Injected: 1\r\n.jpg", "照片 📷.jpg", "a;filename=b.jpg", "%0d%0a.jpg"]
)
async def test_the_name_of_a_file_stays_on_this_machine(shop: Shop, name: str) -> None:
    shop.order("HT000001")
    for number, field in enumerate(("face", "back", "hand"), 1):
        path = f"HT000001/{field}.jpg"
        (shop.folder / path).rename(shop.folder / f"HT000001/{field}{name}")
        shop.rows[1][number] = f"HT000001/{field}{name}"
    _, report, server = await send_to_sandbox(shop.manifest())
    assert outcomes(report) == {"HT000001": ("uploaded", "accepted")}
    (kept,) = server.accepted["HT000001"]
    assert {field: photo["filename"] for field, photo in kept.items()} == {
        "face": "face.jpg",
        "back": "back.png",
        "hand": "hand.jpg",
    }
