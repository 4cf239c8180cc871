"""Figures of a run → charts as inline SVG, with axes, units and words for those who don't see them. Pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

from batchupload.language import _
from batchupload.page.facts import Facts
from batchupload.page.scale import SHORT, Scale, linear, logarithmic, times
from batchupload.page.timeline import Bin
from batchupload.summary import duration, size

WIDTH, HEIGHT = 480, 228
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 48
WIDE = 30.0
"""An axis of times whose greatest is so many times its least is drawn logarithmic."""


@dataclass(frozen=True, slots=True)
class Series:
    """One quantity over the run."""

    name: str
    tone: str
    """Its class in the style sheet."""
    values: Sequence[float | None]
    line: bool = False
    """Whether it is a line; else an area, that stands on the series before it."""


@dataclass(frozen=True, slots=True)
class Chart:
    """What one chart shows."""

    key: str
    title: str
    unit: str
    series: tuple[Series, ...]
    scale: Scale
    shown: Callable[[float], str]
    """A value with its unit, for a person."""
    note: str
    """What is worth saying of it, in a sentence."""


def charts(facts: Facts) -> list[Chart]:
    """Throughput, bytes, latency and concurrency over the run."""
    bins = facts.bins
    ended = [(bin_.uploaded + bin_.others) / bin_.seconds for bin_ in bins]
    sizes = [bin_.bytes_sent / bin_.seconds for bin_ in bins]
    under_way = [bin_.under_way for bin_ in bins]
    medians, slow = [bin_.median for bin_ in bins], [bin_.slow for bin_ in bins]
    some = [time for time in (*medians, *slow) if time is not None]
    wide = max(some, default=1.0) > WIDE * min(some, default=1.0)
    per_second = 1 / max(facts.seconds, 1e-9)
    return [
        Chart(
            "throughput",
            _("Throughput"),
            _("orders/s"),
            (
                Series(_("uploaded"), "done", [bin_.uploaded / bin_.seconds for bin_ in bins]),
                Series(_("ended otherwise"), "person", [bin_.others / bin_.seconds for bin_ in bins]),
            ),
            linear(max(ended)),
            lambda rate: _("{rate} orders/s", rate=_number(rate)),
            _(
                "{average} orders/s on average, {most} at most ({time}).",
                average=_number(facts.sent * per_second),
                most=_number(max(ended)),
                time=_clock(facts, ended),
            ),
        ),
        Chart(
            "bytes",
            _("Bytes sent"),
            f"{size(_unit(max(sizes)))[-2:].strip()}/s",
            (Series(_("all sends"), "plain", sizes),),
            linear(max(sizes) / _unit(max(sizes))),
            lambda rate: f"{size(rate)}/s",
            _(
                "{average}/s on average, {most}/s at most ({time}).",
                average=size(facts.bytes_sent * per_second),
                most=size(max(sizes)),
                time=_clock(facts, sizes),
            ),
        ),
        Chart(
            "latency",
            _("Time per order"),
            _("seconds, log scale") if wide else _("seconds"),
            (Series(_("median"), "plain", medians, line=True), Series(_("95 % below"), "faint", slow, line=True)),
            logarithmic(min(some), max(some)) if wide else linear(max(some, default=1.0)),
            _seconds,
            _(
                "Half took {half} or less, 95 % took {most} or less; retries and the waits between them included.",
                half=_seconds(facts.median or 0),
                most=_seconds(facts.slow or 0),
            ),
        ),
        Chart(
            "concurrency",
            _("Orders under way at once"),
            _("orders"),
            (Series(_("under way"), "plain", under_way),),
            linear(max(under_way)),
            lambda orders: _("{orders} orders", orders=_number(orders)),
            _(
                "{average} on average, {most} at most ({time}); waits for a retry count.",
                average=_number(sum(bin_.under_way * bin_.seconds for bin_ in bins) * per_second),
                most=_number(max(under_way)),
                time=_clock(facts, under_way),
            ),
        ),
    ]


def draw(chart: Chart, facts: Facts) -> str:
    """The chart as one SVG element."""
    scaled = _scaled(chart)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{chart.key}-t {chart.key}-d">',
        f'<title id="{chart.key}-t">{escape(chart.title)}, {escape(chart.unit)}</title>',
        f'<desc id="{chart.key}-d">{escape(chart.note)}</desc>',
        *_axes(chart.scale, facts),
    ]
    base = [0.0] * len(facts.bins)
    for series in scaled:
        if series.line:
            parts.append(_line(series, chart.scale, facts))
        else:
            top = [low + (value or 0.0) for low, value in zip(base, series.values, strict=True)]
            parts.append(_area(series.tone, base, top, chart.scale, facts))
            base = top
    parts += [*_hints(chart, facts), "</svg>"]
    return "".join(parts)


def moment(time: float, facts: Facts) -> str:
    """A moment of the run by its own clock."""
    return datetime.fromtimestamp(time, facts.zone).strftime("%H:%M:%S")


def _scaled(chart: Chart) -> Iterator[Series]:
    """The series in the unit of the axis."""
    factor = 1.0
    if chart.key == "bytes":
        factor = _unit(max(value or 0.0 for value in chart.series[0].values))
    for series in chart.series:
        values = [None if value is None else value / factor for value in series.values]
        yield Series(series.name, series.tone, values, series.line)


def _axes(scale: Scale, facts: Facts) -> Iterator[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for tick in scale.ticks:
        y = _y(scale, tick)
        yield f'<path class="grid" d="M{LEFT} {y}H{right}"/>'
        yield f'<text x="{LEFT - 8}" y="{y}" dy="0.35em" text-anchor="end">{_number(tick)}</text>'
    began, ended = _span(facts)
    for time, label in times(began, ended, facts.zone):
        x = _x(time, facts)
        anchor = "start" if x < LEFT + 24 else "end" if x > right - 24 else "middle"
        yield f'<path class="tick" d="M{x} {bottom}v5"/>'
        yield f'<text x="{x}" y="{bottom + 20}" text-anchor="{anchor}">{escape(label)}</text>'
    yield f'<path class="axis" d="M{LEFT} {bottom}H{right}"/>'
    zone = datetime.fromtimestamp(began, facts.zone).strftime("%z")
    what = _("since the first send") if ended - began < SHORT else _("time of day (UTC{zone})", zone=zone)
    yield f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{what}</text>'


def _area(tone: str, base: Sequence[float], top: Sequence[float], scale: Scale, facts: Facts) -> str:
    """Steps along the top, and back along the base."""
    edges = _edges(facts)
    there = "".join(f"V{_y(scale, high)}H{edges[at + 1]}" for at, high in enumerate(top))
    back = "".join(f"V{_y(scale, base[at])}H{edges[at]}" for at in reversed(range(len(base))))
    return f'<path class="area {tone}" d="M{edges[0]} {_y(scale, base[0])}{there}{back}Z"/>'


def _line(series: Series, scale: Scale, facts: Facts) -> str:
    """Through the middles of the stretches; broken where there is no value, a dot where one stands alone."""
    edges, path, pen = _edges(facts), "", False
    values = series.values
    for at, value in enumerate(values):
        if value is not None:
            x, y = round((edges[at] + edges[at + 1]) / 2, 1), _y(scale, value)
            alone = not pen and (at + 1 == len(values) or values[at + 1] is None)
            path += f"{'L' if pen else 'M'}{x} {y}" + ("h0.1" if alone else "")
        pen = value is not None
    return f'<path class="line {series.tone}" d="{path}"/>'


def _hints(chart: Chart, facts: Facts) -> Iterator[str]:
    """What a pointer that rests on a stretch is told."""
    edges = _edges(facts)
    for at, bin_ in enumerate(facts.bins):
        told = [
            f"{series.name}: {chart.shown(value)}"
            for series in chart.series
            if (value := series.values[at]) is not None
        ]
        text = escape("\n".join([stretch(bin_, facts), *told]))
        yield (
            f'<rect class="hint" x="{edges[at]}" y="{TOP}" width="{round(edges[at + 1] - edges[at], 1)}"'
            f' height="{HEIGHT - TOP - BOTTOM}"><title>{text}</title></rect>'
        )


def stretch(bin_: Bin, facts: Facts) -> str:
    """From when to when, by the run's own clock."""
    start = max(bin_.start, facts.began or bin_.start)
    return f"{moment(start, facts)} – {moment(start + bin_.seconds, facts)}"


