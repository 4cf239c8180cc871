"""Text as a terminal shows it: a Chinese character takes two columns there, and a line may break behind it. Pure."""

import re
from unicodedata import combining, east_asian_width

# What stays together on a line: a Chinese character with the marks before and behind it, or a word up to a space or
# the next such character. Spaces in front are left out where a line begins.
_PIECES = re.compile(
    r"\s*(?:[（《「“]*[\u2e80-\u2fff\u3005-\u3007\u3021-\uff00][，。；：！？、）》」”]*"
    r"|[（《「“]*[^\s\u2e80-\uff00，；：！？（）]+[，。；：！？、）》」”]*|\S)"
)


def width(text: str) -> int:
    """Columns that `text`, of one line, takes."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(one) else 2 if east_asian_width(one) in "WF" else 1 for one in text)


def pad(text: str, columns: int) -> str:
    """With spaces behind it up to so many columns; a longer text stays whole."""
    return text + " " * (columns - width(text))


def cut(text: str, columns: int) -> str:
    """No more than so many columns, with `…` where something is missing."""
    if width(text) <= columns:
        return text
    while width(text) > columns - 1:
        text = text[:-1]
    return text.rstrip() + "…"


def wrap(text: str, columns: int) -> list[str]:
    """Lines of so many columns; only what can't be broken is longer."""
    lines: list[str] = []
    for piece in _PIECES.findall(text):
        if lines and width(lines[-1]) + width(piece) <= columns:
            lines[-1] += piece
        else:
            lines.append(piece.lstrip())
    return lines
