"""Words on the command line → the stages; no logic of its own. Heavy modules load inside the command."""

import atexit
import gc
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchupload import __version__, cli_care, cli_watch
from batchupload.cli_init import init
from batchupload.cli_language import in_words
from batchupload.cli_scan import scan
from batchupload.cli_tell import notify, see_through, teller
from batchupload.colour import wanted, with_outcomes_painted
from batchupload.console import leave, say, screen_width, tell
from batchupload.fault import EXIT_CODE, FAULTS, OnRecord, on_record, tell_fault
from batchupload.foreign import visible
from batchupload.language import N_, _, choose, speak
from batchupload.logs import start_logging
from batchupload.model import BatchuploadError
from batchupload.options import JOB_OPTIONS, PROFILE, QUARANTINE, options_of, settings_from
from batchupload.signals import end_by_exception, name_of
from batchupload.stderr import Visible, seen, settle, unhurried

if TYPE_CHECKING:
    from batchupload.summary import Summary

EXIT_CODES = {
    0: N_("every row is uploaded, skipped or duplicate (check: can be sent; scan: every order whole)"),
    1: N_("finished, but some row needs a person or another run"),
    2: N_("wrong usage, config or manifest: nothing was sent"),
    3: N_("stopped early, before every row was tried: the summary says why"),
    4: N_("another run holds the ledger: nothing was sent"),
    5: N_("the ledger or the report can't be written: sending stopped"),
    70: N_("a fault in batchupload itself: the screen says what is on record"),
    129: N_("stopped by SIGHUP (the terminal was closed), drained"),
    130: N_("stopped by Ctrl-C, drained"),
    143: N_("stopped by SIGTERM, drained (by another signal: 128 + its number)"),
}
_EXIT_CODES = "\b\nExit codes:\n" + "\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())


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
@JOB_OPTIONS
@click.option("--dry-run", is_flag=True, help="Send nothing; the same as `check`.")
@click.option("--concurrency", metavar="N|auto", help="Sends at once [auto: what the endpoint can take].")
@click.option("--rate", metavar="N", help="Orders a second at most; or by the hour, such as '08:00,5 23:00,off'.")
@click.option("--bandwidth", metavar="N", help="Bytes a second at most, such as 1M; or '08:00,1M 23:00,off'.")
@click.option("--deadline", metavar="TIME", help="End by then: 06:00, or after 2h30m; the rest is deferred.")
@click.option("--canary", type=int, metavar="N", help="End where the first N orders all go wrong alike [20]; 0: don't.")
@click.option(
    "--max-failures", metavar="N|P%", help="End when more than this goes wrong; P% of the rows so far, from 50 on."
)
@QUARANTINE
@click.option("--force", is_flag=True, help="Send also what the ledger knows as uploaded, or has set aside.")
@click.option("--endpoint", metavar="URL", help="The upload call; photos go nowhere else.")
@click.option(
    "--notify", type=click.Choice(["trouble", "always", "never"]), help="When notify.urls are told of the end."
)
def run(manifests: tuple[Path, ...], dry_run: bool, **options: Any) -> None:
    """Send the photos of every row of MANIFESTS, and write a report.

    A manifest has the columns order_id, face, back and hand, by these or their usual Chinese names: CSV, a workbook
    (.xlsx), JSON lines, each also gzipped; several, patterns such as '*.csv', or - for standard input. Without
    MANIFESTS those of the config are taken. Ctrl-C lets the orders under way end; a second one does not.
    """
    _do(manifests, options, send=not dry_run)


@cli.command(epilog=_EXIT_CODES, short_help="Validate and report as run does, but send nothing.")
@JOB_OPTIONS
def check(manifests: tuple[Path, ...], **options: Any) -> None:
    """Read MANIFESTS and all photos as `run` does, and write the report, but send nothing."""
    _do(manifests, options, send=False)


