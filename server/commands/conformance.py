"""`s1 conformance URL`: which thinking budgets a server holds, ignores and refuses.

A few small greedy requests to any OpenAI-compatible server, with the budget fields of several engines. What
is compared is the thinking that came back, not what the server says of itself. Where a server doesn't tell
thinking and answer apart (no reasoning parser for the model), less can be seen: a maximum that leaves the
answer as it was has had no effect, and what has changed it remains unclear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Annotated, Any

import httpx
import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from server.commands.failing import fail

_QUESTION = "How many r in raspberry?"
_LARGEST_BUDGET = 16
_EXTRA_TOKENS = 24
"""How far the tested minimum lies above the natural length."""
_NUM_WAITS = 2
_NATURAL_ROOM = 1024
_EVIDENCE_CHARACTERS = 160
_NOT_TOLD_APART = "the server doesn't tell thinking and answer apart"


class Verdict(StrEnum):
    HELD = "held"
    IGNORED = "ignored"
    NO_EFFECT = "no effect"
    REFUSED = "refused"
    UNCLEAR = "unclear"
    NATURAL = "natural"
    """Not a verdict: what the model does when nothing is asked."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    dialect: str
    asked: str
    verdict: Verdict
    evidence: str


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer, as far as budgets are concerned."""

    status: int
    error: str = ""
    reasoning: str = ""
    content: str = ""
    thinking_tokens: int = 0
    counted_by: str = ""
    all_tokens: int | None = None
    """Thinking and answer together, if the server counts them."""
    receipt: Mapping[str, Any] | None = None

    @property
    def text(self) -> str:
        return self.reasoning + self.content

    @property
    def told_apart(self) -> bool:
        return bool(self.reasoning)


@dataclass(frozen=True, slots=True)
class _Check:
    dialect: str
    fields: Mapping[str, Any]
    judge: Callable[[Seen, Seen], tuple[Verdict, str]]
    """Of the natural answer and this one, which was accepted."""
    room: int = _NATURAL_ROOM


class Unreachable(Exception):
    """There is no server, or none with models; or its address or key can't be used."""


class Server:
    def __init__(self, url: str, *, model: str | None, api_key: str | None, timeout_s: float) -> None:
        """Raises: Unreachable."""
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self.url = url.rstrip("/").removesuffix("/v1")
        try:
            self._client = httpx.Client(base_url=self.url, headers=headers, timeout=timeout_s)
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise Unreachable(f"URL or --api-key can't be used: {error}") from None
        self._model = model

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def model(self) -> str:
        """The model asked for, or the server's first.

        Raises:
            Unreachable
        """
        if self._model is None:
            try:
                answer = self._client.get("/v1/models")
                self._model = str(answer.raise_for_status().json()["data"][0]["id"])
            except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
                raise Unreachable(f"{self.url}/v1/models can't be read: {error}") from error
        return self._model

    def ask(self, fields: Mapping[str, Any], *, room: int) -> Seen:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": _QUESTION}],
            "temperature": 0,
            "max_tokens": room,
            **fields,
        }
        try:
            response = self._client.post("/v1/chat/completions", json=body)
            answer = orjson.loads(response.content)
            if response.status_code != 200:
                return Seen(response.status_code, error=_message(answer))
            return self._seen(answer)
        except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            return Seen(0, error=f"{type(error).__name__}: {error}")

    def _seen(self, answer: Mapping[str, Any]) -> Seen:
        choice = answer["choices"][0]
        message = choice["message"]
        reasoning = message.get("reasoning") or message.get("reasoning_content") or ""
        tokens, counted_by = self._count(answer, reasoning)
        return Seen(
            200,
            reasoning=reasoning,
            content=message.get("content") or "",
            thinking_tokens=tokens,
            counted_by=counted_by,
            all_tokens=(answer.get("usage") or {}).get("completion_tokens"),
            receipt=choice.get("thinking_budget"),
        )

    def _count(self, answer: Mapping[str, Any], reasoning: str) -> tuple[int, str]:
        """Thinking tokens: the server's usage, else its /tokenize, else words."""
        details = (answer.get("usage") or {}).get("completion_tokens_details") or {}
        counted = details.get("reasoning_tokens")
        if isinstance(counted, int) and (counted or not reasoning):
            return counted, "usage"
        # vLLM's and SGLang's name of the text, and llama.cpp's.
        body = {"model": self.model, "prompt": reasoning, "content": reasoning, "add_special_tokens": False}
        response = self._client.post("/tokenize", json=body)
        if response.status_code == 200 and isinstance(tokens := response.json().get("tokens"), list):
            return len(tokens), "/tokenize"
        return len(reasoning.split()), "words"


