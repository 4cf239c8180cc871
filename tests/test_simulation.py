"""5,000 orders through crashes and reruns in virtual time; `python tests/simulation.py --orders 1000000` by hand."""

import asyncio
import random
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

from simulation import URL, Labelled, ScriptedEndpoint, VirtualLoop, World, rows_of

from batchupload.model import Cause, NoReply, Phase, Reply
from batchupload.settings import Settings


def test_every_invariant_holds_in_five_worlds_of_a_thousand_orders(tmp_path: Path) -> None:
    script = Path(__file__).with_name("simulation.py")
    command = [sys.executable, str(script), "--orders", "5000"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'orders': 5000" in done.stdout


class EndpointWithOutage(ScriptedEndpoint):
    """Takes every order, but for ten minutes refuses connections."""

    async def send(self, body: Labelled) -> Reply | NoReply:
        self.write("send", body.order_id, body.digest)
        await asyncio.sleep(0.3)
        if 60 < asyncio.get_running_loop().time() < 660:
            return NoReply(Phase.CONNECT, Cause.REFUSED)
        body.transfer.bytes_sent = body.transfer.size
        return Reply(200, b'{"code": 200}')


def test_ten_minutes_of_outage_cost_few_sends_and_no_order(tmp_path: Path) -> None:
    world = World(tmp_path, 1, 2000)
    world.settings = Settings.model_validate(
        {"endpoint": {"url": URL}, "photos": {"validate": "off"}, "pace": {"concurrency": 8}}
    )
    with closing(VirtualLoop()) as loop, open(tmp_path / "endpoint.log", "wb") as log:
        endpoint = EndpointWithOutage(random.Random(1), log.fileno(), 1, plain=None, dies_after=-1)
        loop.run_until_complete(world.carry_out(1, endpoint))
        assert loop.time() > 660
    rows = rows_of(tmp_path / "report1.csv")
    assert Counter(row["outcome"] for row in rows).keys() == {"uploaded", "invalid", "duplicate"}
    uploaded = sum(row["outcome"] == "uploaded" for row in rows)
    assert (tmp_path / "endpoint.log").read_bytes().count(b"\n") <= 1.2 * uploaded
