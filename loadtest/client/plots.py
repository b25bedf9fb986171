"""Line plots as SVG, small enough to need no library and no script in the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 520, 256
_LEFT, _BOTTOM, _TOP, _RIGHT = 56, 34, 26, 12
_COLOURS = ("#3366cc", "#dc7a1e", "#2a9d5c", "#b03a8c", "#6b6b6b", "#8a6d1e")


def line_plot(series: Mapping[str, Points], *, x: str, y: str, log_x: bool = False) -> str:
    """One `<svg>`; series without points are left out. Axes begin at 0 unless `log_x`."""
    drawn = {name: points for name, points in series.items() if points}
    if not drawn:
        return "<p>nothing to draw</p>"
    every = [point for points in drawn.values() for point in points]
    x_low = min(p[0] for p in every) if log_x else 0.0
    x_high, y_high = max(p[0] for p in every), max(p[1] for p in every)

    def at_x(value: float) -> float:
        low, high, here = (
            (math.log(max(v, 1e-9)) for v in (x_low, x_high, value)) if log_x else (x_low, x_high, value)
        )
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * ((here - low) / ((high - low) or 1))

    def at_y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * (value / (y_high or 1))

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(y)} over {escape(x)}">',
        f'<path class="axis" d="M{_LEFT} {_TOP}V{_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}"/>',
    ]
    for part in range(5):
        value = y_high * part / 4
        parts.append(_text(_LEFT - 6, at_y(value) + 4, _short(value), "end"))
    for part in range(5):
        share = part / 4
        value = x_low * (x_high / x_low) ** share if log_x and x_low > 0 else x_low + (x_high - x_low) * share
        parts.append(_text(at_x(value), _HEIGHT - _BOTTOM + 15, _short(value), "middle"))
    parts.append(_text(_WIDTH - _RIGHT, _HEIGHT - 4, x, "end"))
    # Above the plot: a line that is high would strike it out.
    parts.append(_text(_LEFT, _TOP - 12, y, "start"))
    for number, (name, points) in enumerate(drawn.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        line = " ".join(f"{at_x(px):.1f},{at_y(py):.1f}" for px, py in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        if len(drawn) > 1:
            parts.append(_text(_WIDTH - _RIGHT, _TOP + 24 + 15 * number, name, "end", colour))
    return "".join([*parts, "</svg>"])


def _text(x: float, y: float, text: str, anchor: str, colour: str = "currentColor") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
