"""Groups of failures, and a run beside the one before → their parts of the page. Pure."""

from batchupload.changes import Change
from batchupload.failures import VARIES, Example, Group, largest
from batchupload.language import _, several, together
from batchupload.page.text import cut, text

MOST_GROUPS = 50
"""Groups that are listed."""


def changed(change: Change, before: str) -> str:
    """The comparison with the report of this name."""
    counts = (
        ("person", change.newly_failing, _("newly failing")),
        ("done", change.mended, _("mended")),
        ("again", change.still_failing, _("still failing")),
    )
    legend = "".join(
        f'<li><span class="dot {tone}"></span>{what} <b>{count:,}</b></li>' for tone, count, what in counts
    )
    title, told = _("Since the run before"), _("In orders, compared with {report}.", report=before)
    gone = several(
        change.gone,
        "{n:,} order that failed then: not in this run.",
        "{n:,} orders that failed then: not in this run.",
    )
    told = together(told, gone) if change.gone else told
    return (
        '<section aria-labelledby="change"><h2 id="change">'
        f"{title}</h2>"
        f'<ul class="legend" id="changes">{legend}</ul>'
        f'<p class="note">{text(told)}</p></section>'
    )


def causes(groups: tuple[Group, ...]) -> str:
    """The groups, the largest first; nothing where nothing failed."""
    if not groups:
        return ""
    shown, others = largest(groups, MOST_GROUPS)
    lines = "".join(map(_line, shown))
    more = several(others, "{n:,} row more in smaller groups.", "{n:,} rows more in smaller groups.")
    rest = f'<p class="note">{more}</p>' if others else ""
    title, reason, rows, example = (
        _("What went wrong"),
        _("Reason, and the endpoint’s message"),
        _("Rows"),
        _("For example"),
    )
    return (
        '<section aria-labelledby="causes"><h2 id="causes">'
        f"{title}</h2>"
        f'<table class="plain counts causes"><thead><tr><th scope="col">{reason}</th>'
        f'<th scope="col" class="number">{rows}</th>'
        f'<th scope="col">{example}</th></tr></thead><tbody>{lines}</tbody></table>{rest}</section>'
    )


def _example(one: Example) -> str:
    line = text(_("line {line}:", line=cut(one.line)))
    return f'<div>{line} <bdi class="id">{text(cut(one.order_id))}</bdi></div>'


def _line(group: Group) -> str:
    examples = "".join(map(_example, group.examples))
    reason = _("all others") if group.reason == VARIES else f"<code>{text(cut(group.reason)) or '(none)'}</code>"
    return (
        f'<tr><th scope="row">{reason}<div><bdi>{text(group.message)}</bdi></div></th>'
        f'<td class="number">{group.count:,}</td><td>{examples}</td></tr>'
    )
