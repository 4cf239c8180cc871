"""Words on the command line → the stages; no logic of its own. Heavy modules load inside the command."""

import atexit
import io
import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from batchupload import __version__
from batchupload.model import BatchuploadError, Outcome
from batchupload.stderr import settle, unhurried

if TYPE_CHECKING:
    from batchupload.config import Option
    from batchupload.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_CONFIG = Path("config.yaml")

EXIT_CODES = {
    0: "every row is uploaded, skipped or duplicate (check: every row can be sent)",
    1: "finished, but some row needs a person or another run",
    2: "wrong usage, config or manifest: nothing was sent",
    3: "stopped early: endpoint down or refusing, its address wrong, or the deadline came",
    4: "another run holds the ledger: nothing was sent",
    5: "the ledger or the report can't be written: sending stopped",
    129: "stopped by SIGHUP (the terminal was closed), drained",
    130: "stopped by Ctrl-C, drained",
    143: "stopped by SIGTERM, drained",
}
_EXIT_CODES = "\b\nExit codes:\n" + "\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())

# Option → the setting it stands for; stronger than environment and config file.
SETTING_OF = {
    "concurrency": "pace.concurrency",
    "validate": "photos.validate",
    "endpoint": "endpoint.url",
    "photos_root": "photos.root",
    "encoding": "manifest.encoding",
    "rate": "pace.rate",
    "bandwidth": "pace.bandwidth",
    "deadline": "pace.deadline",
    "canary": "pace.canary",
    "max_failures": "pace.max_failures",
}


class OutputError(BatchuploadError):
    """What was asked for can't be printed."""

    exit_code = 1


