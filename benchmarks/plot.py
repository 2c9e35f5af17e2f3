"""A plot of lines as SVG, with no library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, log2, log10

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 200, 40, 50
COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#8e6c8a")
NUM_TICKS = 5


def lines(
    title: str, x_label: str, y_label: str, xs: Sequence[int], series: Mapping[str, Sequence[float]]
) -> str:
    """A line for each of `series` over `xs`, which are drawn at equal steps of doubling."""
    top = _round_up(max(max(values) for values in series.values()))
    places = [_x(x, xs) for x in xs]
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
             'font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
             _text(LEFT, 22, title, 'font-weight="bold"'),
             _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_label, 'text-anchor="middle"'),
             _text(8, TOP - 6, y_label)]
    for tick in range(NUM_TICKS + 1):
        value = top * tick / NUM_TICKS
        parts += [f'<path d="M{LEFT} {_y(value, top):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>',
                  _text(LEFT - 6, _y(value, top) + 4, f"{value:,.0f}", 'text-anchor="end"')]
    parts += [_text(place, HEIGHT - BOTTOM + 18, str(x), 'text-anchor="middle"')
              for place, x in zip(places, xs, strict=True)]
    for colour, (name, values) in zip(COLOURS, series.items(), strict=False):
        heights = [_y(value, top) for value in values]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(places, heights, strict=True))
        parts += [f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>',
                  _text(places[-1] + 8, heights[-1] + 4, name, f'fill="{colour}"')]
    return "\n".join([*parts, "</svg>\n"])


def _x(x: int, xs: Sequence[int]) -> float:
    span = log2(xs[-1] / xs[0]) or 1
    return LEFT + 10 + (WIDTH - LEFT - RIGHT - 20) * log2(x / xs[0]) / span


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top


def _round_up(value: float) -> float:
    """The next number of one digit and zeros."""
    unit = 10.0 ** int(log10(value))
    return float(ceil(value / unit) * unit)


def _text(x: float, y: float, text: str, attributes: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{text}</text>'
