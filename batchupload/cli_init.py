"""The command `init`: a commented config, with answers in it where a person is there to give them."""

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from batchupload.console import leave, say, tell
from batchupload.language import _, together
from batchupload.model import BatchuploadError
from batchupload.options import DEFAULT_CONFIG


@click.command(short_help="Write a commented config, after a few questions where you are at a terminal.")
@click.argument("file", type=click.Path(path_type=Path), default=DEFAULT_CONFIG)
@click.option("--no-input", is_flag=True, help="Ask nothing; every key has its default.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def init(file: Path, no_input: bool, force: bool) -> None:
    """Write a commented config to FILE [config.yaml], mode 0600.

    At a terminal it asks for what most installations set: the shop's address, photos, manifests, reports and whom to
    tell. Every other key stands in the file with its default.
    """
    if not force and os.path.lexists(file):
        raise _exists(file)
    answers: Mapping[tuple[str | int, ...], object] = {}
    if not no_input and sys.stdin.isatty() and sys.stdout.isatty():
        answers = _ask(file)
    from batchupload.config import example

    _write(file, example(answers), force=force)
    say(together(_("Wrote {file}.", file=file), _next(file, answers)))


def _ask(file: Path) -> Mapping[tuple[str | int, ...], object]:
    from batchupload.interview import Stage, interview

    here = Path.cwd()
    try:
        answers = interview(Stage(_line, say, here, Path(os.path.abspath(file)).parent))
        say("")
        return answers
    except KeyboardInterrupt:
        say("")
        tell(_("nothing was written."))
        leave(130)
    except EOFError:
        say("")
        raise BatchuploadError(_("the answers ended too early; nothing was written.")) from None


def _line(prompt: str) -> str:
    while True:
        # Not by input(), which may overlook a Ctrl-C that comes just behind the prompt.
        sys.stdout.write(prompt)
        sys.stdout.flush()
        try:
            if line := sys.stdin.readline():
                return line.rstrip("\n")
            raise EOFError
        except UnicodeDecodeError:
            say(_("  This is no text in your terminal's encoding: type it again."))


def _write(file: Path, text: str, *, force: bool) -> None:
    """For its owner only, and in the place of another file only if that was asked for."""
    target = file.with_name(f".{file.name}.{os.getpid()}") if force else file
    try:
        with open(target, "x", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)) as out:
            out.write(text)
        if force:
            target.replace(file)
    except FileExistsError:
        raise _exists(file) from None
    except OSError as error:
        if force and target.exists():
            target.unlink()
        raise BatchuploadError(_("{file}: can't be written ({why}).", file=file, why=error.strerror)) from None


def _exists(file: Path) -> BatchuploadError:
    return BatchuploadError(_("{file}: this file exists; it was left as it is. --force replaces it.", file=file))


def _next(file: Path, answers: Mapping[tuple[str | int, ...], object]) -> str:
    named = "" if file == DEFAULT_CONFIG else f" --config {shlex.quote(str(file))}"
    manifest = "" if ("manifest", "paths") in answers else " orders.csv"
    if ("endpoint", "url") not in answers:
        return _(
            "Set endpoint.url, then look over a manifest: batchupload check{manifest}{named}",
            manifest=manifest,
            named=named,
        )
    return _(
        "Look whether all is well: batchupload doctor{named}\n"
        "Then look over a manifest, sending nothing: batchupload check{manifest}{named}",
        manifest=manifest,
        named=named,
    )
