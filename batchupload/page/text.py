"""Text of others → text that may stand anywhere in HTML, and that can be seen. Pure."""

from html import escape

from batchupload.foreign import visible

ORDER_LIMIT = 64
"""Characters of an order number in a list; what is longer is none."""


def text(shown: str) -> str:
    """Text as it may stand anywhere in HTML."""
    return escape(visible(shown))


def cut(shown: str) -> str:
    """At most as much as an order number has."""
    return shown if len(shown) <= ORDER_LIMIT else f"{shown[: ORDER_LIMIT - 1]}…"
