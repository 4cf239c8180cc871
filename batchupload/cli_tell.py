"""How a run ended → those who are to hear of it; and the command that tries whether they do."""

import csv
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchupload.console import say, tell
from batchupload.language import _
from batchupload.model import BatchuploadError
from batchupload.options import CONFIG, PROFILE, settings_from

if TYPE_CHECKING:
    from batchupload.notice import Notice
    from batchupload.notify import Channel, Delivery
    from batchupload.settings import Settings
    from batchupload.summary import Summary


@dataclass(frozen=True, slots=True)
class Teller:
    """Who is told of a run, and of what."""

    settings: "Settings"
    channels: "Sequence[Channel]" = ()
    """None where nobody is to be told."""

    def ended(self, summary: "Summary") -> "Delivery | None":
        """Begin to tell of a run that has ended, if that is due."""
        from batchupload import notice

        if not self._is_due(summary.exit_code, begun=True):
            return None
        return self._begin(lambda: notice.of_run(summary, self._name(), self._orders(summary)))

    def could_not_begin(self, exit_code: int, meaning: str) -> "Delivery | None":
        """Begin to tell of a run that could not begin, if that is due."""
        from batchupload import notice

        if not self._is_due(exit_code, begun=False):
            return None
        return self._begin(lambda: notice.of_no_run(self._name(), exit_code, meaning))

    def fault(self, exit_code: int, meaning: str) -> "Delivery | None":
        """Begin to tell of a run that a fault of the program itself ended, if that is due."""
        from batchupload import notice

        if not self._is_due(exit_code, begun=True):
            return None
        return self._begin(lambda: notice.of_fault(self._name(), exit_code, meaning))

    def test(self) -> "Delivery | None":
        """Begin to send a message that tells of nothing."""
        from batchupload import notice

        return self._begin(lambda: notice.of_test(self._name()))

    def _is_due(self, exit_code: int, *, begun: bool) -> bool:
        from batchupload.notice import is_due

        attended = sys.stdin is not None and sys.stdin.isatty()
        return bool(self.channels) and is_due(self.settings.notify.when, exit_code, begun=begun, attended=attended)

    def _begin(self, notice: Callable[[], "Notice"]) -> "Delivery | None":
        from batchupload.notify import Delivery

        try:
            return Delivery(self.channels, notice())
        except Exception as error:  # noqa: BLE001 - the run is done, and a fault in telling of it must not say otherwise
            tell(_("Those in notify.urls were not told: {what}.", what=type(error).__name__))
            return None

    def _orders(self, summary: "Summary") -> Sequence[str]:
        from batchupload import notice

        if not self.settings.notify.orders or not notice.needs_a_person(summary):
            return ()
        try:
            with summary.report.open(encoding="utf-8-sig", errors="replace", newline="") as file:
                return notice.orders_of(csv.DictReader(file), mask=self.settings.log.mask_orders)
        except (OSError, csv.Error):
            return ()

    def _name(self) -> str:
        return self.settings.notify.name or socket.gethostname()


def teller(settings: "Settings", *, sends: bool) -> Teller:
    """Who is told of this run. Raises `NotifyError`, so that a mistake shows before the night and not after it."""
    if not (sends and settings.notify.urls):
        return Teller(settings)
    from batchupload.notify import channels

    return Teller(settings, channels(settings.notify, os.environ))


def see_through(delivery: "Delivery | None") -> Sequence[str]:
    """Wait for a message, in bounded time, and say who was not told."""
    failures = delivery.failures(_waiting) if delivery else ()
    for failure in failures:
        tell(failure)
    return failures


def _waiting() -> None:
    tell(_("Those in notify.urls are being told; Ctrl-C or SIGTERM gives that up."))


@click.command(short_help="Send a test message to those whom a run tells how it ended.")
@CONFIG
@PROFILE
def notify(config: Path | None, profile: str | None) -> int:
    """Send a test message to each of notify.urls, and say who could not be reached. No order and no run is touched.

    Whether it arrived only those can say who should have it: DingTalk and WeCom answer alike where they refuse.

    \b
    Exit codes: 0 all took it, 1 some did not, 2 nobody is to be told, or an address can't be used.
    """
    settings = settings_from({"config": config, "profile": profile}, send=False).settings
    told = teller(settings, sends=True)
    if not told.channels:
        raise BatchuploadError(_("nobody is to be told: notify.urls is empty, or notify.when is never."))
    failures = see_through(told.test())
    failed = [channel.name for channel in told.channels if any(f.startswith(channel.name) for f in failures)]
    reached = [_("{name}: handed over", name=c.name) for c in told.channels if c.name not in failed]
    say("\n".join(reached) or _("Nobody was told."))
    return 1 if failures else 0
