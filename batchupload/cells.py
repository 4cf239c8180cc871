"""How wide text stands on a terminal: a Chinese character takes two cells, an accent none."""

from unicodedata import combining, east_asian_width


def width(text: str) -> int:
    """Cells that `text`, of one line, takes."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(one) else 2 if east_asian_width(one) in "WF" else 1 for one in text)


def cut(text: str, columns: int) -> str:
    """As much of `text` as fits, with a mark where something is missing."""
    if width(text) <= columns:
        return text
    while width(text) > columns - 1:
        text = text[:-1]
    return text.rstrip() + "…" if columns > 0 else ""
