"""A message → those who are to be told, by Apprise: in bounded time, and without showing a secret."""

import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchupload.awake import AwakeClock
from batchupload.language import N_, _
from batchupload.model import BatchuploadError
from batchupload.notice import Notice
from batchupload.signals import answered

if TYPE_CHECKING:
    from apprise import Apprise

    from batchupload.settings import NotifySettings

SECONDS = 20.0
"""For all messages of a run together, a second try included; what takes longer is given up."""
A_WHILE = 1.0
"""Seconds after which a person is told what is waited for."""
LOOK_AGAIN = 0.1
"""Seconds after which it is looked whether a signal has come."""
RETRIES, RETRY_WAIT = 1, 2.0
MISSING = N_("notify.urls: this needs Apprise. Install it: pip install 'batchupload[notify]'")
TALKATIVE = ("apprise", "urllib3", "requests")
"""Loggers that name addresses, keys included."""
_VARIABLE = re.compile(r"\$\{([^{}]*)\}")
_SCHEME = re.compile(r"([A-Za-z0-9]{2,20})://")


class NotifyError(BatchuploadError):
    """Nobody could be told, as it is configured; the message names key, variable and remedy, and no address."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One who is told."""

    name: str
    """Its place in `notify.urls` and its scheme, such as `notify.urls 2 (dingtalk)`: no secret."""
    service: "Apprise"


def channels(settings: "NotifySettings", environment: Mapping[str, str]) -> Sequence[Channel]:
    """All who are told; none where `notify.when` is `never`. Raises `NotifyError`."""
    if not settings.urls or settings.when == "never":
        return ()
    texts = [
        (place, text)
        for place, url in enumerate(settings.urls, 1)
        for text in resolved(place, url.get_secret_value(), environment)
    ]
    return [_channel(place, text) for place, text in texts]


def resolved(place: int, text: str, environment: Mapping[str, str]) -> Sequence[str]:
    """The addresses that stand at this `place` of `notify.urls`. Raises `NotifyError` where a variable is not set."""
    for name in _VARIABLE.findall(text):
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
            raise NotifyError(
                _("notify.urls {place}: between {braces} belongs the name of a variable.", place=place, braces="${ }")
            )
        if not environment.get(name, "").strip():
            raise NotifyError(
                _(
                    "notify.urls {place}: {name} is not set in the environment. Set it, or take this out.",
                    place=place,
                    name=name,
                )
            )
    return _VARIABLE.sub(lambda found: environment[found[1]].strip(), text).split()


def _channel(place: int, text: str) -> Channel:
    try:
        import apprise
    except ImportError:
        raise NotifyError(_(MISSING)) from None
    _silence()
    scheme = _SCHEME.match(text)
    kind = scheme[1].lower() if scheme else _("no scheme")
    name = f"notify.urls {place} ({kind})"
    asset = apprise.AppriseAsset(
        storage_mode="memory",  # nothing goes to the disk
        service_timeout=SECONDS,
        app_id="batchupload",
        http_redirects=False,
        pgp_autogen=False,
        pem_autogen=False,
        default_service_retry=RETRIES,
        default_service_wait=RETRY_WAIT,
    )
    service = apprise.Apprise(asset=asset)
    try:
        taken = apprise.Apprise.instantiate(text, asset=asset) if scheme else None
    except Exception:  # noqa: BLE001 - whatever it finds wrong, its words may hold the address
        taken = None
    if taken is None:
        raise NotifyError(
            _(
                "{name}: not an address that Apprise takes. "
                "Compare it with https://appriseit.com/services/ for its form.",
                name=name,
            )
        )
    service.add(taken)
    return Channel(name, service)


class Delivery:
    """A message on its way to all `channels`, from now on."""

    def __init__(self, channels: Sequence[Channel], notice: Notice) -> None:
        self._now = AwakeClock()
        self._end = self._now() + SECONDS
        self._left = Counter(channel.name for channel in channels)
        """How many of each name are still under way; one variable may hold several addresses."""
        self._failed: dict[str, str] = {}
        self._changed = threading.Condition()
        self._given_up = False
        for channel in channels:
            threading.Thread(target=self._tell, args=(channel, notice), daemon=True).start()

    def failures(self, waiting: Callable[[], None] = lambda: None) -> Sequence[str]:
        """Wait for the end, at most for the time there is, and say on a line each who was not told.

        `waiting` is called once if that is a while. A signal gives up what is under way, and does nothing else.
        """
        with answered(self._give_up), self._changed:
            if not self._over_by(min(self._now() + A_WHILE, self._end)):
                waiting()
                self._over_by(self._end)
            why = _("given up, as asked") if self._given_up else _("no answer in {patience:g} s", patience=SECONDS)
            late = {name: why for name, count in self._left.items() if count}
            return [
                _("{name}: no message got through: {why}.", name=name, why=why)
                for name, why in {**self._failed, **late}.items()
            ]

    def _over_by(self, end: float) -> bool:
        """Whether all is over before that moment."""
        while not (over := self._given_up or not any(self._left.values())) and self._now() < end:
            self._changed.wait(LOOK_AGAIN)
        return over

    def _tell(self, channel: Channel, notice: Notice) -> None:
        import apprise

        kind = apprise.NotifyType.WARNING if notice.trouble else apprise.NotifyType.SUCCESS
        told = False
        try:
            told = bool(
                channel.service.notify(
                    notice.body, title=notice.title, notify_type=kind, body_format=apprise.NotifyFormat.TEXT
                )
            )
        except Exception:  # noqa: BLE001 - a library's fault in a message must change nothing, nor show its address
            told = False
        finally:
            with self._changed:
                self._left[channel.name] -= 1
                if not told:
                    self._failed[channel.name] = _("it can't be reached, or refused it")
                self._changed.notify_all()

    def _give_up(self, _signal: int) -> None:
        self._given_up = True  # a signal may come just before a wait, so it is looked at, and wakes nobody


def _silence() -> None:
    """Nothing of what the libraries log may be read by anybody, on whatever level the log is."""
    for name in TALKATIVE:
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False
        logger.setLevel(logging.CRITICAL)
