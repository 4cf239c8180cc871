"""Figures and rows of a report → the page, piece by piece. Pure but for its own template, style and script."""

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from itertools import islice
from string import Template

from batchupload.changes import Change
from batchupload.language import LANGUAGES, N_, _, several, spoken, together
from batchupload.model import Outcome
from batchupload.page.causes import causes, changed
from batchupload.page.charts import Chart, charts, draw, stretch
from batchupload.page.embed import chunks, safe_json
from batchupload.page.facts import Facts, Told, tone
from batchupload.page.rows import ReportRow
from batchupload.page.text import cut as _cut
from batchupload.page.text import text as _text
from batchupload.reasons import Reason
from batchupload.summary import NEXT_STEP, called, duration, size

MARKS = {
    language: f'<!DOCTYPE html>\n<html lang="{name.replace("_", "-")}" data-made-by="batchupload">\n'
    for language, name in LANGUAGES.items()
}
"""How every page begins, by its language, and nothing else: what begins otherwise is never written over."""
MOST_ROWS = 200_000
"""Rows that a page holds; a browser takes about 1 kB of memory for each."""
FEWEST_BINS = 4
"""Stretches below which a chart would show nothing but its own edges."""

_ROWS_HERE = "<!-- rows -->"
REASONS = {reason.value: reason for reason in Reason}
TONES = {"done": N_("needs nobody"), "again": N_("needs another run"), "person": N_("needs a person")}
TEXT_OF_TEMPLATE = re.compile(r"\{\{(.+?)\}\}")
TEXT_OF_SCRIPT = re.compile(r"""\b_\("((?:[^"\\])+)\"""")
"""Texts for people in `page.html` and `page.js`, which are translated with those of the code."""


@dataclass(frozen=True, slots=True)
class Heading:
    """What the page says of the report beside its rows."""

    name: str
    """The report's file name."""
    columns: tuple[str, ...]
    first: int
    """Place of `line`, the first column that all reports have."""
    before: str = ""
    """The file name of the report that it is compared with."""
    change: Change | None = None


def page(heading: Heading, facts: Facts, rows: Iterable[ReportRow]) -> Iterator[str]:
    """The whole page; `rows` are those of the report, and are gone through as far as they are needed."""
    style, script, template = _part("page.css"), _part("page.js"), _part("page.html")
    stem = heading.name.removesuffix(".csv")
    words = {
        "columns": heading.columns,
        "first": heading.first,
        "name": heading.name,
        "stem": stem,
        "rows": min(facts.left, MOST_ROWS),
        "sentences": {reason.value: reason.sentence for reason in Reason},
        "again": [reason.value for reason in Reason if "run again" in reason.english],
        "steps": {outcome.value: _(step) for outcome, step in NEXT_STEP.items()},
        "outcomes": {outcome.value: called(outcome) for outcome in Outcome},
        "texts": {text: _(text) for text in TEXT_OF_SCRIPT.findall(script)},
        "aside": Reason.QUARANTINED.value,
        "tones": {outcome.value: tone(outcome) for outcome in Outcome},
    }
    template = TEXT_OF_TEMPLATE.sub(lambda found: _(found[1]).replace("$", "$$"), template)
    told = Template(template).substitute(
        policy=f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'",
        title=_text(stem),
        name=_text(heading.name),
        verdict=_text(facts.verdict),
        when=_when(facts),
        figures=_figures(facts),
        share=_share(facts),
        outcomes="".join(_outcomes(facts)),
        change=changed(heading.change, heading.before) if heading.change else "",
        causes=causes(facts.groups),
        left=_left(facts),
        run=_run(facts),
        standing_out=_standing_out(facts),
        words=safe_json(words),
        style=style,
        script=script,
    )
    before, _here, after = told.partition(_ROWS_HERE)
    yield MARKS[spoken()] + before
    if facts.left:
        left = (row.cells for row in rows if row.is_left)
        for chunk in chunks(islice(left, min(facts.left, MOST_ROWS)), len(heading.columns)):
            yield f'<script type="application/json" class="rows">{chunk}</script>\n'
    yield after