def _edges(facts: Facts) -> list[float]:
    began, ended = _span(facts)
    starts = [max(bin_.start, began) for bin_ in facts.bins]
    return [_x(time, facts) for time in (*starts, ended)]


def _span(facts: Facts) -> tuple[float, float]:
    began, ended = facts.began or 0.0, facts.ended or 0.0
    return began, max(ended, began + 0.001)


def _x(time: float, facts: Facts) -> float:
    began, ended = _span(facts)
    return round(LEFT + (time - began) / (ended - began) * (WIDTH - LEFT - RIGHT), 1)


def _y(scale: Scale, value: float) -> float:
    return round(HEIGHT - BOTTOM - scale.place(value) * (HEIGHT - TOP - BOTTOM), 1)


def _clock(facts: Facts, values: Sequence[float]) -> str:
    """When the greatest was met."""
    at = max(range(len(values)), key=values.__getitem__)
    return moment(max(facts.bins[at].start, facts.began or 0.0), facts)


def _unit(most: float) -> float:
    """The unit of bytes in which the greatest has one to three digits before its point."""
    return next(unit for unit in (1e9, 1e6, 1e3, 1.0) if most >= unit or unit == 1.0)


def _number(value: float) -> str:
    """Three digits at most that mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _seconds(value: float) -> str:
    return _("{milliseconds:.0f} ms", milliseconds=value * 1000) if value < 0.9995 else duration(value)
