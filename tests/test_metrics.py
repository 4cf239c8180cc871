"""Metrics: a file for node_exporter and a port on loopback, as Prometheus' own parser reads them."""

import asyncio
import json
import socket
import stat
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import Shop, batchupload, command, environment, send, settings_for, under_way
from prometheus_client.parser import text_string_to_metric_families

from batchupload.metrics_out import MetricsError
from batchupload.sandbox import Sandbox, SandboxOptions, parse_fault

Figures = dict[tuple[str, ...], float]


def figures(text: str) -> Figures:
    """Name and values of the labels → value."""
    found: Figures = {}
    for family in text_string_to_metric_families(text):
        assert family.name.startswith("batchupload_")
        assert family.documentation
        assert family.type in {"counter", "gauge", "histogram"}  # the text format knows no info
        for sample in family.samples:
            key = (sample.name.removeprefix("batchupload_"), *sample.labels.values())
            assert key not in found
            found[key] = sample.value
    return found


async def run(shop: Shop, *words: str, faults: tuple[str, ...] = (), code: int = 0) -> str:
    async with Sandbox(SandboxOptions(tuple(map(parse_fault, faults)))) as server:
        env = {
            "BATCHUPLOAD_ENDPOINT_URL": server.url,
            "BATCHUPLOAD_METRICS_TEXTFILE": "night.prom",
            "BATCHUPLOAD_RETRY_BASE": "0.01",
        }
        done = await asyncio.to_thread(batchupload, "run", "orders.csv", "--json", *words, cwd=shop.folder, env=env)
    assert done.returncode == code, done.stderr
    return done.stderr


async def test_the_file_holds_what_the_run_came_to_and_when_the_last_good_one_was(shop: Shop) -> None:
    orders = shop.orders(5)
    shop.manifest()
    began = time.time()
    await run(shop, faults=("http_503@HT000001:1",))
    text = (shop.folder / "night.prom").read_text()
    good = figures(text)
    assert stat.S_IMODE((shop.folder / "night.prom").stat().st_mode) == 0o644
    assert not any(word in text for word in (*orders, "orders.csv", ".jpg"))
    assert good["rows", "uploaded", "accepted"] == 5
    assert (good["rows", "failed", ""], good["rows_planned",], good["rows_remaining",]) == (0, 5, 0)
    assert (good["attempts_total", "accepted"], good["attempts_total", "retry"]) == (5, 1)
    assert good["attempt_duration_seconds_count",] == good["attempt_duration_seconds_bucket", "+Inf"] == 6
    assert good["sent_bytes_total",] > 5000
    assert good["run_info", "1", "0.1.0"] == 1 or good["run_info", "0.1.0", "1"] == 1
    assert good["run_exit_code",] == 0
    assert began - 1 <= good["run_start_timestamp_seconds",] <= good["run_end_timestamp_seconds",] <= time.time()
    assert good["last_success_timestamp_seconds",] == good["last_finished_timestamp_seconds",]
    assert not list(shop.folder.glob("*.new"))
    shop.order("HT900000")
    shop.manifest()
    await run(shop, faults=("refused@HT900000",), code=1)
    bad = figures((shop.folder / "night.prom").read_text())
    assert (bad["run_exit_code",], bad["rows", "rejected", "endpoint_refused"]) == (1, 1)
    assert int(bad["last_success_timestamp_seconds",]) == int(good["last_success_timestamp_seconds",])
    assert bad["last_finished_timestamp_seconds",] == bad["run_end_timestamp_seconds",]


async def test_the_port_has_them_on_loopback_while_the_run_goes_on(shop: Shop) -> None:
    shop.orders(300)
    shop.manifest()
    port = free_port()
    async with Sandbox(SandboxOptions(latency=0.2)) as server:
        words = command("run", "orders.csv", "--concurrency", "2", "--canary", "0", "--endpoint", server.url)
        env = environment({"BATCHUPLOAD_METRICS_PORT": str(port)})
        async with under_way(words, shop.folder, env, lambda: len(server.accepted) > 3) as process:
            now = figures(await asyncio.to_thread(scrape, port))
            process.terminate()
            await process.communicate()
    assert now["attempts_total", "accepted"] >= 3
    assert (now["sends_limit",], now["state", "going"], now["state", "down"]) == (2, 1, 0)
    assert now["rows_remaining",] == now["rows_planned",] - now["rows", "uploaded", "accepted"]
    assert ("run_exit_code",) not in now
    assert process.returncode == 143
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 5)


async def test_a_port_that_is_taken_is_exit_2_and_nothing_is_sent(shop: Shop) -> None:
    shop.orders(1)
    shop.manifest()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        async with Sandbox() as server:
            env = {"BATCHUPLOAD_METRICS_PORT": str(port)}
            done = await asyncio.to_thread(
                batchupload, "run", "orders.csv", "--endpoint", server.url, cwd=shop.folder, env=env
            )
            assert server.stats()["requests"] == 0
    assert done.returncode == 2
    assert f"metrics.port: 127.0.0.1:{port} can't be listened on (" in done.stderr
    assert not list(shop.folder.glob("*report*"))
    assert not (shop.folder / "batchupload.db").exists()


async def test_without_the_package_the_run_says_how_to_get_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.orders(1)
    monkeypatch.setattr("batchupload.metrics_out.find_spec", lambda _: None)
    async with Sandbox() as server:
        settings = settings_for(server.url, metrics={"textfile": shop.folder / "night.prom"})
        with pytest.raises(MetricsError, match=r"pip install 'batchupload\[metrics\]'"):
            await send(shop.manifest(), settings)
        assert server.stats()["requests"] == 0


async def test_a_file_that_can_not_be_written_is_a_warning_and_no_more(shop: Shop) -> None:
    shop.orders(1)
    shop.manifest()
    (shop.folder / "night.prom").mkdir()
    said = await run(shop)
    assert said.count("night.prom: the metrics can't be written (Is a directory). The run goes on without.") == 1


@pytest.mark.parametrize(
    ("name", "said"), [("nowhere/night.prom", "nowhere is no folder"), ("night.txt", "ends with .prom")]
)
def test_a_file_that_nobody_would_read_is_exit_2(shop: Shop, name: str, said: str) -> None:
    shop.orders(1)
    shop.manifest()
    env = {"BATCHUPLOAD_METRICS_TEXTFILE": name}
    done = batchupload("run", "orders.csv", "--endpoint", "http://127.0.0.1:9/", cwd=shop.folder, env=env)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_check_leaves_the_figures_of_the_last_run(shop: Shop) -> None:
    shop.orders(1)
    shop.manifest()
    (shop.folder / "config.yaml").write_text("metrics: {textfile: night.prom}")
    (shop.folder / "night.prom").write_text("as it was")
    done = batchupload("check", "orders.csv", "--json", cwd=shop.folder)
    assert json.loads(done.stdout)["exit_code"] == 0
    assert (shop.folder / "night.prom").read_text() == "as it was"


def test_a_relative_path_in_the_config_starts_from_its_folder(shop: Shop, tmp_path: Path) -> None:
    shop.orders(1)
    shop.manifest()
    (tmp_path / "config.yaml").write_text("metrics: {textfile: absent/night.prom}")
    words = ("run", "orders.csv", "--config", tmp_path / "config.yaml", "--endpoint", "http://127.0.0.1:9/")
    done = batchupload(*words, cwd=shop.folder)
    assert f"metrics.textfile: {tmp_path}/absent is no folder." in done.stderr


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return str(answer.read().decode())