def _part(name: str) -> str:
    return (files("batchupload.page") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _when(facts: Facts) -> str:
    if facts.began is None or facts.ended is None:
        return ""
    began, ended = (datetime.fromtimestamp(time, facts.zone) for time in (facts.began, facts.ended))
    same_day = began.date() == ended.date()
    return (
        f'<time datetime="{began.isoformat()}">{began:%Y-%m-%d %H:%M:%S}</time> – '
        f'<time datetime="{ended.isoformat()}">{f"{ended:%H:%M:%S}" if same_day else f"{ended:%Y-%m-%d %H:%M:%S}"}'
        f"</time> UTC{began:%z}"
    )


def _figures(facts: Facts) -> str:
    """The few numbers that stand on top."""
    shown = [(f"{facts.rows:,}", _("rows"))]
    if facts.sent:
        shown += [
            (f"{facts.sent:,}", _("orders sent")),
            (f"{facts.attempts:,}", _("sends")),
            (size(facts.bytes_sent), _("sent")),
        ]
    if facts.seconds:
        shown += [(duration(facts.seconds), _("first send to last answer"))]
        shown += [(f"{facts.sent / facts.seconds:,.1f}", _("orders/s"))]
    return "".join(f"<div><dd>{number}</dd><dt>{what}</dt></div>" for number, what in shown)


def _share(facts: Facts) -> str:
    """How many rows need nobody, another run, or a person, as one bar."""
    counts = dict.fromkeys(TONES, 0)
    for (outcome, reason), count in facts.counts.items():
        counts["done" if reason == Reason.NOT_SENT else tone(outcome, reason)] += count
    if not facts.rows:
        return ""
    x, bars = 0.0, []
    for name, count in counts.items():
        width = 1000 * count / facts.rows
        bars.append(f'<rect class="{name}" x="{x:.1f}" y="0" width="{width:.1f}" height="10"/>')
        x += width
    words = "; ".join(f"{count:,} {_(TONES[name])}" for name, count in counts.items())
    legend = "".join(
        f'<li><span class="dot {name}"></span>{_(TONES[name])} <b>{count:,}</b> <span class="soft">'
        f"{_percent(count, facts.rows)}</span></li>"
        for name, count in counts.items()
    )
    return (
        f'<svg class="share" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label="{words}">'
        f'{"".join(bars)}</svg><ul class="legend">{legend}</ul>'
    )


def _percent(count: int, of: int) -> str:
    """A share that says neither 0 % nor 100 % where that is not so."""
    share = 100 * count / of
    if 0 < count < of:
        share = min(99.9, max(0.1, share))
    return f"{share:.1f} %" if share % 1 else f"{share:.0f} %"


def _outcomes(facts: Facts) -> Iterator[str]:
    outcomes = facts.outcomes
    known, nameless = [outcome.value for outcome in Outcome], _("(none)")
    for outcome in [*known, *sorted(set(outcomes) - set(known))]:
        if not outcomes[outcome]:
            continue
        reasons = sorted((-count, reason) for (of, reason), count in facts.counts.items() if of == outcome)
        only_checked = [reason for _, reason in reasons] == [Reason.NOT_SENT]
        told_below = [reason for _, reason in reasons] in ([Reason.NOT_SENT], [Reason.QUARANTINED])
        step = "" if told_below else _(NEXT_STEP[Outcome(outcome)]) if outcome in known else _("look at it")
        yield (
            f'<tr class="outcome"><th scope="row"><span class="dot {"done" if only_checked else tone(outcome)}"></span>'
            f"{_text(called(outcome)) or nameless}</th>"
            f'<td class="number">{outcomes[outcome]:,}</td><td>{f"→ {step}" if step else ""}</td></tr>'
        )
        for count, reason in reasons:
            yield (
                f'<tr class="reason"><th scope="row"><code>{_text(reason)}</code></th>'
                f'<td class="number">{-count:,}</td><td>{_text(_sentence(reason))}</td></tr>'
            )


def _sentence(reason: str) -> str:
    return REASONS[reason].sentence if reason in REASONS else ""


def _left(facts: Facts) -> str:
    """What is said above the table of the rows that are left."""
    if not facts.left:
        return _("No row needs a person or another run.")
    return together(
        several(facts.left, "{n:,} row needs a person or another run.", "{n:,} rows need a person or another run."),
        _("The first {most:,} of them are here; the report has all.", most=MOST_ROWS) if facts.left > MOST_ROWS else "",
    )


def _run(facts: Facts) -> str:
    if not facts.sent:
        return _paragraph(_("Nothing was sent."))
    if len(facts.bins) < FEWEST_BINS:
        told = _("The run was too short for charts: {duration}.", duration=duration(facts.seconds))
        return _paragraph(told)
    shown = charts(facts)
    figures = "".join(_figure(chart, facts) for chart in shown)
    return f'<div class="charts">{figures}</div>{_as_table(shown, facts)}'


def _paragraph(text: str) -> str:
    return f"<p>{text}</p>"


def _figure(chart: Chart, facts: Facts) -> str:
    keys = "".join(
        f'<span class="key"><span class="{"stroke" if series.line else "swatch"} {series.tone}"></span>'
        f"{series.name}</span>"
        for series in chart.series
        if len(chart.series) > 1
    )
    return (
        f'<figure><div class="top"><h3>{chart.title} <span class="unit">{chart.unit}</span></h3>'
        f'<span class="keys">{keys}</span></div>'
        f"{draw(chart, facts)}<figcaption>{_text(chart.note)}</figcaption></figure>"
    )


def _as_table(shown: list[Chart], facts: Facts) -> str:
    """The same figures as text, for those who don't see the charts, or want to copy them."""
    series = [(chart, one) for chart in shown for one in chart.series]
    head = "".join(f'<th scope="col">{chart.title}: {one.name}</th>' for chart, one in series)
    lines = []
    for at, bin_ in enumerate(facts.bins):
        values = [(chart, one.values[at]) for chart, one in series]
        cells = "".join(f"<td>{'' if value is None else chart.shown(value)}</td>" for chart, value in values)
        lines.append(f'<tr><th scope="row">{stretch(bin_, facts)}</th>{cells}</tr>')
    title, span = _("The charts as a table"), _("From – to")
    return (
        f'<details><summary>{title}</summary><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{title}"><table class="plain"><thead><tr><th scope="col">{span}</th>{head}</tr>'
        f"</thead><tbody>{''.join(lines)}</tbody></table></div></details>"
    )


def _standing_out(facts: Facts) -> str:
    if not facts.sent:
        return ""
    slowest = _list(_("Slowest orders"), facts.slowest)
    retried = _list(_("Most retried orders"), facts.most_retried)
    title = _("Orders that stand out")
    return f'<section class="pair" aria-label="{title}">{slowest}{retried}</section>'


def _list(title: str, orders: Iterable[Told]) -> str:
    lines = "".join(
        f'<tr><td><bdi class="id">{_text(_cut(told.order_id))}</bdi></td>'
        f'<td class="number">{duration(told.seconds)}</td>'
        f'<td class="number">{told.attempts}</td>'
        f'<td><span class="dot {tone(told.outcome)}"></span>{_text(_cut(called(told.outcome)))}</td></tr>'
        for told in orders
    )
    if not lines:
        nothing = _("None: each order took one send.")
        return f"<div><h2>{title}</h2>{_paragraph(nothing)}</div>"
    order, time, sends, outcome = _("Order"), _("Time"), _("Sends"), _("Outcome")
    return (
        f'<div><h2>{title}</h2><table class="plain"><thead><tr><th scope="col">{order}</th>'
        f'<th scope="col" class="number">{time}</th><th scope="col" class="number">{sends}</th>'
        f'<th scope="col">{outcome}</th></tr></thead><tbody>{lines}</tbody></table></div>'
    )
