"""The language in which people are spoken to, chosen once as the program begins: English or Simplified Chinese.

Standard gettext, with catalogues in `locale/`. A text for people is written in English where it is needed:

    _("{file}: no such file.", file=path)               a sentence; what varies is put in after it is translated
    several(count, "{n:,} row", "{n:,} rows")           with a number
    N_("run again")                                     in a constant; it is translated where it is shown, by `_`

The sentences of `Reason` and `Doubt` and all that `--help` shows need no mark. Then `python tests/catalogue.py` brings
them into the catalogue, to be translated there; a test finds what is not. Codes, keys and columns are never translated.

`gettext.gettext` of the standard library looks for the catalogue's file at each call (100 µs), which is too much for
the details of every row: the catalogue is held here, the one thing of the process that changes as it begins (1 µs).
click has the standard function for its own words, so that is told too.
"""

import gettext
import locale
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from batchupload.foreign import visible

LANGUAGES = {"en": "en", "zh": "zh_CN"}
"""As `--lang` has them → as gettext does."""
VARIABLE = "BATCHUPLOAD_LANG"
DOMAIN, FOLDER = "batchupload", str(Path(__file__).parent / "locale")
_OF_LOCALE = ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
"""Variables that choose a language for all programs, the strongest first."""


class _Chosen:
    """What texts are looked up in; English, as they stand in the code, until `speak` is called."""

    language = "en"
    catalogue: gettext.NullTranslations = gettext.NullTranslations()


def speak(language: str) -> None:
    """From now on, in this one of `LANGUAGES`."""
    name = LANGUAGES[language]
    _Chosen.language = language
    _Chosen.catalogue = gettext.translation(DOMAIN, FOLDER, [name], fallback=True)
    os.environ["LANGUAGE"] = name  # for click, and for what this process starts
    gettext.bindtextdomain(DOMAIN, FOLDER)
    gettext.textdomain(DOMAIN)


def spoken() -> str:
    """The language chosen, as `--lang` has it."""
    return _Chosen.language


def choose(words: Sequence[str], environment: Mapping[str, str]) -> str:
    """The language by `--lang` among `words`, else by the environment. What is neither is found out by the options."""
    asked = ""
    options = [*words[: words.index("--")]] if "--" in words else [*words]
    for word, following in pairwise([*options, ""]):
        if word == "--lang":
            asked = following
        elif word.startswith("--lang="):
            asked = word.removeprefix("--lang=")
    asked = asked or environment.get(VARIABLE, "")
    return asked if asked in LANGUAGES else _of_locale(environment)


def _of_locale(environment: Mapping[str, str]) -> str:
    found = next((environment[name] for name in _OF_LOCALE if environment.get(name)), "")
    if not found and os.name == "nt":
        found = locale.getlocale()[0] or ""
    for name in found.split(":"):  # LANGUAGE may have several, the best first
        plain = name.partition(".")[0].partition("@")[0].replace("-", "_").lower()
        if plain in {"zh", "zh_cn", "zh_sg"} or plain.startswith(("zh_hans", "chinese (simplified)", "chinese_china")):
            return "zh"
        if plain == "en" or plain.startswith("en_"):
            return "en"
    return "en"


def _(message: str, /, **values: object) -> str:
    """The message in the language chosen, with `values` in its braces, if there are any; theirs is made visible."""
    told = _Chosen.catalogue.gettext(message) if message else ""  # "" would be the catalogue's own header
    if not values or (shown := told.format(**values)).isprintable():
        return shown if values else told
    return told.format(**{name: _shown(value) for name, value in values.items()})


def _shown(value: object) -> object:
    """A value as it may stand in a message: on one line, with nothing in it that a terminal obeys."""
    return value if isinstance(value, int | float | datetime) else visible(str(value))


def N_(message: str) -> str:  # noqa: N802 - the usual name
    """Mark a message that is translated later, where it is shown."""
    return message


def together(*sentences: str) -> str:
    """One behind the other; Chinese has no spaces between them. Empty ones are left out."""
    return ("" if _Chosen.language == "zh" else " ").join(filter(None, sentences))


def several(count: int, one: str, many: str) -> str:
    """A number and its noun: `1 row`, `1,200 rows`; `n` in the texts is the number."""
    return _Chosen.catalogue.ngettext(one, many, count).format(n=count)