class LogLines(logging.Handler):
    """Log lines on standard error as it is at that moment: the live display stands in for it, so that they go above.

    Where it can't be written they are lost, and nothing else is.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        with suppress(OSError):
            sys.stderr.write(f"{self.format(record)}\n")
            sys.stderr.flush()


class Outcomes(click.ParamType[frozenset[str]]):
    """A list of outcomes, separated by commas."""

    name = "OUTCOME,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> frozenset[str]:
        """Refuse what is no outcome."""
        wanted = value if isinstance(value, frozenset) else frozenset(part.strip() for part in value.split(","))
        if wrong := wanted - {outcome.value for outcome in Outcome}:
            self.fail(f"{', '.join(sorted(wrong))}: no such outcome. There are: {', '.join(Outcome)}.", param, ctx)
        return wanted


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_JOB_OPTIONS = _options(
    click.argument("manifests", nargs=-1, type=click.Path(path_type=Path)),
    click.option(
        "-c", "--config", type=click.Path(path_type=Path), help="Config file [./config.yaml, if there is one]."
    ),
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
    click.option("-q", "--quiet", is_flag=True, help="No progress, and no summary but for --json."),
    click.option("-v", "--verbose", count=True, help="A line for each row; -vv also tells what the libraries say."),
    click.option("--json", "as_json", is_flag=True, help="The summary as one line of JSON on standard output."),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=_EXIT_CODES)
@click.version_option(__version__, prog_name="batchupload")
def cli() -> None:
    """Re-upload failed photo sets in bulk.

    A CSV manifest goes in, with an order number and three photos in each row; for every row exactly one outcome comes
    out, in a CSV report.

    \b
    See it work, without network or account:  batchupload demo
    Look over a manifest, sending nothing:    batchupload check orders.csv
    Send it:                                  batchupload run orders.csv
    Send what did not get through:            batchupload run REPORT --only failed,unknown,deferred
    """


@cli.command(epilog=_EXIT_CODES, short_help="Send the photos of a manifest, and write a report.")
@_JOB_OPTIONS
@click.option("--dry-run", is_flag=True, help="Send nothing; the same as `check`.")
@click.option("--concurrency", metavar="N|auto", help="Sends at once [auto: what the endpoint can take].")
@click.option("--rate", metavar="N", help="Orders a second at most; or by the hour, such as '08:00,5 23:00,off'.")
@click.option("--bandwidth", metavar="N", help="Bytes a second at most, such as 1M; or '08:00,1M 23:00,off'.")
@click.option("--deadline", metavar="TIME", help="End by then: 06:00, or after 2h30m; the rest is deferred.")
@click.option("--canary", type=int, metavar="N", help="End where the first N orders all go wrong alike [20]; 0: don't.")
@click.option("--max-failures", metavar="N|P%", help="End when more than this goes wrong.")
@click.option("--force", is_flag=True, help="Send also what the ledger knows as uploaded.")
@click.option("--endpoint", metavar="URL", help="The upload call; photos go nowhere else.")
def run(manifests: tuple[Path, ...], dry_run: bool, **options: Any) -> None:
    """Send the photos of every row of MANIFESTS, and write a report.

    A manifest is a CSV file with the columns order_id, face, back and hand, by these or their usual Chinese names.
    Without MANIFESTS those of the config are taken. Ctrl-C lets the orders under way end; a second one does not.
    """
    _do(manifests, options, send=not dry_run)


@cli.command(epilog=_EXIT_CODES, short_help="Validate and report as run does, but send nothing.")
@_JOB_OPTIONS
def check(manifests: tuple[Path, ...], **options: Any) -> None:
    """Read MANIFESTS and all photos as `run` does, and write the report, but send nothing."""
    _do(manifests, options, send=False)


@cli.command(short_help="Serve a stand-in endpoint on this machine.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes any free port.")
@click.option(
    "--fault", "faults", multiple=True, metavar="RULE", help="NAME=5% of all sends, NAME@ORDER, NAME@ORDER:2."
)
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed strikes the same sends.")
@click.option("--latency", type=click.FloatRange(min=0), default=0.0, metavar="SECONDS", help="For each reply.")
@click.option("--workers", type=click.IntRange(min=0), default=0, help="Requests worked on at once; 0 for no limit.")
@click.option("--list-faults", is_flag=True, help="Show what can go wrong, and exit.")
def sandbox(port: int, faults: tuple[str, ...], seed: int, latency: float, workers: int, list_faults: bool) -> None:
    """Serve a stand-in endpoint on this machine, to try manifests against.

    It takes uploads as the real one does, keeps hashes and sizes of what it accepted (never photos), and goes wrong
    on request. GET /stats tells what it saw.

    \b
    batchupload sandbox --fault http_503=5% --fault no_answer@HT2023111015044046891
    batchupload run orders.csv --endpoint http://127.0.0.1:8000/order/api/haoteam/getimg
    """
    import asyncio

    from batchupload.sandbox import FAULTS, SandboxOptions, parse_fault
    from batchupload.serve import serve

    if list_faults:
        width = max(map(len, FAULTS))
        click.echo("\n".join(f"{name:<{width}}  {summary}" for name, summary in FAULTS.items()))
        return
    try:
        rules = tuple(parse_fault(fault) for fault in faults)
        options = SandboxOptions(rules, seed, latency, workers)
        asyncio.run(serve(options, port, click.echo))
    except ValueError as error:
        raise BatchuploadError(f"--fault: {error}") from None


@cli.command(short_help="Show a whole run with sample photos; needs nothing.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to put photos and report [a new temporary one].")
@click.option("--orders", type=click.IntRange(40, 10_000), default=200, show_default=True, help="Rows of the manifest.")
def demo(folder: Path | None, orders: int) -> None:
    """Show a whole run: sample photos, a manifest with every kind of trouble, a sandbox with faults, the report.

    Needs no network, no account and no photos of your own.
    """
    from batchupload.demo import play

    _leave(play(folder, orders, _print, _width()))


@cli.command()
@click.argument("file", type=click.Path(path_type=Path), default=DEFAULT_CONFIG)
def init(file: Path) -> None:
    """Write a commented config to FILE [config.yaml]."""
    from batchupload.config import example

    try:
        with open(file, "x", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)) as out:
            out.write(example())
    except FileExistsError:
        raise BatchuploadError(f"{file}: this file exists; it was left as it is.") from None
    except OSError as error:
        raise BatchuploadError(f"{file}: can't be written ({error.strerror}).") from None
    click.echo(f"Wrote {file}. Set endpoint.url, then look over a manifest: batchupload check orders.csv")


@cli.command()
@click.argument("report", type=click.Path(path_type=Path))
def page(report: Path) -> None:
    """Make the page of REPORT, an HTML file beside it; one that is there already is made anew."""
    from batchupload.page.make import make_page

    _print(f"Page: {make_page(report)}")


_LEDGER_OPTIONS = _options(
    click.option("-c", "--config", type=click.Path(path_type=Path), help="Config file, which names the ledger."),
    click.option("--json", "as_json", is_flag=True, help="As one line of JSON."),
)


@cli.command()
@_LEDGER_OPTIONS
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, metavar="N", help="The newest N.")
def history(config: Path | None, as_json: bool, limit: int) -> None:
    """Show the runs that the ledger knows, the newest last."""
    from batchupload import history as past

    with past.read_ledger(_ledger_path(config)) as ledger:
        runs = ledger.runs(limit)
        text = past.as_json(runs) if as_json else "\n".join(run.line() for run in runs) or "No run yet."
    _print(text)


@cli.command()
@click.argument("what", metavar="RUN|ORDER")
@_LEDGER_OPTIONS
def show(what: str, config: Path | None, as_json: bool) -> None:
    """Show what the ledger knows of a run, by its number, or of an order: each attempt, and what each run said."""
    from batchupload import history as past

    with past.read_ledger(_ledger_path(config)) as ledger:
        run = ledger.run(int(what)) if what.isascii() and what.isdigit() and len(what) < 10 else None
        attempts, outcomes = ledger.attempts(what), ledger.outcomes(what)
        lines = [f"Order {what}", *(attempt.line() for attempt in attempts), *(said.text() for said in outcomes)]
        text = run.text() if run else "\n".join(lines)
    if as_json:
        text = past.as_json(run or {"order_id": what, "attempts": attempts, "outcomes": outcomes})
    elif not (run or attempts or outcomes):
        raise BatchuploadError(f"{what}: the ledger knows no such run or order. `batchupload history` lists the runs.")
    _print(text)


def main() -> None:
    """Entry point: every mistake of the user's becomes a message and an exit code."""
    os.umask(0o077)  # whatever is written is for its owner only
    _open_standard_streams()
    try:
        code = cli.main(prog_name="batchupload", standalone_mode=False)
    except click.exceptions.Abort:
        _leave(130)
    except click.ClickException as error:
        with suppress(OSError):
            error.show()
        _leave(error.exit_code)
    except BatchuploadError as error:
        _tell(str(error))
        _leave(error.exit_code)
    except BrokenPipeError:
        _leave(1)
    _leave(code if isinstance(code, int) else 0)


