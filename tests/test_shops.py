"""Other shops of the same system: other names, fields, photos and rules, all in the config, several shops in one."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from conftest import Shop, batchupload, command, environment, outcomes, picture, read_report, send, settings_for

from batchupload.config import ConfigError, load
from batchupload.sandbox import Sandbox, SandboxOptions

UPLOADED = ("uploaded", "accepted")


def with_fourth(shop: Shop, *orders: str, column: str = "custom") -> Path:
    """A manifest with a fourth photo for these orders."""
    shop.rows[0].append(column)
    for row in shop.rows[1:]:
        row.append(f"{row[0]}/more.jpg" if row[0] in orders else "")
        if row[-1]:
            (shop.folder / row[-1]).write_bytes(picture("more", row[0]))
    return shop.manifest()


@pytest.mark.parametrize("column", ["custom", "第四张照片"])
async def test_a_fourth_photo_is_sent_where_the_manifest_has_one(shop: Shop, column: str) -> None:
    one, two = shop.orders(2)
    manifest = with_fourth(shop, one, column=column)
    async with Sandbox() as server:
        settings = settings_for(server.url, manifest={"optional": ["custom"]})
        _, report = await send(manifest, settings)
    assert outcomes(report) == {one: UPLOADED, two: UPLOADED}
    assert list(server.accepted[one][0]) == ["face", "back", "hand", "custom"]
    assert list(server.accepted[two][0]) == ["face", "back", "hand"]
    assert {row["order_id"]: row["custom"] for row in report} == {one: f"{one}/more.jpg", two: ""}


async def test_a_report_with_a_fourth_photo_is_a_manifest_again(shop: Shop) -> None:
    one, two = shop.orders(2)
    manifest = with_fourth(shop, one, two, column="附加照片")
    settings = settings_for("http://127.0.0.1:9/", manifest={"optional": ["custom"]}, retry={"attempts": 1})
    first, report = await send(manifest, settings)
    assert {row["outcome"] for row in report} == {"failed"}
    async with Sandbox() as server:
        again = settings_for(server.url, manifest={"optional": ["custom"]})
        _, report = await send(first.report, again, only=frozenset({"failed"}))
    assert outcomes(report) == {one: UPLOADED, two: UPLOADED}
    assert all("custom" in kept[0] for kept in server.accepted.values())


async def test_the_fourth_photo_may_be_required_and_the_third_not_taken(shop: Shop) -> None:
    one, two = shop.orders(2)
    manifest = with_fourth(shop, one)
    async with Sandbox(SandboxOptions(photo_fields=frozenset({"face", "back", "custom"}))) as server:
        settings = settings_for(server.url, manifest={"required": ["face", "back", "custom"]})
        _, report = await send(manifest, settings)
    assert outcomes(report) == {one: UPLOADED, two: ("invalid", "missing_cell")}
    assert list(server.accepted[one][0]) == ["face", "back", "custom"]


async def test_without_being_asked_for_a_fourth_column_is_the_users_own(shop: Shop) -> None:
    one, _ = shop.orders(2)
    manifest = with_fourth(shop, one)
    async with Sandbox() as server:
        _, report = await send(manifest, settings_for(server.url))
    assert list(server.accepted[one][0]) == ["face", "back", "hand"]
    assert [row["custom"] for row in report if row["order_id"] == one] == [f"{one}/more.jpg"]


@asynccontextmanager
async def server_that_keeps(bodies: list[bytes]) -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        bodies.append(await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])))
        writer.write(b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 12\r\n\r\n{"code":200}')
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def test_fields_have_the_shops_names_and_more_of_them_go_along(shop: Shop) -> None:
    shop.order("HT000001")
    bodies: list[bytes] = []
    async with server_that_keeps(bodies) as url:
        endpoint = {
            "fields": {"order_id": "sn", "face": "img[0]", "back": "img[1]", "hand": "img[2]"},
            "more_fields": {"source": "补传", "agent": "7"},
        }
        _, report = await send(shop.manifest(), settings_for(url, endpoint=endpoint))
    assert outcomes(report) == {"HT000001": UPLOADED}
    (body,) = bodies
    boundary = body.split(b"\r\n")[0]
    parts = [part.strip(b"\r\n").split(b"\r\n\r\n", 1) for part in body.split(boundary)[1:-1]]
    heads = [head.decode() for head, _ in parts]
    assert [head.split('name="')[1].split('"')[0] for head in heads] == [
        "sn", "source", "agent", "img[0]", "img[1]", "img[2]",
    ]  # fmt: skip
    assert [value.decode() for _, value in parts[:3]] == ["HT000001", "补传", "7"]


CONFIG = """
endpoint: {url: http://127.0.0.1:1/, fields: {order_id: order_id}}
manifest: {paths: [orders.csv]}
profiles:
  one: {endpoint: {url: "URL1"}}
  two:
    endpoint: {url: "URL2", fields: {order_id: sn}}
    report: {folder: two}
"""


async def test_two_shops_in_one_config_know_nothing_of_each_others_uploads(shop: Shop) -> None:
    orders = shop.orders(3)
    shop.manifest()
    (shop.folder / "two").mkdir()
    other = SandboxOptions(order_id_field="sn")
    async with Sandbox() as server, Sandbox(other) as second:
        text = CONFIG.replace("URL1", server.url).replace("URL2", second.url)
        (shop.folder / "config.yaml").write_text(text)

        async def run(*words: str) -> "subprocess.CompletedProcess[str]":
            return await asyncio.to_thread(batchupload, *words, cwd=shop.folder)

        done = await run("run", "--profile", "one", "--report", "1.csv")
        assert done.returncode == 0, done.stderr
        assert (sorted(server.accepted), sorted(second.accepted)) == (orders, [])
        done = await run("run", "--profile", "two")
        assert done.returncode == 0, done.stderr
        assert sorted(second.accepted) == orders
        (report,) = (shop.folder / "two").glob("*.csv")
        assert outcomes(read_report(report)) == dict.fromkeys(orders, UPLOADED)
        done = await run("run", "--profile", "one", "--report", "2.csv")
        assert outcomes(read_report(shop.folder / "2.csv")) == dict.fromkeys(orders, ("skipped", "already_uploaded"))
        assert {path.name for path in shop.folder.glob("*.db")} == {"batchupload-one.db", "batchupload-two.db"}
        done = await run("history", "--profile", "two")
        assert len(done.stdout.splitlines()) == 1
        (shop.folder / "HT000009").mkdir()
        done = await run("check", "--profile", "two")
        assert "batchupload run" in done.stdout
        assert "--profile two" in done.stdout


@pytest.mark.parametrize(
    ("text", "profile", "message"),
    [
        ("profiles: {a: {}}", "b", "has no such profile. It has: a."),
        ("", "b", "has no such profile. It has: none."),
        ("profiles: [a]", None, "profiles: give `name: settings` lines below it"),
        ("profiles: {a: 3}", None, "profiles.a: give `key: value` lines below it"),
        ("profiles: {a/b: {}}", None, "a profile's name has 1 to 32 letters"),
        ("profiles:\n  a:\n    pace: {concurrency: 0}", "a", "line 3: pace.concurrency: give a number from 1 to 256"),
        ("manifest: {optional: [face]}", None, "face stands twice in required and optional"),
        ("manifest: {required: []}", None, "required must name a photo"),
        ("manifest: {required: [foot]}", None, "manifest.required.0"),
        ("endpoint: {more_fields: {face: x}}", None, "endpoint.more_fields: fields has 'face' too"),
        ("endpoint: {more_fields: {a b: x}}", None, "a field name has 1 to 64 ASCII letters"),
        ('endpoint: {more_fields: {a: "x\\r\\ny"}}', None, "must be one line of plain text"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, profile: str | None, message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, {}, {}, send=False, profile=profile)
    assert message in str(caught.value)


def test_a_profile_needs_a_config_that_has_it() -> None:
    with pytest.raises(ConfigError, match="there is no config file that has it"):
        load(None, {}, {}, send=False, profile="a")


async def test_the_sandbox_stands_in_for_another_shop(shop: Shop) -> None:
    orders = shop.orders(2)
    shop.manifest()
    (shop.folder / "config.yaml").write_text(
        "profiles: {other: {endpoint: {url: https://shop.example/up, fields: {order_id: sn}}}}"
    )
    words = command("sandbox", "--port", "0", "-c", "config.yaml", "--profile", "other")
    server = subprocess.Popen(words, cwd=shop.folder, env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        url = (await asyncio.to_thread(server.stdout.readline)).split()[-1]
        assert url.endswith("/up")
        words = ["run", "orders.csv", "--profile", "other", "--endpoint", url, "--report", "r.csv"]
        done = await asyncio.to_thread(batchupload, *words, cwd=shop.folder)
    finally:
        server.terminate()
        server.communicate()
    assert done.returncode == 0, done.stderr
    assert outcomes(read_report(shop.folder / "r.csv")) == dict.fromkeys(orders, UPLOADED)


async def test_a_scan_looks_for_the_photos_that_the_shop_takes(shop: Shop) -> None:
    for order, fields in (("HT000001", ("face", "back")), ("HT000002", ("face", "back", "custom"))):
        for name in fields:
            shop.write(f"photos/{order}/{name}.jpg", picture(name, order))
    (shop.folder / "config.yaml").write_text("manifest: {required: [face, back], optional: [hand, custom]}")
    done = await asyncio.to_thread(batchupload, "scan", "photos", cwd=shop.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    async with Sandbox(SandboxOptions(photo_fields=frozenset({"face", "back"}))) as server:
        words = ("run", "photos.csv", "--endpoint", server.url)
        done = await asyncio.to_thread(batchupload, *words, cwd=shop.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {order: [*kept[0]] for order, kept in server.accepted.items()} == {
        "HT000001": ["face", "back"],
        "HT000002": ["face", "back", "custom"],
    }


@pytest.mark.parametrize(("repair", "code"), [("[heic]", 0), ("[]", 1)])
def test_a_scan_takes_what_a_run_repairs(shop: Shop, repair: str, code: int) -> None:
    for name in ("face", "back", "hand"):
        shop.write(f"photos/HT000001/{name}.heic", b"x")
    (shop.folder / "config.yaml").write_text(f"photos: {{repair: {repair}}}")
    done = batchupload("scan", "photos", cwd=shop.folder)
    assert done.returncode == code, done.stdout + done.stderr
    assert (shop.folder / "photos.csv").exists() is (code == 0)
