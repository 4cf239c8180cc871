"""The program as a user types it: what it says, where it says it, and its exit codes."""

import asyncio
import csv
import json
import os
import re
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import pytest
from conftest import Shop, batchupload, command, environment, outcomes, read_report

from batchupload import __version__
from batchupload.sandbox import FAULTS, Sandbox, SandboxOptions, parse_fault


def refused(done: "subprocess.CompletedProcess[str]", *words: str) -> None:
    """Exit 2, a message with these words and no traceback, and nothing on standard output."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr


async def beside(server: Sandbox, *arguments: str | Path, cwd: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """The program, while this loop serves the sandbox."""
    return await asyncio.to_thread(
        batchupload, *arguments, cwd=cwd, env={"BATCHUPLOAD_ENDPOINT_URL": server.url, **env}
    )


def test_help_of_every_command(tmp_path: Path) -> None:
    done = batchupload("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "batchupload demo" in done.stdout
    for name in ("run", "check", "scan", "sandbox", "demo", "init"):
        done = batchupload(name, "-h", cwd=tmp_path)
        assert done.returncode == 0
        assert f"Usage: batchupload {name}" in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= 100


def test_version(tmp_path: Path) -> None:
    assert batchupload("--version", cwd=tmp_path).stdout.strip().endswith(__version__)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], ["No manifest named", "batchupload run orders.csv"]),
        (["run", "absent.csv"], ["absent.csv", "no such file"]),
        (["run", "."], ["not a file"]),
        (["rum", "orders.csv"], ["rum"]),
        (["run", "--nope", "orders.csv"], ["--nope"]),
        (["run", "orders.csv", "--only", "failed,lost"], ["lost: no such outcome", "unknown"]),
        (["run", "orders.csv", "--limit", "0"], ["--limit"]),
        (["run", "orders.csv", "--validate", "some"], ["some", "header"]),
        (["run", "orders.csv", "--concurrency", "0"], ["--concurrency", "pace.concurrency"]),
        (["run", "orders.csv", "--endpoint", "ftp://127.0.0.1/"], ["--endpoint", "http"]),
        (["run", "orders.csv", "--endpoint", "http://shop.example/getimg"], ["allow_plaintext"]),
        (["run", "orders.csv", "--encoding", "klingon"], ["no such encoding", "gb18030"]),
        (["run", "orders.csv", "--config", "absent.yaml"], ["absent.yaml", "batchupload init"]),
        (["run", "orders.csv", "--only", "failed"], ["--only needs an earlier report"]),
        (["run", "orders.csv", "--report", "orders.csv"], ["orders.csv", "this file exists"]),
        (["run", "orders.csv", "--report", "no/such/folder/r.csv"], ["can't be written", "--report"]),
        (["sandbox", "--fault", "nope=5%"], ["nope", "http_503"]),
        (["sandbox", "--fault", "http_503=5%5"], ["NAME=5%"]),
        (["sandbox", "--fault", "http_503=80%", "--fault", "html_page=80%"], ["160%"]),
        (["demo", "--orders", "3"], ["--orders"]),
        (["demo", "--folder", "."], ["isn't empty"]),
    ],
)
def test_a_mistake_is_named_and_sends_nothing(shop: Shop, arguments: list[str], words: list[str]) -> None:
    shop.orders(1)
    shop.manifest()
    env = {"BATCHUPLOAD_ENDPOINT_URL": "http://127.0.0.1:9/"} if "--endpoint" not in arguments else {}
    refused(batchupload(*arguments, cwd=shop.folder, env=env), *words)
    assert not list(shop.folder.glob("*.report-*.csv"))


@pytest.mark.parametrize("command", ["run", "check"])
def test_unknown_columns_are_named_with_those_needed(shop: Shop, command: str) -> None:
    shop.write("orders.csv", b"number,front,back\n1,2,3\n")
    refused(
        batchupload(command, "orders.csv", "--endpoint", "http://127.0.0.1:9/", cwd=shop.folder)
        if command == "run"
        else batchupload(command, "orders.csv", cwd=shop.folder),
        "number",
        "front",
        "order_id",
        "hand",
    )


async def test_an_excel_manifest_of_a_chinese_windows_runs_as_it_is(shop: Shop) -> None:
    orders = [shop.order(f"HT202311101504404689{n}") for n in range(3)]
    for order in orders:
        (shop.folder / order).rename(shop.folder / f"客户 {order[-1]}")
        for name, chinese in (("face", "人像"), ("back", "国徽"), ("hand", "免冠")):
            (shop.folder / f"客户 {order[-1]}/{name}.jpg").rename(shop.folder / f"客户 {order[-1]}/{chinese}，正.jpg")
    lines = ["星光订单号,身份证人像面,身份证国徽面,免冠人像照,备注"]
    for order in orders:
        paths = [f"客户 {order[-1]}/{name}，正.jpg" for name in ("人像", "国徽", "免冠")]
        lines.append(",".join([f'"=""{order}"""', *paths, '"加急，""今天"""']))
    (shop.folder / "订单.csv").write_bytes("".join(f"{line}\r\n" for line in lines).encode("gb18030"))
    async with Sandbox() as server:
        done = await beside(server, "run", "订单.csv", cwd=shop.folder)
    assert done.returncode == 0, done.stdout
    assert set(server.accepted) == set(orders)
    report = read_report(next(shop.folder.glob("订单.report-*.csv")))
    assert outcomes(report) == dict.fromkeys(orders, ("uploaded", "accepted"))
    assert {row["备注"] for row in report} == {'加急，"今天"'}