@cli.command(short_help="Serve a stand-in endpoint on this machine.")
@click.option("-c", "--config", type=click.Path(path_type=Path), help="Config of the shop that it stands in for.")
@PROFILE
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes any free port.")
@click.option(
    "--fault", "faults", multiple=True, metavar="RULE", help="NAME=5% of all sends, NAME@ORDER, NAME@ORDER:2."
)
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed strikes the same sends.")
@click.option("--latency", type=click.FloatRange(min=0), default=0.0, metavar="SECONDS", help="For each reply.")
@click.option("--workers", type=click.IntRange(min=0), default=0, help="Requests worked on at once; 0 for no limit.")
@click.option("--list-faults", is_flag=True, help="Show what can go wrong, and exit.")
def sandbox(
    config: Path | None,
    profile: str | None,
    port: int,
    faults: tuple[str, ...],
    seed: int,
    latency: float,
    workers: int,
    list_faults: bool,
) -> None:
    """Serve a stand-in endpoint on this machine, to try manifests against.

    It takes uploads as the real one does, keeps hashes and sizes of what it accepted (never photos), and goes wrong
    on request. GET /stats tells what it saw.

    \b
    batchupload sandbox --fault http_503=5% --fault no_answer@HT2023111015044046891
    batchupload run orders.csv --endpoint http://127.0.0.1:8000/order/api/haoteam/getimg
    """
    import asyncio

    from batchupload.sandbox import FAULTS, SandboxOptions, parse_fault
    from batchupload.serve import like_shop, serve

    if list_faults:
        width = max(map(len, FAULTS))
        click.echo("\n".join(f"{name:<{width}}  {_(summary)}" for name, summary in FAULTS.items()))
        return
    try:
        rules = tuple(parse_fault(fault) for fault in faults)
        options = SandboxOptions(rules, seed, latency, workers)
        if config or profile:
            options = like_shop(options, settings_from({"config": config, "profile": profile}, send=False).settings)
        asyncio.run(serve(options, port, click.echo))
    except ValueError as error:
        raise BatchuploadError(_("--fault: {error}", error=error)) from None


@cli.command(short_help="Show a whole run with sample photos; needs nothing.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to put photos and report [a new temporary one].")
@click.option("--orders", type=click.IntRange(40, 10_000), default=200, show_default=True, help="Rows of the manifest.")
def demo(folder: Path | None, orders: int) -> None:
    """Show a whole run: sample photos, a manifest with every kind of trouble, a sandbox with faults, the report.

    Needs no network, no account and no photos of your own.
    """
    from batchupload.demo import play

    start_logging(0)
    leave(play(folder, orders, say, screen_width()))


@cli.command()
@click.argument("report", type=click.Path(path_type=Path))
@click.option("--before", type=click.Path(path_type=Path), metavar="REPORT", help="Say what changed since this report.")
def page(report: Path, before: Path | None) -> None:
    """Make the page of REPORT, an HTML file beside it; one that is there already is made anew."""
    from batchupload.page.make import make_page

    say(_("Page: {page}", page=make_page(report, before=before)))


_LEDGER_OPTIONS = options_of(
    click.option("-c", "--config", type=click.Path(path_type=Path), help="Config file, which names the ledger."),
    PROFILE,
    click.option("--json", "as_json", is_flag=True, help="As one line of JSON."),
)


@cli.command()
@_LEDGER_OPTIONS
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, metavar="N", help="The newest N.")
def history(config: Path | None, profile: str | None, as_json: bool, limit: int) -> None:
    """Show the runs that the ledger knows, the newest last."""
    from batchupload import history as past

    with past.read_ledger(_ledger_path(config, profile)) as ledger:
        runs = ledger.runs(limit)
        text = past.as_json(runs) if as_json else "\n".join(run.line() for run in runs) or _("No run yet.")
    say(text)


@cli.command()
@click.argument("what", metavar="RUN|ORDER|ID")
@_LEDGER_OPTIONS
def show(what: str, config: Path | None, profile: str | None, as_json: bool) -> None:
    """Show what the ledger knows of a run, by its number, or of an order: each attempt, and what each run said.

    ID is that of an order's row in a run, RUN-LINE, as JSON log lines have it.
    """
    from batchupload import history as past

    with past.read_ledger(_ledger_path(config, profile)) as ledger:
        run = ledger.run(int(what), groups=True) if what.isascii() and what.isdigit() and len(what) < 10 else None
        order = what if ledger.outcomes(what) else ledger.order_of(what) or what
        attempts, outcomes = ledger.attempts(order), ledger.outcomes(order)
        lines = [
            _("Order {what}", what=order),
            *(attempt.line() for attempt in attempts),
            *(said.text() for said in outcomes),
        ]
        text = run.text() if run else "\n".join(lines)
    if as_json:
        text = past.as_json(run or {"order_id": order, "attempts": attempts, "outcomes": outcomes})
    elif not (run or attempts or outcomes):
        raise BatchuploadError(
            _("{what}: the ledger knows no such run or order. `batchupload history` lists the runs.", what=what)
        )
    say(text)


