"""Commands that take care of an installation: purge, release, doctor, completion. Heavy modules load inside them."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchupload.console import say
from batchupload.language import _
from batchupload.model import BatchuploadError
from batchupload.options import CONFIG, PROFILE, QUARANTINE, config_file, settings_from

if TYPE_CHECKING:
    from batchupload.settings import Settings


@click.command(short_help="Remove what is old from the ledger, with the reports of those runs.")
@CONFIG
@PROFILE
@click.option("--older-than", "age", required=True, metavar="AGE", help="Runs that ended before that: 90d, 12w.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option(
    "--forget-uploaded", is_flag=True, help="Also forget which orders are uploaded: they would be sent again."
)
def purge(config: Path | None, profile: str | None, age: str, dry_run: bool, yes: bool, forget_uploaded: bool) -> int:
    """Remove the runs that ended before AGE from the ledger, with their attempts, outcomes and reports.

    Of an order that is uploaded, or may be, its number stays, with hashes of its photos and when that was: so no
    manifest sends it again. Messages and paths go. --forget-uploaded drops the numbers too, but for orders of which
    newer runs speak.

    \b
    Exit codes: 0 done, 1 some reports can't be removed, 4 a run holds the ledger, 5 the ledger can't be used.
    """
    from batchupload import purge as old
    from batchupload.purge_told import told

    try:
        now = datetime.now().astimezone()
        wanted = old.Wanted(now - old.age(age), forget_uploaded, pretend=True, now=now)
    except (ValueError, OverflowError) as error:
        raise BatchuploadError(_("--older-than {age}: {error}.", age=age, error=error)) from None
    path = settings_from({"config": config, "profile": profile}, send=False).settings.ledger.path
    if not (dry_run or yes):
        if not sys.stdin.isatty():
            raise BatchuploadError(_("nobody is here to ask: look with --dry-run, then give --yes."))
        say(told(old.purge(path, wanted), wanted))
        if not click.confirm(_("Remove it for good?")):
            return 0
    wanted = replace(wanted, pretend=dry_run)
    purged = old.purge(path, wanted)
    say(told(purged, wanted))
    return 1 if purged.left else 0


@click.command(short_help="List what was set aside, or have it sent again.")
@click.argument("orders", nargs=-1, metavar="[ORDER]...")
@CONFIG
@PROFILE
@QUARANTINE
@click.option("--all", "everything", is_flag=True, help="Release all that is set aside.")
@click.option("--json", "as_json", is_flag=True, help="As one line of JSON.")
def release(
    orders: tuple[str, ...],
    config: Path | None,
    profile: str | None,
    quarantine_after: int | None,
    everything: bool,
    as_json: bool,
) -> int:
    """List the orders that failed night after night and are set aside; or release ORDER: the next run sends it again,
    and its nights are counted anew.

    \b
    Exit codes: 0 done, 1 some ORDER has no failed night, 4 a run holds the ledger, 5 the ledger can't be used.
    """
    from batchupload import release_told
    from batchupload.release import release as release_them
    from batchupload.release import set_aside

    if orders and everything:
        raise BatchuploadError(_("name the orders, or give --all, not both."))
    options = {"config": config, "profile": profile, "quarantine_after": quarantine_after}
    given = settings_from(options, send=False)
    path, most = given.settings.ledger.path, given.settings.retry.quarantine_after
    if not (orders or everything):
        found = set_aside(path, most)
        say(release_told.as_json(found) if as_json else release_told.listed(found, most, given.standing))
        return 0
    found = release_them(path, orders or None, most)
    unknown = sorted(set(orders) - {one.order_id for one in found})
    say(release_told.as_json(found) if as_json else release_told.released(found, unknown))
    return 1 if unknown else 0


@click.command(short_help="Look at config, disks, limits and the way to the endpoint; send nothing.")
@CONFIG
@PROFILE
@click.option("--json", "as_json", is_flag=True, help="As one line of JSON.")
def doctor(config: Path | None, profile: str | None, as_json: bool) -> int:
    """Say what is well, and what to mend before a run: config, ledger, reports, photos, open files, and the way to the
    endpoint with its certificate and its clock.

    No order is sent: the endpoint gets an OPTIONS request, and any answer counts as reached. What this user may do is
    looked at, so run it as the user who runs the uploads.

    \b
    Exit codes: 0 all is well, 1 with a warning, 2 something is to be mended.
    """
    from batchupload import checkup
    from batchupload.doctor import examine
    from batchupload.loop import run

    file = config_file(config)
    options = {"config": config, "profile": profile}
    settings, mistake = _settings_or_mistake(options, send=True)
    local = settings or _settings_or_mistake(options, send=False)[0]
    found = [checkup.mend("endpoint" if local else "config", mistake, "")] if mistake else []
    if local:
        found += run(examine(local, file, sends=not mistake))
    say(checkup.as_json(found) if as_json else checkup.as_text(found))
    return checkup.exit_code(found)


@click.command(short_help="Print a script for the completion of commands and options.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script by which SHELL completes commands, options and their values.

    \b
    bash:  batchupload completion bash > ~/.local/share/bash-completion/completions/batchupload
    zsh:   batchupload completion zsh > "${fpath[1]}/_batchupload"
    fish:  batchupload completion fish > ~/.config/fish/completions/batchupload.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    root = click.get_current_context().find_root().command
    if found:
        say(found(root, {}, "batchupload", "_BATCHUPLOAD_COMPLETE").source().strip())


def _settings_or_mistake(options: Mapping[str, Any], *, send: bool) -> "tuple[Settings | None, str]":
    """The settings, or what is wrong with them, on one line."""
    from batchupload.config import ConfigError

    try:
        return settings_from(options, send=send).settings, ""
    except ConfigError as error:
        return None, " ".join(str(error).splitlines())


COMMANDS = (purge, release, doctor, completion)
