"""The catalogue of translations: `python tests/catalogue.py` brings it up to date with the code, and compiles it.

New messages come in without a translation, to be put in by hand into the .po; then run it once more. What the code no
longer says goes. `test_language.py` finds what was left undone.
"""

import inspect
import io
from collections.abc import Iterator
from pathlib import Path

import babel.messages.catalog
import click
from babel.messages.catalog import Catalog
from babel.messages.extract import extract
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from batchupload.cli import cli
from batchupload.cli_language import HELP
from batchupload.page.page import TEXT_OF_SCRIPT, TEXT_OF_TEMPLATE
from batchupload.reasons import Explained, Reason
from batchupload.sandbox_faults import FAULTS
from batchupload.scan import Doubt

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "batchupload"
PO = PACKAGE / "locale" / "zh_CN" / "LC_MESSAGES" / "batchupload.po"
MO = PO.with_suffix(".mo")
KEYWORDS = {"_": None, "N_": None, "several": (2, 3), "gettext": None, "ngettext": (1, 2)}
Message = str | tuple[str, str]
"""A message, or the two of a number."""


def messages() -> Iterator[tuple[str, Message]]:
    """Each message of the package, and where it stands."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield from _extracted(path, str(path.relative_to(ROOT)))
    for text in TEXT_OF_TEMPLATE.findall((PACKAGE / "page" / "page.html").read_text(encoding="utf-8")):
        yield "batchupload/page/page.html", text
    for text in TEXT_OF_SCRIPT.findall((PACKAGE / "page" / "page.js").read_text(encoding="utf-8")):
        yield "batchupload/page/page.js", text
    explained: tuple[type[Explained], ...] = (Reason, Doubt)
    for kind in explained:
        for one in kind:
            yield kind.__module__, one.english
    for text in FAULTS.values():
        yield "batchupload/sandbox_faults.py", text
    for text in _help(cli):
        yield "--help", text
    yield "--help", HELP


def of_click() -> Iterator[tuple[str, Message]]:
    """Each message that click translates itself, and where it stands.

    Many are for programmers: only those that are in the catalogue already are kept there.
    """
    for path in sorted(Path(click.__file__).parent.glob("*.py")):
        yield from _extracted(path, f"click/{path.name}")


def read(path: Path = PO) -> Catalog:
    """The catalogue as it is."""
    with path.open("rb") as file:
        return read_po(file, locale="zh_CN")


def compiled(catalog: Catalog) -> bytes:
    """As gettext reads it."""
    out = io.BytesIO()
    write_mo(out, catalog)
    return out.getvalue()


def update() -> None:
    """Bring in what is new, take out what is gone, and compile."""
    template, catalog = Catalog(project="batchupload"), read()
    known = [(where, message) for where, message in of_click() if message in catalog]
    for where, said in (*messages(), *known):
        template.add(said, locations=[(where, 0)])
    catalog.update(template, no_fuzzy_matching=True, update_creation_date=False)
    catalog.obsolete.clear()
    with PO.open("wb") as file:
        # By message and without line numbers: two changes to the code touch the same lines of it only where they must.
        write_po(file, catalog, sort_output=True, include_lineno=False, width=120)
    MO.write_bytes(compiled(catalog))
    for message in entries(catalog):
        if not is_translated(message):
            print("to be translated:", message.id)


def entries(catalog: Catalog) -> list[babel.messages.catalog.Message]:
    """Its messages, without the header."""
    return [one for one in catalog if isinstance(one, babel.messages.catalog.Message) and one.id]


def is_translated(message: babel.messages.catalog.Message) -> bool:
    """Whether there is a text for each of its numbers."""
    return bool(message.string) and all(message.string or ())


def _extracted(path: Path, where: str) -> Iterator[tuple[str, Message]]:
    with path.open("rb") as file:
        for _, message, *_ in extract("python", file, KEYWORDS):
            yield where, message if isinstance(message, str) else (message[0], message[1])


def _help(command: click.Command) -> Iterator[str]:
    texts = [command.help, command.short_help, command.epilog]
    texts += [option.help for option in command.params if isinstance(option, click.Option)]
    yield from map(inspect.cleandoc, filter(None, texts))
    if isinstance(command, click.Group):
        for one in command.commands.values():
            yield from _help(one)


if __name__ == "__main__":
    update()
