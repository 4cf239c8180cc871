"""Groups of failures, and a run beside the one before → their parts of the page. Pure."""

from batchupload.changes import Change
from batchupload.failures import VARIES, Group, largest
from batchupload.page.text import cut, text
from batchupload.summary import several

MOST_GROUPS = 50
"""Groups that are listed."""


def changed(change: Change, before: str) -> str:
    """The comparison with the report of this name."""
    counts = (
        ("person", change.newly_failing, "newly failing"),
        ("done", change.mended, "mended"),
        ("again", change.still_failing, "still failing"),
    )
    legend = "".join(
        f'<li><span class="dot {tone}"></span>{what} <b>{count:,}</b></li>' for tone, count, what in counts
    )
    gone = f" {several(change.gone, 'order')} that failed then: not in this run." if change.gone else ""
    return (
        '<section aria-labelledby="change"><h2 id="change">Since the run before</h2>'
        f'<ul class="legend" id="changes">{legend}</ul>'
        f'<p class="note">In orders, compared with <bdi>{text(before)}</bdi>.{gone}</p></section>'
    )


def causes(groups: tuple[Group, ...]) -> str:
    """The groups, the largest first; nothing where nothing failed."""
    if not groups:
        return ""
    shown, others = largest(groups, MOST_GROUPS)
    lines = "".join(map(_line, shown))
    rest = f'<p class="note">{several(others, "row")} more in smaller groups.</p>' if others else ""
    return (
        '<section aria-labelledby="causes"><h2 id="causes">What went wrong</h2>'
        '<table class="plain counts causes"><thead><tr><th scope="col">Reason, and the endpoint’s message</th>'
        '<th scope="col" class="number">Rows</th>'
        f'<th scope="col">For example</th></tr></thead><tbody>{lines}</tbody></table>{rest}</section>'
    )


def _line(group: Group) -> str:
    examples = "".join(
        f'<div>line {text(cut(one.line))}: <bdi class="id">{text(cut(one.order_id)) or "(none)"}</bdi></div>'
        for one in group.examples
    )
    reason = "all others" if group.reason == VARIES else f"<code>{text(cut(group.reason)) or '(none)'}</code>"
    return (
        f'<tr><th scope="row">{reason}<div><bdi>{text(group.message)}</bdi></div></th>'
        f'<td class="number">{group.count:,}</td><td>{examples}</td></tr>'
    )
