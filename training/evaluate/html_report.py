"""One HTML file with every figure and number inside: no script, nothing to load, readable on paper."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from training.evaluate import charts
from training.evaluate.equal import as_json as equal_as_json
from training.evaluate.equal import at_equal_tokens, left_out_at, yardsticks
from training.evaluate.folder import FIGURES, REPORT_FILE, SUMMARY_FILE
from training.evaluate.summary import Measured, Results, RunSummary, SeriesSummary, as_json
from training.files import write_json, write_text

_MAX_CURVES = 8

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: 1rem 0; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; } .scroll { overflow-x: auto; }
figure { margin: 1.2rem 0; } figcaption { color: #555; font-size: .9rem; }
svg { max-width: 100%; height: auto; }
.warning { background: #fdf0d8; padding: .5rem .8rem; border-left: 4px solid #d99a1c; }
code, pre { background: #f3f3f5; padding: .1rem .3rem; white-space: pre-wrap; overflow-wrap: anywhere; }
"""
_METRICS = """
<p><b>Control</b> is the share of runs with a thinking budget whose mean thinking kept it. <b>Scaling</b> is
how many percentage points of accuracy a doubling of the thinking brings, on average over all pairs of runs.
<b>Performance</b> is the accuracy of the best run.</p>
"""
_HOW_TO_READ = """
<p>A <em>run</em> is one setting over all questions of a benchmark; a <em>series</em> is one method over
several settings. Thinking tokens are counted by the server and are means per question, of everything that
was generated for it. Bars and brackets are 95 % intervals: questions are drawn anew 2,000 times, the same
draw for every run.</p>
<ul>
<li><b>Control</b>: of the runs with a minimum or maximum, the share whose mean thinking tokens keep it. Of
rejection sampling the tokens of the thoughts it took are meant; a prompt for short or long thinking must make
it less or more than without one.</li>
<li><b>Cut</b> are samples that <code>max_completion_tokens</code> or the context ended, <b>rejected</b> those
none of whose tries fitted.</li>
<li><b>Scaling</b>: percentage points of accuracy per doubling of thinking tokens, the mean slope over all
pairs of runs. Runs close together in tokens make single slopes steep, so look at the curve, too. The slope
per 1,000 tokens is the same over raw tokens. Runs without thinking have no logarithm and are left out; runs
that differ in no amount of thinking, as those of several wait texts, have no slope.</li>
<li><b>Performance</b>: the best run's accuracy. The best of many runs is partly luck.</li>
</ul>
"""
_EQUAL = (
    "<p>One line of thought that may think so many tokens, and parallel methods whose branches may think as "
    "many together; question by question on the same ones. Where several budgets have the same maximum, the "
    "best is what all others are compared with; it is partly lucky. Questions whose maximum was lowered in "
    "one of the runs are left out of all. Tokens are what they used.</p>"
)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure with the name of its files and what it shows."""

    name: str
    figure: Any
    caption: str


def write_report(results: Results, folder: Path) -> Path:
    """Writes report.html, summary.json and figures/*.svg, *.png; returns the report's path."""
    sections: list[str] = []
    equal: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []
    names = dict.fromkeys(series.benchmark for series in results.series)
    for benchmark in names:
        series = [one for one in results.series if one.benchmark == benchmark]
        figures = list(draw(series))
        for drawn in figures:
            _save(drawn, folder / FIGURES)
        sections.append(_section(benchmark, series, figures))
        equal += [{"benchmark": benchmark, **equal_as_json(row)} for row in at_equal_tokens(series)]
        left_out += [{"benchmark": benchmark, "allowed_thinking_tokens": at} for at in left_out_at(series)]
    path = folder / REPORT_FILE
    write_text(path, _page(results, sections))
    compared = {"equal_tokens": equal, "equal_tokens_left_out": left_out}
    write_json(folder / SUMMARY_FILE, {**as_json(results), **compared})
    return path


def draw(series: Sequence[SeriesSummary]) -> Iterator[Drawn]:
    """All figures of one benchmark."""
    name = _slug(series[0].benchmark)
    for suffix, title, group in _groups(series):
        yield Drawn(
            f"{name}-accuracy{suffix}",
            charts.accuracy_over_tokens(group, title=title),
            "Accuracy against mean thinking tokens. A dashed level is a run that didn't think.",
        )
    yield Drawn(
        f"{name}-methods",
        charts.methods_side_by_side(series),
        "The three metrics, series by series. Slopes are cut at 100 points.",
    )
    sequential = yardsticks(series) or [one for one in series if not one.is_parallel]
    parallel = [one for one in series if one.is_parallel]
    compared = charts.parallel_against_sequential([*sequential, *parallel])
    if compared is not None:
        yield Drawn(f"{name}-parallel", compared, "Parallel against sequential, at all tokens they thought.")
    for one in series:
        slug = f"{name}-{_slug(one.name)}"
        yield Drawn(f"{slug}-tokens", charts.token_histograms(one), f"{one.name}: tokens of single samples.")
        if len(one.runs) > 1:
            caption = (
                f"{one.name}: which questions are right, run by run, and how many each run gains and loses "
                "against the one above it."
            )
            yield Drawn(f"{slug}-flips", charts.flips(one), caption)


def _groups(series: Sequence[SeriesSummary]) -> list[tuple[str, str, list[SeriesSummary]]]:
    """What one figure can hold; many series make three: budgets, other sequential methods, parallel ones."""
    if len(series) <= _MAX_CURVES:
        return [("", "", list(series))]
    kinds = (
        ("-budgets", "budget forcing", [one for one in series if one.method == "budget"]),
        (
            "-alternatives",
            "other sequential methods",
            [one for one in series if one.method != "budget" and not one.is_parallel],
        ),
        ("-branches", "parallel methods", [one for one in series if one.is_parallel]),
    )
    return [(suffix, title, group) for suffix, title, group in kinds if group]


def _save(drawn: Drawn, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{drawn.name}.svg").write_text(_svg(drawn.figure), encoding="utf-8")
    drawn.figure.savefig(folder / f"{drawn.name}.png", dpi=130)


def _svg(figure: Any) -> str:
    import matplotlib

    buffer = io.StringIO()
    # Text stays text: a fifth of the size, and readers can search it.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "s1"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _page(results: Results, sections: Sequence[str]) -> str:
    title = f"{escape(str(results.facts['model']))}: accuracy against thinking tokens"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body>\n<h1>{title}</h1>\n"
        f"{_warnings(results)}{_METRICS}{_contents(results)}{''.join(sections)}"
        f'<h2 id="how-to-read">How to read this</h2>{_HOW_TO_READ}'
        f'<h2 id="conditions">Conditions</h2>{_conditions(results)}</body></html>\n'
    )


def _contents(results: Results) -> str:
    sections = {f"of-{_slug(one.benchmark)}": one.benchmark for one in results.series}
    links = {**sections, "how-to-read": "How to read this", "conditions": "Conditions"}
    items = "".join(f'<li><a href="#{at}">{escape(title)}</a></li>' for at, title in links.items())
    return f"<ul>{items}</ul>"


def _warnings(results: Results) -> str:
    facts, said = results.facts, []
    if facts["errors"]:
        said.append(f"{facts['errors']} samples have no answer; they count as wrong.")
    if facts["undecided"]:
        said.append(
            f"{facts['undecided']} answers could not be compared by a program and count as wrong; "
            "a grader model (--grader) can compare them."
        )
    if results.clamps.warning is not None:
        said.append(f"{results.clamps.warning}. The tables say which, and what was granted.")
    if not results.tokens_are_thinking:
        said.append("Some answers came without a count of thinking tokens: completion tokens stand for them.")
    return "".join(f'<p class="warning">{escape(text)}</p>' for text in said)


def _section(benchmark: str, series: Sequence[SeriesSummary], figures: Sequence[Drawn]) -> str:
    drawn = "".join(
        f"<figure>{_svg(figure.figure)}<figcaption>{escape(figure.caption)}</figcaption></figure>"
        for figure in figures
    )
    tables = "".join(f"<h3>{escape(one.name)}</h3>{_runs_table(one)}" for one in series)
    title = f'<h2 id="of-{_slug(benchmark)}">{escape(benchmark)}</h2>'
    return f"{title}{_metrics_table(series)}{_equal_table(series)}{drawn}{tables}"


def _equal_table(series: Sequence[SeriesSummary]) -> str:
    """Nothing where no parallel run was to think as much as a sequential one."""
    compared, left_out = at_equal_tokens(series), left_out_at(series)
    if not compared and not left_out:
        return ""
    said = "".join(
        f'<p class="warning">At {at:,.0f} nothing is compared: no question had them granted in full by every '
        "run.</p>"
        for at in left_out
    )
    head = (
        "may think",
        "series",
        "setting",
        "accuracy (%)",
        "difference (points)",
        "thinking tokens",
        "questions",
    )
    rows = [
        (
            f"{one.allowed:,.0f}",
            one.series,
            one.label,
            _text(one.accuracy, 1),
            "compared with" if one.difference is None else _text(one.difference, 1),
            _tokens(one.thinking_tokens),
            str(one.num_questions),
        )
        for one in compared
    ]
    table = _table(head, rows) if rows else ""
    return f"<h3>At equal thinking tokens</h3>{_EQUAL}{said}{table}"


def _metrics_table(series: Sequence[SeriesSummary]) -> str:
    head = (
        "series",
        "Control (%)",
        "Scaling (points per doubling)",
        "points per 1,000 tokens",
        "Performance (%)",
        "runs",
        "questions",
    )
    rows = [
        (
            one.name,
            _text(one.control, 0),
            _text(one.points_per_doubling, 1),
            _text(one.points_per_thousand_tokens, 1),
            f"{_text(one.performance, 1)} at {one.best.label}",
            str(len(one.runs)),
            str(one.num_questions),
        )
        for one in series
    ]
    return _table(head, rows)


def _runs_table(series: SeriesSummary) -> str:
    """Columns about what mostly doesn't happen are there only where it did."""
    flips = [("", ""), *(charts.flips_between(*pair) for pair in itertools.pairwise(series.runs))]
    columns = {
        "setting": [run.label for run in series.runs],
        "accuracy (%)": [_text(run.accuracy, 1) for run in series.runs],
        "thinking tokens": [_tokens(run.thinking_tokens) for run in series.runs],
        "of accepted thoughts": [_tokens(run.accepted_tokens) for run in series.runs],
        "completion tokens": [_tokens(run.completion_tokens) for run in series.runs],
        "gained": [str(gained) for gained, _ in flips],
        "lost": [str(lost) for _, lost in flips],
        "errors": [str(run.num_errors) for run in series.runs],
        "undecided": [str(run.num_undecided) for run in series.runs],
        "rejected": [str(run.num_rejected) for run in series.runs],
        "cut": [str(run.num_cut) for run in series.runs],
        "budget lowered": [_lowered(run) for run in series.runs],
    }
    happened = {
        "of accepted thoughts": any(run.accepted_tokens is not None for run in series.runs),
        "rejected": any(run.num_rejected for run in series.runs),
        "cut": any(run.num_cut for run in series.runs),
        "budget lowered": any(run.clamps.num_clamped for run in series.runs),
    }
    head = [name for name in columns if happened.get(name, True)]
    return _table(head, list(zip(*(columns[name] for name in head), strict=True)))


def _lowered(run: RunSummary) -> str:
    if not run.clamps.num_clamped:
        return ""
    at_most = run.questions.at_most
    granted = "" if at_most is None else f", may think {at_most:,.0f}"
    return f"{run.clamps}{granted}"


def _conditions(results: Results) -> str:
    facts = results.facts
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    rows = [
        ("started", str(facts["started_at"])),
        ("seconds", _seconds(facts)),
        ("samples per question and setting", str(facts["samples"])),
        ("graded by", ", ".join(f"{rule} {count}" for rule, count in facts["graded_by"].items())),
        ("grader model", str(facts["grader"] or "none")),
        ("versions", versions),
    ]
    for benchmark in facts["benchmarks"]:
        said = f"{benchmark['num_questions']} questions, {benchmark['source']}"
        said += f", fingerprint {benchmark['fingerprint']}, at most {benchmark['max_tokens']:,} tokens"
        rows.append((benchmark["name"], said))
    return f"<pre>{escape(str(facts['command']))}</pre>{_table(('', ''), rows)}"


def _seconds(facts: Mapping[str, Any]) -> str:
    """Until the report was drawn, with the machine's load, which other work shares."""
    parts = facts.get("parts", [])
    loads = ", ".join("{} to {}".format(*part["load_averages"]) for part in parts)
    told = f", in {len(parts)} parts" if len(parts) > 1 else ""
    return f"{facts['seconds']:,}{told}" + (
        f"; load average {loads} on {parts[0]['cores']} cores" if parts else ""
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _text(measured: Measured, digits: int) -> str:
    if measured.value is None:
        return "none"
    value = f"{measured.value:.{digits}f}"
    interval = measured.interval
    return value if interval is None else f"{value} ({interval.low:.{digits}f} – {interval.high:.{digits}f})"


def _tokens(mean: float | None) -> str:
    return "" if mean is None or math.isnan(mean) else f"{mean:,.0f}"


def _slug(text: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
