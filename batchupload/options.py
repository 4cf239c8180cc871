"""The options of `run` and `check`, and the settings they stand for."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from batchupload.language import _
from batchupload.model import Outcome

if TYPE_CHECKING:
    from batchupload.config import Option
    from batchupload.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_CONFIG = Path("config.yaml")

# Option → the setting it stands for; stronger than environment and config file.
SETTING_OF = {
    "concurrency": "pace.concurrency",
    "validate": "photos.validate",
    "endpoint": "endpoint.url",
    "photos_root": "photos.root",
    "encoding": "manifest.encoding",
    "delimiter": "manifest.delimiter",
    "sheet": "manifest.sheet",
    "rate": "pace.rate",
    "bandwidth": "pace.bandwidth",
    "deadline": "pace.deadline",
    "canary": "pace.canary",
    "max_failures": "pace.max_failures",
    "quarantine_after": "retry.quarantine_after",
    "pattern": "scan.patterns",
    "log_format": "log.format",
    "notify": "notify.when",
    "cluster": "cluster.address",
}
OF_THESE_MANIFESTS = frozenset({"encoding", "delimiter", "sheet"})
"""Options that say how manifests are to be read; a report needs none of them."""
SETS_ASIDE = frozenset({"quarantine_after"})
"""Options that say which orders are set aside."""
NOT_REPEATED = frozenset({"pattern", "log_format"})
"""Options that a command which goes on from here doesn't need."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the options of a command come to."""

    settings: "Settings"
    again: tuple[str, ...]
    """Options to repeat in a command that goes on from here."""
    reading: tuple[str, ...]
    """Those that say how these manifests are to be read."""
    standing: tuple[str, ...]
    """Those that say which orders are set aside."""


class Delimiter(click.ParamType[str]):
    """A separator of columns, or the word for it."""

    name = "comma|semicolon|tab"
    _words = {"comma": ",", "semicolon": ";", "tab": "\t"}  # noqa: RUF012 (never changed)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what is none."""
        if value not in {*self._words, *self._words.values()}:
            self.fail(_("{value!r}: give comma, semicolon or tab.", value=value), param, ctx)
        return self._words.get(value, str(value))


class Outcomes(click.ParamType[frozenset[str]]):
    """A list of outcomes, separated by commas."""

    name = "OUTCOME,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> frozenset[str]:
        """Refuse what is no outcome."""
        wanted = value if isinstance(value, frozenset) else frozenset(part.strip() for part in value.split(","))
        if wrong := wanted - {outcome.value for outcome in Outcome}:
            self.fail(
                _(
                    "{wrong}: no such outcome. There are: {outcomes}.",
                    wrong=", ".join(sorted(wrong)),
                    outcomes=", ".join(Outcome),
                ),
                param,
                ctx,
            )
        return wanted


def options_of(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


CONFIG = click.option(
    "-c", "--config", type=click.Path(path_type=Path), help="Config file [./config.yaml, if there is one]."
)
PROFILE = click.option("--profile", metavar="NAME", help="Shop of the config's profiles.")

QUARANTINE = click.option(
    "--quarantine-after", type=int, metavar="N", help="Set aside what failed on N nights running [7]; 0: don't."
)

JOB_OPTIONS = options_of(
    click.argument("manifests", nargs=-1, type=click.Path(path_type=Path)),
    CONFIG,
    PROFILE,
    click.option("--only", type=Outcomes(), help="Of an earlier report, take the rows with these outcomes."),
    click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Take the first N rows."),
    click.option(
        "--report", type=click.Path(path_type=Path), help="Report file, new, or a folder [beside the manifest]."
    ),
    click.option(
        "--validate", type=click.Choice(["off", "header", "full"]), help="How closely photos are looked at [full]."
    ),
    click.option("--photos-root", type=click.Path(path_type=Path), help="Folder of the photos [the manifest's own]."),
    click.option("--encoding", metavar="NAME", help="Encoding of the manifest [found out]."),
    click.option("--delimiter", type=Delimiter(), help="What separates its columns [found out]."),
    click.option("--sheet", metavar="NAME", help="Sheet of a workbook [the first]."),
    click.option("--cluster", metavar="ADDRESS", help="Work on a Dask cluster: tls://HOST:8786, or local:4."),
    click.option("-q", "--quiet", is_flag=True, help="No progress, and no summary but for --json."),
    click.option("-v", "--verbose", count=True, help="A line for each row; -vv also tells what the libraries say."),
    click.option(
        "--log-format", type=click.Choice(["text", "json"]), help="Log lines on standard error as text or JSON [text]."
    ),
    click.option("--json", "as_json", is_flag=True, help="The summary as one line of JSON on standard output."),
)


def config_file(asked: Path | None) -> Path | None:
    """The file that holds: the one `asked` for, else the environment's, else ./config.yaml where there is one."""
    if found := asked or os.environ.get("BATCHUPLOAD_CONFIG"):
        return Path(found)
    return DEFAULT_CONFIG if os.path.lexists(DEFAULT_CONFIG) else None


def settings_from(options: Mapping[str, Any], *, send: bool) -> Given:
    """The settings by these options, the environment and the config. Raises `ConfigError`."""
    from batchupload.config import load

    profile = options.get("profile") or os.environ.get("BATCHUPLOAD_PROFILE")
    again = ["--config", str(options["config"])] if options["config"] else []
    again += ["--profile", options["profile"]] if options.get("profile") else []
    standing = [*again]
    reading: list[str] = []
    settings: dict[str, Option] = {}
    for name, setting in SETTING_OF.items():
        if options.get(name) is not None:
            option, value = "--" + name.replace("_", "-"), options[name]
            settings[setting] = (option, int(value) if name == "concurrency" and value.isdecimal() else value)
            if name in OF_THESE_MANIFESTS:
                reading += [option, str(value)]
            elif name not in NOT_REPEATED:
                again += [option, str(value)]
            if name in SETS_ASIDE:
                standing += [option, str(value)]
    file = config_file(options["config"])
    loaded = load(file, os.environ, settings, send=send, profile=profile)
    return Given(loaded, tuple(again), tuple(reading), tuple(standing))
