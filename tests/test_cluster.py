"""A run on a Dask cluster keeps every promise that it keeps on one machine: real processes, real losses."""

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from conftest import Shop, batchupload, command, environment, outcomes, read_report, under_way

import batchupload as package
from batchupload.sandbox import Sandbox, SandboxOptions
from batchupload.workers.words import LEASE_SECONDS

pytest.importorskip("distributed", reason="the extra is not installed: pip install 'batchupload[cluster]'")

from cluster_losses import WAYS, run_with_loss
from clusters import Cluster, cluster

SECRET = "token-5f1e7c"
SHIFTED = "import time; _now = time.time; time.time = lambda: _now() + 3600\n"
UNMOUNTED = (
    "import os; _access = os.access; os.access = lambda path, *rest: 'shop' not in str(path) and _access(path, *rest)\n"
)


def tls_words(folder: Path) -> list[str]:
    return ["--tls-ca-file", f"{folder}/ca.pem", "--tls-cert", f"{folder}/cert.pem", "--tls-key", f"{folder}/key.pem"]


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    if not shutil.which("openssl"):
        pytest.skip("no openssl here")
    folder = tmp_path / "tls"
    script = Path(__file__).parent.parent / "deploy/cluster/certificates"
    subprocess.run(["sh", str(script), str(folder)], check=True, capture_output=True, timeout=60)
    return folder


async def run(shop: Shop, *words: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return await asyncio.to_thread(
        batchupload, "run", "orders.csv", "--report", "report.csv", "--canary", "0", *words, cwd=shop.folder, env=env
    )


async def joined(workers: Cluster, count: int) -> None:
    """Until the scheduler has so many workers."""
    async with asyncio.timeout(60):
        while (workers.folder / "worker.log").read_text().count("Registered to") < count:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("way", WAYS)
async def test_a_loss_sends_again_only_what_was_in_flight(way: str, tmp_path: Path) -> None:
    await run_with_loss(tmp_path, way, 250, random.Random(way))


async def test_orders_and_secrets_do_not_go_through_the_scheduler(shop: Shop, tmp_path: Path) -> None:
    orders = shop.orders(30)
    shop.manifest()
    async with Sandbox() as server, cluster(tmp_path / "cluster") as workers:
        await joined(workers, 2)
        done = await run(
            shop, "-v", "--endpoint", server.url, "--cluster", workers.address,
            BATCHUPLOAD_ENDPOINT_MORE_FIELDS=f"{{key: {SECRET}}}",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(" joins") == 2
    assert set(server.accepted) == set(orders)
    seen = bytes(workers.wire.passed + workers.worker_wire.passed)
    for word in (*orders, SECRET, str(server.port), "face.jpg", str(shop.folder)):
        assert word.encode() not in seen, word


async def test_a_cluster_is_reached_by_tls_and_only_with_its_certificates(
    shop: Shop, tmp_path: Path, certificates: Path
) -> None:
    orders = shop.orders(5)
    shop.manifest()
    files = {f"BATCHUPLOAD_CLUSTER_{name.upper()}": f"{certificates}/{name}.pem" for name in ("ca", "cert", "key")}
    async with (
        Sandbox() as server,
        cluster(tmp_path / "cluster", 1, scheme="tls", words=tls_words(certificates)) as workers,
    ):
        words = ["--endpoint", server.url, "--cluster", workers.address]
        mixed = {**files, "BATCHUPLOAD_CLUSTER_KEY": f"{certificates}/ca.key"}
        refused = await run(shop, *words, **mixed)
        done = await run(shop, *words, **files)
    assert refused.returncode == 2
    assert "cluster.ca, cluster.cert or cluster.key can't be used" in refused.stderr
    assert done.returncode == 0, done.stderr
    assert set(server.accepted) == set(orders)


def shim(folder: Path, name: str, text: str) -> dict[str, str]:
    """The environment of a worker that is not as it should be."""
    folder.mkdir(parents=True)
    (folder / name).write_text(text)
    return {"PYTHONPATH": str(folder)}


def another_version(folder: Path) -> dict[str, str]:
    source = Path(package.__file__).parent
    shutil.copytree(source, folder / "batchupload", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "batchupload/__init__.py").write_text('__version__ = "0.0.9"\n')
    return {"PYTHONPATH": str(folder)}


async def test_workers_that_can_not_do_it_are_refused_before_the_first_send(shop: Shop, tmp_path: Path) -> None:
    shop.orders(20)
    shop.manifest()
    unfit = {
        "No module named": shim(tmp_path / "old/batchupload", "__init__.py", "")
        | {"PYTHONPATH": str(tmp_path / "old")},
        "it has batchupload 0.0.9": another_version(tmp_path / "other"),
        "its clock is 3600 s from": shim(tmp_path / "clock", "sitecustomize.py", SHIFTED),
        f"it can't read the photos below {shop.folder}": shim(tmp_path / "photos", "sitecustomize.py", UNMOUNTED),
    }
    async with Sandbox() as server, cluster(tmp_path / "cluster", 0) as workers:
        for env in unfit.values():
            await workers.add(env=env)
        await joined(workers, len(unfit))
        words = ["--endpoint", server.url, "--cluster", workers.address]
        refused = await run(shop, *words, BATCHUPLOAD_CLUSTER_PATIENCE="5")
        assert refused.returncode == 2
        for told in unfit:
            assert refused.stderr.count(told) == 2, refused.stderr  # as it is found, and at the end
        assert server.stats()["requests"] == 0
        assert not (shop.folder / "report.csv").exists()
        joining = asyncio.create_task(run(shop, *words))
        await workers.add()  # one that can, and that joins in mid-run
        done = await joining
    assert done.returncode == 0, done.stderr
    assert {row["outcome"] for row in read_report(shop.folder / "report.csv")} == {"uploaded"}


async def test_without_any_worker_left_the_rest_is_deferred(shop: Shop, tmp_path: Path) -> None:
    shop.orders(200)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.1)) as server, cluster(tmp_path / "cluster", 1) as workers:
        await joined(workers, 1)
        running = asyncio.create_task(
            run(
                shop, "--endpoint", server.url, "--cluster", workers.address, "--concurrency", "4",
                BATCHUPLOAD_CLUSTER_PATIENCE="8",
            )
        )  # fmt: skip
        async with asyncio.timeout(60):
            while len(server.accepted) < 20:
                await asyncio.sleep(0.02)
        workers.workers[0].kill()
        done = await running
    assert done.returncode == 3, done.stderr
    report = read_report(shop.folder / "report.csv")
    assert len(report) == 200
    assert ("deferred", "workers_lost") in outcomes(report).values()
    assert {row["outcome"] for row in report} <= {"uploaded", "unknown", "deferred", "failed"}


