"""Accuracy against thinking tokens as one picture."""

from pathlib import Path
from typing import Any

from training.evaluate.demo_curve.results import BUDGET_WAITS, Curves, Row

_SIZE_INCHES = (7.2, 3.6)
_CLOSE = 4.0
"""Points nearer than so many tokens share the first one's label."""


def draw(curves: Curves, path: Path) -> None:
    """Two lines with 95 % intervals over mean thinking tokens; the file's ending chooses the format."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=_SIZE_INCHES, layout="constrained")
    _line(axes, curves.budgets, f"maximum 0 to 384, num_waits {BUDGET_WAITS}", "o", "max_thinking_tokens")
    _line(axes, curves.waits, "num_waits 0 to 4, no maximum", "s", "num_waits")
    axes.set_xlabel("thinking tokens (mean)")
    axes.set_ylabel("accuracy (%)")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def _line(axes: Any, rows: tuple[Row, ...], label: str, marker: str, field: str) -> None:
    tokens = [row.mean_thinking_tokens for row in rows]
    accuracy = [100 * row.accuracy for row in rows]
    below = [100 * (row.accuracy - row.interval[0]) for row in rows]
    above = [100 * (row.interval[1] - row.accuracy) for row in rows]
    axes.errorbar(tokens, accuracy, yerr=(below, above), marker=marker, capsize=3, label=label)
    offset = (5, -11) if marker == "o" else (-4, 8)
    labelled = -_CLOSE
    for row, x, y in zip(rows, tokens, accuracy, strict=True):
        if x - labelled < _CLOSE:
            continue
        labelled = x
        axes.annotate(
            str(getattr(row.setting, field)), (x, y), textcoords="offset points", xytext=offset, fontsize=8
        )
