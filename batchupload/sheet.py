"""What a spreadsheet makes of a report: its columns, and cells that can't run as formulas."""

import re

REPORT_COLUMNS = (
    "line",
    "order_id",
    "outcome",
    "reason",
    "detail",
    "http_status",
    "code",
    "message",
    "attempts",
    "bytes_sent",
    "started_at",
    "duration_ms",
    "face",
    "back",
    "hand",
)

# The first characters that start a formula (OWASP, "CSV Injection"), with their full-width forms, also behind
# white space; a plain number is none.
_FORMULA = re.compile(r"'*\s*[=+\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]+)?")


def neutral(cell: str) -> str:
    """The cell, with `'` before it where a spreadsheet would run it as a formula."""
    return f"'{cell}" if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell


def plain(cell: str) -> str:
    """What `neutral` was given: `plain(neutral(cell)) == cell` for every cell."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell[1:]) and not _NUMBER.fullmatch(cell[1:]) else cell