def examine(server: Server) -> list[Finding]:
    """Ask everything.

    Raises:
        Unreachable: not even a plain request is answered.
    """
    natural = server.ask({}, room=_NATURAL_ROOM)
    if natural.status != 200:
        raise Unreachable(f"a plain request failed ({natural.status or 'no answer'}): {natural.error}")
    evidence = _counts(natural) if natural.told_apart else f"{_all(natural)}; {_NOT_TOLD_APART}"
    findings = [Finding("-", "no budget", Verdict.NATURAL, evidence)]
    for check in _checks(natural):
        findings.append(_finding(check, natural, server.ask(check.fields, room=check.room)))
    return findings


def _checks(natural: Seen) -> list[_Check]:
    length = natural.thinking_tokens if natural.told_apart else (natural.all_tokens or 0)
    budget = max(1, min(_LARGEST_BUDGET, length // 2))
    more = length + _EXTRA_TOKENS
    roomy = _NATURAL_ROOM + 2 * more
    return [
        _Check("s1", {"max_thinking_tokens": budget}, _at_most(budget)),
        _Check("s1", {"max_thinking_tokens": 0}, _at_most(0)),
        _Check("s1", {"min_thinking_tokens": more}, _at_least(more), room=roomy),
        _Check("s1", {"num_waits": _NUM_WAITS}, _waited, room=roomy),
        _Check("s1", {"max_thinking_tokens": -1}, _should_be_refused),
        _Check("s1", {"max_thinking_tokens": 1, "min_thinking_tokens": 2}, _should_be_refused),
        _Check("vLLM", {"thinking_token_budget": budget}, _at_most(budget)),
        _Check("vLLM", {"thinking_token_budget": -7}, _should_be_refused),
        _Check("SGLang", {"custom_params": {"thinking_budget": budget}}, _at_most(budget)),
        _Check("llama.cpp", {"reasoning_budget_tokens": budget}, _at_most(budget)),
        _Check("llama.cpp", {"thinking_budget_tokens": budget}, _at_most(budget)),
        _Check("llama.cpp", {"reasoning_budget_tokens": -7}, _should_be_refused),
    ]


def _finding(check: _Check, natural: Seen, got: Seen) -> Finding:
    asked = orjson.dumps(dict(check.fields)).decode()
    if 400 <= got.status < 500:
        return Finding(check.dialect, asked, Verdict.REFUSED, f"{got.status}: {_cut(got.error)}")
    if got.status != 200:
        return Finding(
            check.dialect, asked, Verdict.FAILED, f"{got.status or 'no answer'}: {_cut(got.error)}"
        )
    verdict, why = check.judge(natural, got)
    return Finding(check.dialect, asked, verdict, why)


def _at_most(budget: int) -> Callable[[Seen, Seen], tuple[Verdict, str]]:
    def judge(natural: Seen, got: Seen) -> tuple[Verdict, str]:
        same = got.text == natural.text
        if not _thinking_is_seen(natural, got):
            return (Verdict.NO_EFFECT if same else Verdict.UNCLEAR), _compared(natural, got)
        evidence = f"{_counts(got)}; {_without(natural)}"
        if got.thinking_tokens > budget:
            return Verdict.IGNORED, evidence
        nothing_to_hold = natural.thinking_tokens <= budget if natural.told_apart else same
        if nothing_to_hold or got.counted_by == "words":
            return Verdict.UNCLEAR, evidence
        if not got.content.strip():
            return Verdict.HELD, f"{evidence}; but the answer is empty"
        return Verdict.HELD, evidence

    return judge


def _at_least(budget: int) -> Callable[[Seen, Seen], tuple[Verdict, str]]:
    def judge(natural: Seen, got: Seen) -> tuple[Verdict, str]:
        if not _thinking_is_seen(natural, got):
            too_short = got.text == natural.text or (got.all_tokens or budget) < budget
            return (Verdict.IGNORED if too_short else Verdict.UNCLEAR), _compared(natural, got)
        # There are never more words than tokens.
        below = Verdict.UNCLEAR if got.counted_by == "words" else Verdict.IGNORED
        return (
            Verdict.HELD if got.thinking_tokens >= budget else below,
            f"{_counts(got)}; {_without(natural)}",
        )

    return judge


def _waited(natural: Seen, got: Seen) -> tuple[Verdict, str]:
    before, after = natural.text.count("Wait"), got.text.count("Wait")
    counts = _counts(got) if _thinking_is_seen(natural, got) else _compared(natural, got)
    evidence = f"{after} 'Wait', {before} without; {counts}"
    if got.receipt is not None:
        evidence += f"; receipt: {got.receipt.get('waits')} waits"
    if got.text == natural.text:
        return Verdict.IGNORED, evidence
    return (Verdict.HELD if after >= before + _NUM_WAITS else Verdict.UNCLEAR), evidence


def _should_be_refused(natural: Seen, got: Seen) -> tuple[Verdict, str]:
    counts = _counts(got) if natural.told_apart else _compared(natural, got)
    return Verdict.IGNORED, f"accepted, though it can't be meant; {counts}"


def _thinking_is_seen(natural: Seen, got: Seen) -> bool:
    """A server may tell it apart only where there is a budget."""
    return natural.told_apart or got.told_apart or got.receipt is not None


def _without(natural: Seen) -> str:
    if natural.told_apart:
        return f"{natural.thinking_tokens} without"
    return f"{_all(natural)} without, the answer included"


def _compared(natural: Seen, got: Seen) -> str:
    """Where thinking and answer aren't told apart."""
    if got.text == natural.text:
        return f"the same answer as without the field ({_all(got)})"
    return f"another answer than without the field ({_all(got)}; {_all(natural)} without)"


def _all(seen: Seen) -> str:
    return f"{len(seen.text.split())} words" if seen.all_tokens is None else f"{seen.all_tokens} tokens"


def _counts(seen: Seen) -> str:
    return f"{seen.thinking_tokens} thinking tokens (by {seen.counted_by})"


def _message(answer: Any) -> str:
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    return str(error.get("message", error) if isinstance(error, dict) else error)


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _EVIDENCE_CHARACTERS else f"{text[:_EVIDENCE_CHARACTERS]}…"


_COLOURS = {
    Verdict.HELD: "green",
    Verdict.IGNORED: "red",
    Verdict.NO_EFFECT: "red",
    Verdict.NATURAL: "white",
    Verdict.REFUSED: "cyan",
    Verdict.UNCLEAR: "yellow",
    Verdict.FAILED: "magenta",
}


def _table(server: Server, findings: Sequence[Finding]) -> Table:
    table = Table(title=f"thinking budgets of {escape(server.model)} at {escape(server.url)}")
    for column in ("dialect", "asked", "verdict", "evidence"):
        table.add_column(column, overflow="fold")
    for found in findings:
        verdict = f"[{_COLOURS[found.verdict]}]{found.verdict}[/]"
        table.add_row(found.dialect, escape(found.asked), verdict, escape(found.evidence))
    return table


def conformance(
    url: Annotated[
        str, typer.Argument(help="Base URL of any OpenAI-compatible server, with or without /v1.")
    ],
    model: Annotated[str | None, typer.Option(help="Default: the first that the server lists.")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar=["S1_API_KEY", "OPENAI_API_KEY"], help="Sent as bearer token.")
    ] = None,
    timeout_s: Annotated[float, typer.Option(min=1, help="For each request.")] = 300,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show which thinking budgets a server holds, ignores or refuses. Fails only if it can't be reached."""
    try:
        with Server(url, model=model, api_key=api_key, timeout_s=timeout_s) as server:
            findings = examine(server)
    except Unreachable as error:
        fail(str(error), code=1)
    if as_json:
        body = {"url": server.url, "model": server.model, "findings": [asdict(f) for f in findings]}
        typer.echo(orjson.dumps(body, option=orjson.OPT_INDENT_2).decode())
    else:
        Console().print(_table(server, findings))