def _open_standard_streams() -> None:
    """Have all three: a file opened in the place of a closed one would get what is meant for the screen."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name the screen can't show is no reason to end
    sys.stderr = unhurried()
    atexit.register(settle)  # the traceback of a fault of our own is written after `main`


def _print(text: str) -> None:
    """Print what was asked for. Raises `BrokenPipeError`, which needs no words, and `OutputError`."""
    settle()
    try:
        click.echo(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output can't be written ({error.strerror}).") from None


def _tell(text: str) -> None:
    """Say it on standard error, as far as that can be written."""
    with suppress(OSError):
        click.echo(f"batchupload: {text}", err=True)


def _do(manifests: tuple[Path, ...], options: dict[str, Any], *, send: bool) -> None:
    import asyncio

    from batchupload.job import Wish, execute, plan

    settings, again = _settings(options, send=send)
    paths = manifests or settings.manifest.paths
    if not paths:
        raise BatchuploadError("No manifest named. Try: batchupload run orders.csv")
    _log(options["verbose"])
    wish = Wish(
        paths, send, options["only"] or frozenset(), options["limit"], options["report"],
        options.get("force", False), options["quiet"], options["verbose"] > 0, again,
    )  # fmt: skip
    planned = plan(wish, settings)
    # Not `asyncio.run`, which at its end waits for threads, and so for as long as a name server or a disk likes.
    summary = asyncio.Runner().run(execute(wish, settings, planned))
    settle()
    try:
        if options["as_json"]:
            click.echo(summary.as_json())
        elif not options["quiet"]:
            click.echo(summary.as_text(_width()))
    except OSError as error:  # what the run came to is in its report, and in its exit code
        _tell(f"the summary can't be printed ({error.strerror}). Report: {summary.report}")
    _leave(summary.exit_code)


def _settings(options: Mapping[str, Any], *, send: bool) -> "tuple[Settings, tuple[str, ...]]":
    """The settings, and the options to repeat in a command that goes on from here."""
    from batchupload.config import load

    file = options["config"] or os.environ.get("BATCHUPLOAD_CONFIG")
    if file is None and DEFAULT_CONFIG.exists():
        file = DEFAULT_CONFIG
    given: dict[str, Option] = {}
    again = ["--config", str(options["config"])] if options["config"] else []
    for name, setting in SETTING_OF.items():
        if options.get(name) is not None:
            option = "--" + name.replace("_", "-")
            value = options[name]
            given[setting] = (option, int(value) if name == "concurrency" and value.isdecimal() else value)
            if name not in {"encoding", "deadline", "canary", "max_failures"}:
                again += [option, str(options[name])]
    return load(Path(file) if file else None, os.environ, given, send=send), tuple(again)


def _width() -> int:
    """Columns of the screen; long lines read badly on a wide one."""
    return max(60, min(shutil.get_terminal_size().columns, 100))


def _ledger_path(config: Path | None) -> Path:
    settings, _ = _settings({"config": config}, send=False)
    return settings.ledger.path


def _log(verbosity: int) -> None:
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", handlers=[LogLines()]
    )
    logging.getLogger("batchupload").setLevel(logging.INFO if verbosity else logging.WARNING)
    if verbosity > 1:
        for library in ("aiohttp", "asyncio", "batchupload"):  # not Pillow, which logs what photos say of people
            logging.getLogger(library).setLevel(logging.DEBUG)


def _leave(code: int) -> NoReturn:
    """Exit at once: what is to be on the disk is there, and a thread that hangs shall not hold it up."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    settle()
    os._exit(code)