for command in (init, notify, scan, *cli_care.COMMANDS, cli_watch.status):
    cli.add_command(command)


def main() -> None:
    """Entry point: every mistake of the user's, and every fault of ours, becomes a message and an exit code."""
    os.umask(0o077)  # whatever is written is for its owner only
    end_by_exception()
    _open_standard_streams()
    try:
        speak(choose(sys.argv[1:], os.environ))
        code = in_words(cli).main(prog_name="batchupload", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        leave(130)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
        tell(_("stopped by {signal}.", signal=name_of(code - 128)), "stopped", exit_code=code)
        leave(code)
    except click.ClickException as error:
        vars(error).update(message=visible(error.message))  # it has words of the command line, with their line breaks
        with suppress(OSError):
            error.show()
        leave(error.exit_code)
    except BatchuploadError as error:
        tell(str(error), "not_begun", exit_code=error.exit_code)
        leave(error.exit_code)
    except BrokenPipeError:
        leave(1)
    except FAULTS as fault:
        tell_fault(fault)
        leave(EXIT_CODE)
    leave(code if isinstance(code, int) else 0)


def _open_standard_streams() -> None:
    """Have all three: a file opened in the place of a closed one would get what is meant for the screen."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stdout, sys.stderr = seen(sys.stdout), unhurried()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, Visible):
            stream.colours = wanted(stream)
    atexit.register(settle)  # the traceback of a fault of our own is written after `main`


def _do(manifests: tuple[Path, ...], options: dict[str, Any], *, send: bool) -> None:
    gc.disable()  # what is imported stays: to look for garbage among it takes an eighth of the start
    from batchupload.job import Wish, execute, plan
    from batchupload.loop import run as run_loop

    gc.freeze()
    gc.enable()
    early = options["log_format"] or os.environ.get("BATCHUPLOAD_LOG_FORMAT")
    start_logging(0, as_json=early == "json")  # also for what is wrong with the settings
    given = settings_from(options, send=send)
    settings = given.settings
    start_logging(options["verbose"], as_json=settings.log.format == "json", quiet=options["quiet"])
    told = teller(settings, sends=send)
    try:
        paths = manifests or settings.manifest.paths
        if not paths:
            raise BatchuploadError(_("No manifest named. Try: batchupload run orders.csv"))
        wish = Wish(
            paths, send, options["only"] or frozenset(), options["limit"], options["report"],
            options.get("force", False), options["quiet"], options["verbose"] > 0, given.again, given.reading,
            given.standing,
        )  # fmt: skip
        with on_record(OnRecord()):
            summary = run_loop(execute(wish, settings, plan(wish, settings)))
    except BatchuploadError as error:
        message = told.could_not_begin(error.exit_code, EXIT_CODES[error.exit_code])
        tell(str(error), "not_begun", exit_code=error.exit_code)
        see_through(message)
        leave(error.exit_code)
    except FAULTS as fault:
        tell_fault(fault)
        see_through(told.fault(EXIT_CODE, EXIT_CODES[EXIT_CODE]))
        leave(EXIT_CODE)
    message = told.ended(summary)  # on its way before the screen, which may not be read
    settle()
    with on_record(OnRecord(summary.run, settings.ledger.path, summary.report)):
        _show(summary, as_json=options["as_json"], quiet=options["quiet"])
        see_through(message)
    leave(summary.exit_code)


def _show(summary: "Summary", *, as_json: bool, quiet: bool) -> None:
    try:
        if as_json:
            click.echo(summary.as_json())
        elif not quiet:
            text, coloured = summary.as_text(screen_width()), wanted(sys.stdout)
            click.echo(with_outcomes_painted(text) if coloured else text, color=coloured)
    except OSError as error:  # what the run came to is in its report, and in its exit code
        text = _("the summary can't be printed ({why}). Report: {report}", why=error.strerror, report=summary.report)
        tell(text, "summary_not_printed")


def _ledger_path(config: Path | None, profile: str | None) -> Path:
    return settings_from({"config": config, "profile": profile}, send=False).settings.ledger.path
