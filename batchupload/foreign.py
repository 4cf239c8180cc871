"""Text of others → text that can be written, where it comes in; text that can be seen, where it is shown. Pure."""

import json
import re

# Half a character: no encoding has it. JSON and YAML can name it, and Python gives it for bytes that are no UTF-8.
_HALF = re.compile("[\ud800-\udfff]")

# What can't be seen, moves the cursor, ends a line, or turns the direction of what stands beside it: Unicode's control
# (Cc), format (Cf), half (Cs), line and paragraph characters (Zl, Zp), what it has for nobody (noncharacters), and
# letters without a form. Not the variation selectors: Chinese and emoji need them.
_KINDS = (
    "\0-\x09\x0b-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180e"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufdd0-\ufdef\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"
) + "".join(f"{chr(plane + 0xFFFE)}-{chr(plane + 0xFFFF)}" for plane in range(0x10000, 0x110000, 0x10000))
_UNSEEN = re.compile(f"[\n{_KINDS}]")
_UNSEEN_BUT_LINES = re.compile(f"[{_KINDS}]")
_UNSEEN_BUT_COLOURS = re.compile(rf"(\x1b\[(?:0|2|3[123])m)|[{_KINDS}]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def writable(text: str) -> str:
    """The text with U+FFFD for each half of a character; two halves that belong together are joined."""
    if text.isascii() or not _HALF.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def stored(path: str) -> str:
    """A path as text that can be written: bytes in it that are no UTF-8 as JSON has them, and `restored` back."""
    return path if writable(path) == path else json.dumps(path)


def restored(text: str) -> str:
    """The path that `stored` was given; an absolute one never begins with a quote."""
    return str(json.loads(text)) if text.startswith('"') else text


def visible(text: str) -> str:
    r"""The text on one line, with each character that can't be seen as `\n`, `\x1b`, `\u202e` or `\U000e0001`."""
    return text if text.isprintable() else _UNSEEN.sub(_named, text)


def visible_lines(text: str, *, colours: bool = False) -> str:
    """The same of a whole message: its line breaks stay, and our own colours, if it has some."""
    if text.replace("\n", "").isprintable():  # 80 times as fast as the expression, and holds of nearly all lines
        return text
    return (_UNSEEN_BUT_COLOURS if colours else _UNSEEN_BUT_LINES).sub(_named, text)


def to_json(value: object, **how: object) -> str:
    """JSON on one line that can be written and seen: the same data, with escapes for what can't be seen."""
    text = json.dumps(value, ensure_ascii=False, **how)  # type: ignore[arg-type]
    return text if text.isprintable() else _UNSEEN.sub(lambda found: json.dumps(found[0])[1:-1], text)


def _named(found: re.Match[str]) -> str:
    one = found[0]
    if len(one) > 1:
        return one  # a colour
    code = ord(one)
    return _SHORT.get(one) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )
