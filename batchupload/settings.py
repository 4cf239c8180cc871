"""The typed model of every setting: its default, what is allowed, and one line on what it does."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PlainValidator, SecretStr, field_validator, model_validator

from batchupload.deadline import seconds_until
from batchupload.language import _
from batchupload.patterns import parse_pattern
from batchupload.shop_settings import EndpointSettings, ManifestSettings, PhotoSettings, Section
from batchupload.timetable import Timetable, bytes_per_second, orders_per_second, timetable


def number_or_share(value: object) -> str | None:
    """Raise a `ValueError` where `value` is neither a number nor a share; YAML reads 5 as a number, 5% as text."""
    if value is None:
        return None
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not re.fullmatch(r"[0-9]{1,9}|[0-9]{1,2}(\.[0-9]+)?%", text):
        raise ValueError(_("give a number such as 100, or a share below 100% such as 5%, not {value!r}", value=value))
    return text


def number_or_auto(value: object) -> Literal["auto"] | int:
    """Raise a `ValueError` where `value` is neither `auto` nor a number of sends at once."""
    if value == "auto":
        return "auto"
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 256:
        return value
    raise ValueError(_("give a number from 1 to 256, or auto, not {value!r}", value=value))


class PaceSettings(Section):
    """How many at once, and when to give up."""

    concurrency: Annotated[Literal["auto"] | int, PlainValidator(number_or_auto)] = Field(
        "auto", description="Sends at once; auto finds what the endpoint can take."
    )
    lowest: Annotated[int, Field(ge=1, le=256)] = Field(1, description="With auto, never fewer at once.")
    highest: Annotated[int, Field(ge=1, le=256)] = Field(64, description="With auto, never more at once.")
    rate: Annotated[Timetable | None, PlainValidator(lambda value: timetable(value, orders_per_second))] = Field(
        None,
        description='Orders a second at most, or off; or by the time of day: {"08:00": 5, "23:00": off}.',
    )
    bandwidth: Annotated[Timetable | None, PlainValidator(lambda value: timetable(value, bytes_per_second))] = Field(
        None,
        description='Bytes a second of all uploads, such as 512K, 1M or off; or {"08:00": 1M, "23:00": off}.',
    )
    canary: Annotated[int, Field(ge=0, le=10_000)] = Field(
        20,
        description="N orders never tried before go first, and the run ends if nearly all meet the same; 0 for none.",
    )
    max_failures: Annotated[str | None, PlainValidator(number_or_share)] = Field(
        None,
        description="The run ends with more failures: a number, or a share (5%) of the rows so far, from the 50th on.",
    )
    stop_after_misaddressed: Annotated[int, Field(ge=1, le=100_000)] = Field(
        5, description="The run ends when its first N orders, or later 4 × N in a row, all find the address wrong."
    )
    probe_after_failures: Annotated[int, Field(ge=1, le=100_000)] = Field(
        10,
        description="After N attempts in a row neither accepted nor refused, or 3 slow ones, one order probes it.",
    )
    patience_at_start: Annotated[float, Field(ge=0, le=86400)] = Field(
        60.0, description="Seconds of probing after which a run ends where the endpoint never answered."
    )
    patience: Annotated[float, Field(ge=0, le=86400)] = Field(
        900.0, description="Seconds of probing after which a run ends where the endpoint had answered before."
    )
    deadline: str | None = Field(
        None, description="Time of day such as 06:00, or a duration such as 2h30m, by which a run is to end."
    )

    @property
    def bounds(self) -> tuple[int, int]:
        """Fewest and most sends at once."""
        return (self.lowest, self.highest) if self.concurrency == "auto" else (self.concurrency, self.concurrency)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.lowest > self.highest:
            raise ValueError(
                _("lowest ({lowest}) must not be above highest ({highest})", lowest=self.lowest, highest=self.highest)
            )
        if "highest" in self.model_fields_set and isinstance(self.concurrency, int) and self.concurrency > self.highest:
            raise ValueError(
                _(
                    "concurrency ({concurrency}) must not be above highest ({highest})",
                    concurrency=self.concurrency,
                    highest=self.highest,
                )
            )
        return self

    @field_validator("deadline")
    @classmethod
    def _readable(cls, text: str | None) -> str | None:
        if text is not None:
            seconds_until(text, datetime.now(UTC))
        return text


class RetrySettings(Section):
    """When an attempt is made again."""

    attempts: Annotated[int, Field(ge=1, le=100)] = Field(4, description="Sends of one order at most.")
    base: Annotated[float, Field(gt=0, le=3600)] = Field(
        1.0, description="Seconds; the first wait is random between 0 and this, and the limit doubles each time."
    )
    cap: Annotated[float, Field(gt=0, le=3600)] = Field(30.0, description="Seconds; no wait of our own is longer.")
    retry_after_cap: Annotated[float, Field(ge=0, le=86400)] = Field(
        300.0, description="Seconds; a longer Retry-After of the endpoint is cut to this."
    )
    order_limit: Annotated[float, Field(gt=0, le=86400)] = Field(
        1800.0,
        description="Seconds; no attempt of an order begins later than this after its first, wherever it waited.",
    )
    budget: Annotated[float, Field(ge=0, le=10)] = Field(
        0.2, description="Retries as a share of first sends; above it retries wait (a few each second always go)."
    )
    quarantine_after: Annotated[int, Field(ge=0, le=1000)] = Field(
        7, description="Nights running on which an order failed with the same photos, then it is set aside; 0: never."
    )


class TimeoutSettings(Section):
    """The end of every wait, in seconds."""

    connect: Annotated[float, Field(gt=0, le=600)] = Field(10.0, description="Name look-up, TCP and TLS together.")
    progress: Annotated[float, Field(gt=0, le=3600)] = Field(60.0, description="Without progress in the upload.")
    reply: Annotated[float, Field(gt=0, le=3600)] = Field(
        90.0, description="From the end of the upload to the whole answer."
    )
    slowest_link: Annotated[int, Field(ge=1)] = Field(
        16384, description="Bytes/s; a whole attempt may take its size divided by this, plus the waits above."
    )
    photos: Annotated[float, Field(gt=0, le=3600)] = Field(60.0, description="Reading and checking one photo set.")
    drain: Annotated[float, Field(ge=0, le=3600)] = Field(
        30.0, description="After Ctrl-C or SIGTERM, for the orders under way."
    )


class ScanSettings(Section):
    """How photo folders are read."""

    patterns: tuple[str, ...] = Field(
        ("{order_id}/{field}.*", "{order_id}_{field}.*"),
        description="Where photos lie below the folder; {field} is a column's name, .* any extension, */ any folder.",
    )

    @field_validator("patterns", mode="before")
    @classmethod
    def _one_or_more(cls, patterns: object) -> object:
        return (patterns,) if isinstance(patterns, str) else patterns

    @field_validator("patterns")
    @classmethod
    def _readable(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        if not patterns:
            raise ValueError(_("give at least one pattern, such as '{order_id}/{field}.*'"))
        for pattern in patterns:
            parse_pattern(pattern)
        return patterns


class ReportSettings(Section):
    """Where the report goes."""

    folder: Path | None = Field(None, description="Folder of the reports; null is the (first) manifest's own folder.")
    page: bool = Field(True, description="true also writes the report page, NAME.html beside NAME.csv.")


class LedgerSettings(Section):
    """Where the ledger is."""

    path: Path = Field(
        Path("batchupload.db"),
        description="Ledger of what is known as sent; beside this file, without one in the present folder.",
    )


class MetricsSettings(Section):
    """Figures for Prometheus; need `pip install 'batchupload[metrics]'`."""

    textfile: Path | None = Field(
        None, description="File NAME.prom for node_exporter's textfile collector, replaced during a run; mode 0644."
    )
    port: Annotated[int | None, Field(ge=1, le=65535)] = Field(
        None, description="Port on 127.0.0.1 that has them at /metrics while a run goes on."
    )

    @property
    def wanted(self) -> bool:
        """Whether anybody asked for them."""
        return self.textfile is not None or self.port is not None

    @field_validator("textfile")
    @classmethod
    def _is_collected(cls, path: Path | None) -> Path | None:
        if path is not None and path.suffix != ".prom":
            raise ValueError(_("give a name that ends with .prom: node_exporter reads no other"))
        return path


class LogSettings(Section):
    """What log lines show."""

    format: Literal["text", "json"] = Field(
        "text", description="text, or json for one JSON object a line; on standard error."
    )
    mask_orders: bool = Field(False, description="true shows of an order number only its last four characters.")


class NotifySettings(Section):
    """Who is told how a run ended."""

    urls: Annotated[tuple[SecretStr, ...], Field(max_length=20)] = Field(
        (),
        description='Who is told how a run ended, such as ["${DINGTALK_URL}"]: addresses that Apprise takes, each '
        "whole or in part from the environment.",
    )
    when: Literal["trouble", "always", "never"] = Field(
        "trouble", description="trouble tells of each run whose exit code is not 0; always, never."
    )
    orders: bool = Field(
        False,
        description="true also names up to ten orders that need a person, with what the endpoint said; else only "
        "counts leave this machine.",
    )
    name: str | None = Field(None, description="What the message calls this installation; null is the host's name.")

    @field_validator("urls", mode="before")
    @classmethod
    def _one_or_more(cls, urls: object) -> object:
        return tuple(urls.split()) if isinstance(urls, str) else urls

    @field_validator("urls")
    @classmethod
    def _addresses(cls, urls: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for place, url in enumerate(urls, 1):  # none is shown: it may be a secret
            text = url.get_secret_value()
            if not re.search(r"^[A-Za-z0-9]+://\S+$|\$\{", text) or not re.fullmatch(r"\S+", text):
                raise ValueError(
                    _(
                        "address {place} must be of the form scheme://…, or {variable} for one in the environment",
                        place=place,
                        variable="${NAME}",
                    )
                )
        return urls

    @field_validator("name")
    @classmethod
    def _one_line(cls, name: str | None) -> str | None:
        if name is not None and not (name.isprintable() and 0 < len(name.strip()) <= 60):
            raise ValueError(_("give up to 60 characters on one line"))
        return name


class ClusterSettings(Section):
    """The other machines that do the work, if there are any."""

    address: str | None = Field(
        None,
        description="Scheduler of a Dask cluster, such as tls://scheduler:8786, or local:4 for one on this machine.",
    )
    ca: Path | None = Field(None, description="With tls://, the authority whose certificates are trusted (PEM).")
    cert: Path | None = Field(None, description="With tls://, the certificate that this machine shows (PEM).")
    key: Path | None = Field(None, description="With tls://, the key of that certificate (PEM).")
    patience: Annotated[float, Field(ge=0, le=86400)] = Field(
        60.0, description="Seconds for which a run without any worker waits for one to join."
    )
    clock_tolerance: Annotated[float, Field(gt=0, le=3600)] = Field(
        30.0, description="Seconds; a worker whose clock is further from this machine's is refused."
    )

    @property
    def local(self) -> int | None:
        """Workers of a cluster of its own on this machine, where that is wanted."""
        kind, _, count = (self.address or "").partition(":")
        return int(count) if kind == "local" else None

    @property
    def files(self) -> tuple[Path | None, Path | None, Path | None]:
        """Those of TLS: authority, certificate, key."""
        return self.ca, self.cert, self.key

    @field_validator("address")
    @classmethod
    def _reachable(cls, address: str | None) -> str | None:
        if address is None or re.fullmatch(r"local:([1-9]|[1-5][0-9]|6[0-4])", address):
            return address
        if not re.fullmatch(r"(tcp|tls)://([^\s/:\[\]]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}", address):
            raise ValueError(_("give tcp://HOST:PORT or tls://HOST:PORT of the scheduler, or local:1 to local:64"))
        return address

    @model_validator(mode="after")
    def _with_its_files(self) -> Self:
        if (self.address or "").startswith("tls://") and None in self.files:
            raise ValueError(_("tls:// needs cluster.ca, cluster.cert and cluster.key"))
        return self


class Settings(Section):
    """Every setting, checked."""

    endpoint: EndpointSettings = Field(EndpointSettings.model_construct(), description="Where the photos go.")
    manifest: ManifestSettings = Field(ManifestSettings(), description="How manifests are read.")
    scan: ScanSettings = Field(ScanSettings(), description="How `batchupload scan` finds photos.")
    photos: PhotoSettings = Field(PhotoSettings(), description="Which photos are good enough to send.")
    pace: PaceSettings = Field(PaceSettings(), description="How many at once, and when to give up.")
    retry: RetrySettings = Field(RetrySettings(), description="When an attempt is made again.")
    timeouts: TimeoutSettings = Field(TimeoutSettings(), description="The end of every wait, in seconds.")
    ledger: LedgerSettings = Field(LedgerSettings(), description="Where the ledger is.")
    log: LogSettings = Field(LogSettings(), description="What log lines show.")
    metrics: MetricsSettings = Field(
        MetricsSettings(), description="Figures for Prometheus; they need `pip install 'batchupload[metrics]'`."
    )
    report: ReportSettings = Field(ReportSettings(), description="Where the report goes.")
    notify: NotifySettings = Field(NotifySettings(), description="Who is told how a run ended.")
    cluster: ClusterSettings = Field(
        ClusterSettings(), description="The other machines that do the work, if there are any."
    )
