"""Text of others → text that may stand anywhere in HTML, and that can be seen. Pure."""

import re
from html import escape

ORDER_LIMIT = 64
"""Characters of an order number in a list; what is longer is none."""

# What can't be seen, or turns the direction of what can; as in page.js.
_UNSEEN = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def text(shown: str) -> str:
    """Text as it may stand anywhere in HTML."""
    return escape(_UNSEEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", shown))


def cut(shown: str) -> str:
    """At most as much as an order number has."""
    return shown if len(shown) <= ORDER_LIMIT else f"{shown[: ORDER_LIMIT - 1]}…"
