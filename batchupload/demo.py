"""A whole run for show: sample photos and manifest, a sandbox with faults, the report."""

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path

from batchupload.job import Wish, execute, plan
from batchupload.language import _
from batchupload.loop import TellingLoop
from batchupload.model import BatchuploadError, Outcome
from batchupload.samples import Sample, write_corpus
from batchupload.sandbox import Sandbox, SandboxOptions, parse_fault
from batchupload.settings import LedgerSettings, RetrySettings, Settings, TimeoutSettings
from batchupload.shop_settings import EndpointSettings
from batchupload.summary import Summary

LATENCY = 0.03
"""Seconds the sandbox takes for each order, about what a busy shop does."""
RATES = ("http_503=4%", "reset_in_body=3%", "accepted_then_reset=2%", "php_warning=5%", "gbk=5%", "string_code=5%")


def play(folder: Path | None, orders: int, say: Callable[[str], None], width: int) -> int:
    """Run the demo and return the exit code, which is 0 where all went as it should: trouble is part of the show."""
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="batchupload-demo-"))
    else:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BatchuploadError(
                _("{folder}: {why}. Name another with --folder.", folder=folder, why=error.strerror)
            ) from None
        if any(folder.iterdir()):
            raise BatchuploadError(_("{folder}: this folder isn't empty. Name a new one with --folder.", folder=folder))
    say(_("Drawing {orders} sample photos, of nobody, and a manifest with every kind of trouble …", orders=orders * 3))
    manifest, samples = write_corpus(folder, orders)
    say(
        _(
            "Starting a sandbox endpoint on this machine that fails now and then, and sending {orders} rows to it …",
            orders=orders,
        )
    )
    with asyncio.Runner(loop_factory=TellingLoop) as runner:
        summary, url, accepted = runner.run(_run(manifest, samples))
    say(summary.as_text(width))
    say(
        _(
            "\n"
            "The sandbox accepted {accepted} orders and is gone now. Where that is more than "
            "`uploaded`, an answer was\n"
            "lost on its way, and the order is called `unknown`.\n"
            "To go on by hand, start a sandbox in another terminal: batchupload sandbox\n"
            "Then the command above sends what is left, and this one sends all again:\n"
            "  batchupload run {manifest} --endpoint {url}",
            accepted=accepted,
            manifest=manifest,
            url=url,
        )
    )
    return 0 if summary.tally.rows == len(samples) and accepted >= summary.tally.outcomes[Outcome.UPLOADED] else 1


async def _run(manifest: Path, samples: list[Sample]) -> tuple[Summary, str, int]:
    good = [sample.order_id for sample in samples if sample.outcome is Outcome.UPLOADED]
    stubborn = (
        f"refused@{good[-1]}", f"formula@{good[-2]}", f"http_503@{good[-3]}", f"closed_after_body@{good[-4]}",
        f"early_413_closed@{good[-5]}", f"html_page@{good[-6]}", f"retry_after_seconds@{good[-7]}:1",
    )  # fmt: skip
    rules = tuple(parse_fault(rule) for rule in (*stubborn, *RATES))
    async with Sandbox(SandboxOptions(rules, latency=LATENCY, workers=16)) as sandbox:
        settings = Settings(
            endpoint=EndpointSettings(url=sandbox.url),
            retry=RetrySettings(base=0.3, cap=2.0),
            timeouts=TimeoutSettings(reply=5.0, progress=5.0),
            ledger=LedgerSettings(path=manifest.parent / "batchupload.db"),
        )
        by_hand = f"http://127.0.0.1:8000{sandbox.options.path}"
        wish = Wish((manifest,), again=("--endpoint", by_hand))
        summary = await execute(wish, settings, plan(wish, settings))
        return summary, by_hand, len(sandbox.accepted)