async def test_the_summary_for_machines_is_one_line_on_standard_output(shop: Shop) -> None:
    shop.orders(3)
    shop.order("HT9", hand="absent.jpg")
    shop.order("HT900002", hand="absent.jpg")
    shop.manifest()
    rules = (parse_fault("http_503@HT000001"),)
    async with Sandbox(SandboxOptions(rules)) as server:
        done = await beside(server, "run", "orders.csv", "-q", "--json", cwd=shop.folder, BATCHUPLOAD_RETRY_BASE="0.01")
    told = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert told["exit_code"] == done.returncode == 1
    assert told["rows"] == 5
    assert {name: n for name, n in told["outcomes"].items() if n} == {"uploaded": 2, "invalid": 2, "failed": 1}
    assert told["reasons"]["failed"] == {"unavailable": 1}
    assert told["attempts"] == 2 + 4
    assert Path(told["report"]).exists() or (shop.folder / told["report"]).exists()
    assert told["next_command"].endswith("--only failed,unknown,deferred")


async def test_quiet_says_nothing_and_the_exit_code_all(shop: Shop) -> None:
    shop.orders(2)
    shop.manifest()
    async with Sandbox() as server:
        done = await beside(server, "run", "orders.csv", "-q", cwd=shop.folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_verbose_has_a_line_for_each_row(shop: Shop) -> None:
    orders = shop.orders(5)
    shop.manifest()
    async with Sandbox() as server:
        done = await beside(server, "run", "orders.csv", "-v", cwd=shop.folder)
    for order in orders:
        assert re.search(rf"line \d, {order}: uploaded, accepted", done.stderr)
    assert "utf-8" in done.stderr
    assert ".jpg" not in done.stderr


async def test_the_next_command_sends_what_is_left_and_nothing_else(shop: Shop) -> None:
    shop.orders(4)
    shop.manifest()
    rules = (parse_fault("http_503@HT000001:4"), parse_fault("closed_after_body@HT000002:4"))
    guards = ("--canary", "5", "--max-failures", "3", "--deadline", "1h")
    async with Sandbox(SandboxOptions(rules)) as server:
        done = await asyncio.to_thread(
            batchupload, "run", "orders.csv", "--endpoint", server.url, *guards,
            cwd=shop.folder, env={"BATCHUPLOAD_RETRY_BASE": "0.01"},
        )  # fmt: skip
        assert done.returncode == 1
        words = re.search(r"^Next: +batchupload (.*)$", done.stdout, re.MULTILINE)
        assert words
        assert set(guards) <= set(words[1].split())
        done = await asyncio.to_thread(batchupload, *words[1].split(), cwd=shop.folder)
    assert done.returncode == 0, done.stdout
    assert "all done" in done.stdout
    assert {order: len(taken) for order, taken in server.accepted.items()} == {
        "HT000000": 1, "HT000001": 1, "HT000002": 5, "HT000003": 1,
    }  # fmt: skip


async def test_the_config_names_manifests_endpoint_and_folders(shop: Shop) -> None:
    shop.orders(2)
    (shop.folder / "export").mkdir()
    shop.manifest("export/failed.csv")
    (shop.folder / "reports").mkdir()
    async with Sandbox() as server:
        (shop.folder / "config.yaml").write_text(
            f"endpoint: {{url: '{server.url}'}}\nmanifest: {{paths: [export/failed.csv]}}\n"
            "photos: {root: .}\nreport: {folder: reports}\n"
        )
        for way in ([], ["--force", "--config", "config.yaml"]):
            done = await asyncio.to_thread(batchupload, "run", *way, cwd=shop.folder)
            assert done.returncode == 0, done.stdout + done.stderr
        elsewhere = shop.folder / "export"
        env = {"BATCHUPLOAD_CONFIG": str(shop.folder / "config.yaml")}
        done = await asyncio.to_thread(batchupload, "run", "--force", cwd=elsewhere, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((shop.folder / "reports").glob("*.csv"))) == 3
    assert {len(taken) for taken in server.accepted.values()} == {3}


def test_a_config_with_mistakes_names_each_with_its_line(shop: Shop) -> None:
    shop.orders(1)
    shop.manifest()
    (shop.folder / "config.yaml").write_text("pace:\n  concurrency: many\nretry:\n  atempts: 3\n")
    refused(
        batchupload("run", "orders.csv", cwd=shop.folder),
        "config.yaml, line 2: pace.concurrency",
        "config.yaml, line 4: retry.atempts",
        "Did you mean attempts?",
    )


def test_init_writes_a_config_for_its_owner_and_leaves_an_old_one(tmp_path: Path) -> None:
    done = batchupload("init", cwd=tmp_path)
    assert done.returncode == 0
    assert "Set endpoint.url" in done.stdout
    config = tmp_path / "config.yaml"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    config.write_text("# mine\n")
    refused(batchupload("init", cwd=tmp_path), "config.yaml", "left as it is")
    assert config.read_text() == "# mine\n"
    refused(batchupload("init", "no/such/place.yaml", cwd=tmp_path), "can't be written")


def test_the_written_config_is_taken_as_it_is_but_for_the_plain_address(shop: Shop) -> None:
    shop.orders(1)
    shop.manifest()
    assert batchupload("init", cwd=shop.folder).returncode == 0
    done = batchupload("check", "orders.csv", cwd=shop.folder)
    assert done.returncode == 0, done.stderr
    refused(batchupload("run", "orders.csv", cwd=shop.folder), "config.yaml, line", "endpoint.allow_plaintext: true")


def test_the_demo_needs_nothing_and_shows_every_outcome_but_skipped(tmp_path: Path) -> None:
    done = batchupload("demo", "--folder", "show", "--orders", "60", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in (
        "uploaded",
        "duplicate",
        "invalid",
        "rejected",
        "failed",
        "unknown",
        "Report: show/",
        "Next:   batchupload",
    ):
        assert word in done.stdout
    report = read_report(next((tmp_path / "show").glob("*.report-*.csv")))
    with (tmp_path / "show" / "manifest.csv").open(encoding="utf-8-sig", newline="") as file:
        assert len(report) == sum(1 for _ in csv.reader(file)) - 1


async def test_a_check_sends_nothing_and_finds_all(shop: Shop) -> None:
    shop.orders(2)
    shop.order("HT900001", hand="absent.jpg")
    shop.manifest()
    async with Sandbox() as server:
        for words, env in (
            (["check", "orders.csv"], {}),  # it needs no address
            (["check", "orders.csv"], {"BATCHUPLOAD_ENDPOINT_URL": server.url}),
            (["run", "orders.csv", "--dry-run"], {"BATCHUPLOAD_ENDPOINT_URL": server.url}),
        ):
            done = await asyncio.to_thread(batchupload, *words, cwd=shop.folder, env=env)
            assert done.returncode == 1, done.stderr
            assert "nothing was sent. 1 can't be sent" in done.stdout
            assert "Next:   batchupload run orders.csv" in done.stdout
        assert server.stats()["requests"] == 0


async def test_the_sandbox_serves_until_it_is_stopped_and_tells_what_it_saw(shop: Shop) -> None:
    shop.orders(3)
    shop.manifest()
    process = await asyncio.create_subprocess_exec(
        *command("sandbox", "--port", "0", "--fault", "http_503@HT000001:1", "--latency", "0.01", "--workers", "2"),
        env=environment({"PYTHONUNBUFFERED": "1"}),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    try:
        async with asyncio.timeout(30):
            url = (await process.stdout.readline()).decode().split()[-1]
        done = await asyncio.to_thread(
            batchupload, "run", "orders.csv", "--endpoint", url, cwd=shop.folder, env={"BATCHUPLOAD_RETRY_BASE": "0.01"}
        )
        assert done.returncode == 0, done.stdout
        port = re.search(r":(\d+)/", url)
        assert port
        refused(await asyncio.to_thread(batchupload, "sandbox", "--port", port[1], cwd=shop.folder), port[1], "--port")
    finally:
        process.send_signal(signal.SIGINT)
        out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0
    assert "4 requests, 3 accepted, faults: {'http_503': 1}" in out.decode()


def test_the_faults_are_listed(tmp_path: Path) -> None:
    done = batchupload("sandbox", "--list-faults", cwd=tmp_path)
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(FAULTS)


async def test_where_nobody_watches_plain_lines_tell_how_far_it_is(shop: Shop) -> None:
    shop.orders(40)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.6)) as server:
        done = await beside(server, "run", "orders.csv", "--concurrency", "2", cwd=shop.folder)
    first, *lines = done.stderr.splitlines()
    assert first == "orders.csv: CSV, utf-8, comma; columns by their own names"
    assert lines
    for line in lines:
        assert re.match(r"\d\d:\d\d:\d\d \d+ of 40 rows \(\d+%\), [\d.]+/s, .+ kB/s, \d+ uploaded, ", line)
        assert line.endswith("2 at once (as set)")


@pytest.mark.skipif(
    os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may do all, and can't be kept from it"
)
def test_what_permissions_forbid_is_told(shop: Shop) -> None:
    shop.orders(2)
    shop.manifest()
    (shop.folder / "HT000001/hand.jpg").chmod(0)
    (shop.folder / "reports").mkdir(mode=0o500)
    bounds = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []

    def bounded(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*bounds, *command(*words)], cwd=shop.folder, env=environment(), capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip

    assert bounded("check", "orders.csv", "--report", "report.csv").returncode == 1
    report = read_report(shop.folder / "report.csv")
    assert outcomes(report)["HT000001"] == ("invalid", "photo_unreadable")
    address = ("--endpoint", "http://127.0.0.1:9/")
    refused(bounded("run", "orders.csv", "--report", "reports/r.csv", *address), "can't be written", "--report")


def test_a_closed_pipe_is_no_traceback(shop: Shop) -> None:
    shop.orders(1)
    shop.manifest()
    reading, writing = os.pipe()
    os.close(reading)
    words = command("check", "orders.csv")
    done = subprocess.run(
        words,
        cwd=shop.folder,
        env=environment(),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0