@asynccontextmanager
async def local_run(shop: Shop, server: Sandbox) -> AsyncIterator[asyncio.subprocess.Process]:
    """A run with a cluster of its own, in a process group of its own, from its 20th order on; nothing is left of it."""
    words = command("run", "orders.csv", "--report", "report.csv", "--endpoint", server.url, "--cluster", "local:2")
    words = ["setsid", *words, "--concurrency", "8", "--canary", "0"]
    async with under_way(words, shop.folder, environment(), lambda: len(server.accepted) >= 20) as process:
        yield process
        async with asyncio.timeout(30):
            while group_of(process.pid):
                await asyncio.sleep(0.05)


def group_of(group: int) -> list[int]:
    """The processes of the group that are not dead."""
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, its = place.read_text().rpartition(") ")[2].split()[:3]
            if its == str(group) and state != "Z":
                found.append(int(place.parent.name))
    return found


@pytest.mark.skipif(not shutil.which("setsid"), reason="no setsid here")
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)],
    ids=["term", "ctrl-c", "kill"],
)
async def test_a_cluster_of_its_own_drains_and_leaves_no_process(shop: Shop, number: int, code: int) -> None:
    shop.orders(300)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.1)) as server:
        async with local_run(shop, server) as process:
            if number == signal.SIGINT:
                os.killpg(process.pid, number)  # as the terminal does, to all of them
            else:
                process.send_signal(number)
            _, told = await asyncio.wait_for(process.communicate(), 40)
            assert process.returncode == code, told.decode()
        report = read_report(shop.folder / "report.csv")
        if number != signal.SIGKILL:
            assert len(report) == 300
            ended = outcomes(report)
            assert set(ended.values()) == {("uploaded", "accepted"), ("deferred", "stopped")}
            assert {order for order, (outcome, _) in ended.items() if outcome == "uploaded"} == set(server.accepted)
        assert int(str(server.stats()["max_concurrent"])) <= 8


@pytest.mark.skipif(not shutil.which("setsid"), reason="no setsid here")
@pytest.mark.parametrize("who", ["all", "its_workers"])
async def test_after_a_pause_longer_than_the_lease_the_workers_are_back_and_all_is_uploaded(
    shop: Shop, who: str
) -> None:
    orders = shop.orders(150)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.1)) as server, local_run(shop, server) as process:
        paused = group_of(process.pid)
        if who == "its_workers":
            paused.remove(process.pid)
        for pid in paused:
            os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(LEASE_SECONDS + 3)
        finally:
            for pid in paused:
                os.kill(pid, signal.SIGCONT)
        _, told = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, told.decode()
    report = outcomes(read_report(shop.folder / "report.csv"))
    assert report == dict.fromkeys(orders, ("uploaded", "accepted"))
    assert int(str(server.stats()["requests"])) <= len(orders) + 8  # what was under way may be sent again
    assert int(str(server.stats()["max_concurrent"])) <= 8


@pytest.mark.parametrize(
    ("words", "env", "told"),
    [
        (["--cluster", "scheduler"], {}, "--cluster: cluster.address: give tcp://HOST:PORT or tls://HOST:PORT"),
        (["--cluster", "tls://127.0.0.1:1"], {}, "tls:// needs cluster.ca, cluster.cert and cluster.key"),
        (["--cluster", "tcp://127.0.0.1:1"], {}, "tcp://127.0.0.1:1: no scheduler answers there"),
        (["--cluster", "local:2"], {"PYTHONPATH": "lacking"}, "--cluster needs: pip install 'batchupload[cluster]'"),
    ],
    ids=["address", "certificates", "nobody", "extra"],
)
def test_a_cluster_that_can_not_be_had_is_told_and_nothing_sent(
    shop: Shop, words: list[str], env: dict[str, str], told: str
) -> None:
    shop.orders(1)
    shop.write("lacking/distributed.py", b"raise ImportError\n")
    shop.manifest()
    url = "http://127.0.0.1:1/getimg"
    began = time.monotonic()
    done = batchupload("run", "orders.csv", "--endpoint", url, *words, cwd=shop.folder, env=env)
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert time.monotonic() - began < 50
    assert not list(shop.folder.glob("*.report-*"))


def test_nothing_of_dask_is_loaded_for_a_run_on_one_machine() -> None:
    code = (
        "import sys, batchupload.job, batchupload.cli; sys.exit('distributed' in sys.modules or 'dask' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
