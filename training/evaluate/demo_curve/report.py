"""Results for people (tables), for machines (JSON) and for the model card (Markdown)."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from training.evaluate.demo_curve.results import BUDGET_WAITS, MAX_COMPLETION_TOKENS, Curves, Row

CARD_BEGIN = "<!-- curve:begin -->"
CARD_END = "<!-- curve:end -->"
_COLUMNS = ("accuracy", "95 % interval", "thinking tokens", "empty", "errors")


class CardError(ValueError):
    """The model card has no place for the curve."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Under which conditions the numbers were measured."""

    command: str
    source: str
    model: str
    suite: str
    num_questions: int
    started_at: str
    seconds: float
    versions: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "temperature": 0, "max_completion_tokens": MAX_COMPLETION_TOKENS}


def print_tables(console: Console, curves: Curves) -> None:
    for title, first_column, rows in _tables(curves):
        table = Table(title=title, title_justify="left")
        for column in (first_column, *_COLUMNS):
            table.add_column(column, justify="right")
        for label, row in rows:
            table.add_row(label, *_cells(row))
        console.print(table)


def as_json(curves: Curves, provenance: Provenance) -> dict[str, Any]:
    tables = {"budgets": curves.budgets, "waits": curves.waits, "minima": curves.minima}
    return {
        "provenance": provenance.as_json(),
        **{name: [_row_as_json(row) for row in rows] for name, rows in tables.items()},
    }


def update_card(card: Path, curves: Curves, provenance: Provenance) -> None:
    """Rewrites what stands between the card's two curve comments.

    Raises:
        CardError: the comments are missing or in the wrong order.
    """
    text = card.read_text()
    before, begin, rest = text.partition(CARD_BEGIN)
    _, end, after = rest.partition(CARD_END)
    if not begin or not end:
        raise CardError(f"{card} must contain {CARD_BEGIN} and, after it, {CARD_END}")
    card.write_text(f"{before}{begin}\n{_markdown(curves, provenance)}{end}{after}")


def _tables(curves: Curves) -> list[tuple[str, str, list[tuple[str, Row]]]]:
    waits = [(f"num_waits {row.setting.num_waits}", row) for row in curves.waits]
    minima = [(f"min_thinking_tokens {row.setting.min_thinking_tokens or 0}", row) for row in curves.minima]
    budgets = [(str(row.setting.max_thinking_tokens), row) for row in curves.budgets]
    return [
        (f"Budgets, with num_waits {BUDGET_WAITS}", "max_thinking_tokens", budgets),
        ("Waits and minimum, without a maximum", "field", waits + minima),
    ]


def _cells(row: Row) -> list[str]:
    low, high = row.interval
    return [
        f"{100 * row.accuracy:.1f}",
        f"{100 * low:.1f} – {100 * high:.1f}",
        f"{row.mean_thinking_tokens:.0f}",
        str(row.num_empty),
        str(row.num_errors),
    ]


def _row_as_json(row: Row) -> dict[str, Any]:
    low, high = row.interval
    return {
        **row.setting.fields(),
        "num_questions": row.num_questions,
        "num_correct": row.num_correct,
        "accuracy": round(row.accuracy, 4),
        "interval_95": [round(low, 4), round(high, 4)],
        "mean_thinking_tokens": round(row.mean_thinking_tokens, 2),
        "num_empty": row.num_empty,
        "num_errors": row.num_errors,
    }


def _markdown(curves: Curves, provenance: Provenance) -> str:
    installed = ", ".join(f"{name} {version}" for name, version in provenance.versions.items())
    parts = [
        f"Measured with `{provenance.command}` on {provenance.started_at[:10]}: {provenance.source},\n"
        f"greedy, `max_completion_tokens` {MAX_COMPLETION_TOKENS}, "
        f"{provenance.num_questions} held-out questions (suite `{provenance.suite}`); {installed}.\n"
        "Accuracies are percentages with 95 % Wilson intervals; tokens are means.\n"
    ]
    for title, first_column, rows in _tables(curves):
        header = (f"`{first_column}`" if "_" in first_column else first_column, *_COLUMNS)
        lines = [_markdown_line(header), _markdown_line(["---:"] * len(header))]
        lines += [_markdown_line([label, *_cells(row)]) for label, row in rows]
        parts.append(f"{title}:\n\n" + "".join(lines))
    return "\n".join(parts)


def _markdown_line(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cells)} |\n"
