r"""The user's regular expressions, in Python's own language, matched by RE2: its time only grows with the text.

Python's matcher tries one way after the other. A pattern such as `(a+)+$` meets a text of 40 characters that keeps it
busy for ever, and with it all else in this process.
"""

import re
from functools import cache

import re2

from batchupload.language import _

LONGEST = 1000
"""Characters of an order number that are matched; what is longer is none."""
_CLASSES = {"d": r"\p{Nd}", "w": r"\p{L}\p{N}_", "s": r"\t-\r\x1c-\x20\x{85}\p{Z}"}
"""What Python takes for a digit, a part of a word and a space; RE2's own classes are ASCII."""
_TOKEN = re.compile(r"\\u[0-9A-Fa-f]{4}|\\U[0-9A-Fa-f]{8}|\\.|\{,(?=[0-9]+\})|.", re.DOTALL)


class ExpressionError(ValueError):
    """The pattern can't be used; the message says why and what to do."""


class Expression:
    """A pattern, ready to be matched. Raises `re2.error` where RE2 has no such pattern."""

    def __init__(self, pattern: str) -> None:
        self.text = pattern
        options = re2.Options()
        options.log_errors = False  # on standard error, past all else
        self._pattern = re2.compile(_in_re2(pattern).encode("utf-8", "replace"), options)

    def is_in(self, text: str) -> bool:
        """Whether some part of `text` matches."""
        return self._pattern.search(text.encode("utf-8", "replace")) is not None

    def fits(self, text: str) -> bool:
        """Whether all of `text` matches; what is longer than an order number may be does not."""
        return len(text) <= LONGEST and self._pattern.fullmatch(text.encode("utf-8", "replace")) is not None


@cache
def expression(pattern: str) -> Expression:
    """The pattern, made ready once. Raises `ExpressionError`."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ExpressionError(_("not a regular expression: {error}", error=error)) from None
    try:
        return Expression(pattern)
    except re2.error as error:
        why = error.args[0] if error.args else b""
        raise _unbounded(why.decode("utf-8", "replace") if isinstance(why, bytes) else str(why)) from None


def _unbounded(why: str) -> ExpressionError:
    return ExpressionError(
        _(
            "this regular expression can't be matched in bounded time ({why}): write it without look-ahead, "
            "look-behind, back-references, \\b and possessive quantifiers; a choice such as A.*|B.* may say the same",
            why=why,
        )
    )


def _in_re2(pattern: str) -> str:
    """What means the same to RE2. Raises `ExpressionError` where nothing does."""
    made = []
    first: int | None = None
    """Where the characters of the class begin that is being read; a bracket that closes it can't stand there."""
    for token in _TOKEN.finditer(pattern):
        text, at = token[0], token.start()
        if first is None:
            made.append(_outside(text))
            if text == "[":
                first = at + (2 if pattern.startswith("[^", at) else 1)
        elif text == "]" and at > first:
            made.append(text)
            first = None
        else:
            made.append(_inside(text))
    return "".join(made)


def _outside(token: str) -> str:
    match token[1:]:
        case "d" | "w" | "s" as kind:
            return f"[{_CLASSES[kind]}]"
        case "D" | "W" | "S" as kind:
            return f"[^{_CLASSES[kind.lower()]}]"
        case "b" | "B":
            raise _unbounded(token)
        case "Z":
            return r"\z"
        case ",":
            return "{0,"
    return _character(token)


def _inside(token: str) -> str:
    """Of a class, in which a bracket is a bracket; RE2 would look for [:alpha:] there."""
    match token[1:]:
        case "d" | "w" | "s" as kind:
            return _CLASSES[kind]
        case "D":
            return r"\P{Nd}"
        case "W" | "S":
            raise _unbounded(f"[{token}]")
        case "b":
            return r"\x08"
    return rf"\{token}" if token in {"[", "]"} else _character(token)


def _character(token: str) -> str:
    return rf"\x{{{token[2:]}}}" if token[1:2] in {"u", "U"} else token
