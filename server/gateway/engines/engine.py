"""One engine, over its HTTP API: what it is, what it is asked, and whether it is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import orjson
from pydantic import BaseModel, ValidationError, field_validator

from server.budget.markers import MarkerIds
from server.budget.receipt import EngineReceipt
from server.budget.spec import BUDGET_FIELDS
from server.gateway.chat.chat_call import EngineCall
from server.gateway.chat.granularity import Pace, StreamSpeed
from server.gateway.chat.sse import DONE, EventSplitter
from server.gateway.engines.capacity import kv_cache_tokens
from server.gateway.engines.engine_http import Connection, Connections, strip_credentials
from server.gateway.engines.progress import tokens_made
from server.gateway.errors import EngineDied, EngineMisbehaved, EngineRefused, ReceiptMissing
from server.gateway.observe.trace_context import trace_headers
from server.gateway.settings import Settings

if TYPE_CHECKING:
    from server.gateway.rounds.completions import Completions

PROTOCOL = 1
"""Version of /s1/engine, `vllm_xargs` and /s1/receipts that this gateway speaks."""

_RECEIPT = "s1_receipt"
"""The field or event with which an engine sends a receipt along with its answer."""
_RECEIPT_EVENT = b'{"s1_receipt":'
MOST_PROMPT_WORK = 3
"""Tokenizing and rendering at once, for all workers: vLLM does it in the process that serves everybody."""
CONTROL_TIMEOUT_S = 15.0
"""An engine takes a word between two steps, and a step that reads a long prompt lasts."""

EngineState = Literal["starting", "ready", "down"]
Enforcement = Literal["native", "rounds", "none"]


class EngineDescription(BaseModel):
    """GET /s1/engine."""

    protocol: int
    family: str
    think_start: str | None = None
    think_end: str | None = None
    wait_text: str | None = None
    answer_prompt: str | None = None
    enforces: tuple[str, ...]
    """Of the budget fields that this gateway knows: an engine of a later version may have others."""
    minimum_room: int
    """Fewest completion tokens in which a budgeted request has a non-empty answer."""
    processor: str | None = None
    max_model_len: int | None = None
    checkpoint: str | None = None
    """Which weights it has loaded."""

    @field_validator("enforces")
    @classmethod
    def _known(cls, fields: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in fields if name in BUDGET_FIELDS)


@dataclass(frozen=True, slots=True)
class RoundsSupport:
    """What the gateway has learnt of an engine without our plugin, to enforce budgets by itself."""

    ids: MarkerIds
    description: EngineDescription
    dialect: type[Completions]
    """How its make is asked for completions."""


@dataclass(slots=True)
class EngineStatus:
    """What the pool has learnt of an engine."""

    state: EngineState = "starting"
    models: tuple[dict[str, Any], ...] = ()
    """The engine's own model cards; kept when it goes down."""
    description: EngineDescription | None = None
    """None: the engine runs without our plugin."""
    rounds: RoundsSupport | None = None
    """Set if the gateway enforces budgets on this engine in rounds."""
    enforcement: Enforcement = "none"
    reason: str = "not reached yet"
    """Why the engine isn't ready, or why it enforces nothing; empty when all is well."""
    reconnects: int = 0
    kv_cache_tokens: int | None = None
    """What its KV cache holds; None if it doesn't say."""


class ChatEngine(Protocol):
    """What answers chat requests: an engine, or the gateway's rounds before one."""

    def occupied(self, generations: int) -> AbstractContextManager[None]: ...
    async def complete(self, call: EngineCall) -> dict[str, Any]: ...
    async def stream(
        self, call: EngineCall, on_event: Callable[[dict[str, Any]], Awaitable[None]]
    ) -> None: ...
    async def receipt(self, call: EngineCall, output_tokens: int) -> EngineReceipt:
        """The record of a call with a receipt id, as of at least so many tokens."""
        ...

    async def end_thinking(self, receipt_id: str, ended_by: str) -> str:
        """Leave a choice's thinking after its next token (rule 10).

        Args:
            ended_by: "request" or "time".

        Returns:
            "thinking", "answering" (nothing is changed), or "absent": not scheduled yet, and told when it is.
        """
        ...


@dataclass(slots=True)
class Engine:
    url: str
    """As it is shown to others: the credentials that it was given with are its connections' alone."""
    settings: Settings
    status: EngineStatus = field(default_factory=EngineStatus)
    outstanding: int = 0
    """Generations under way."""
    committed_tokens: int = 0
    """What the requests that were let through to it may come to hold in its cache."""
    on_lost: Callable[[], None] = lambda: None
    """Called when a connection fails, so that the pool looks at once instead of at the next interval."""
    pace: Pace = field(default_factory=Pace)
    parts_received: int = 0
    """Parts of streams so far: as long as it grows, the engine makes tokens."""
    prompt_places: asyncio.Semaphore = field(init=False)
    """For work on prompts that generates nothing (`prompt_work.py`)."""
    _connections: Connections = field(init=False)
    _under_way: set[Connection] = field(default_factory=set)
    """On which an answer to a POST is awaited or comes."""

    def __post_init__(self) -> None:
        self._connections = Connections(self.url, connect_timeout_s=self.settings.connect_timeout_s)
        self.url = strip_credentials(self.url)
        self.prompt_places = asyncio.Semaphore(max(1, MOST_PROMPT_WORK // self.settings.workers))

    @property
    def open_streams(self) -> int:
        return sum(connection.status > 0 for connection in self._under_way)

    @property
    def is_busy(self) -> bool:
        return bool(self.outstanding or self.committed_tokens or self._under_way)

    @property
    def owed(self) -> int:
        """Generations on which the engine is waited for, and not a slow client or a reward model."""
        return min(self.outstanding, sum(connection.waits for connection in self._under_way))

    @property
    def owes_streams(self) -> bool:
        return any(connection.waits and connection.status > 0 for connection in self._under_way)

    @property
    def render_timeout_s(self) -> float:
        """To make a prompt of messages: a long one lasts longer than a look at the engine."""
        return 3 * self.settings.control_timeout_s

    def abandon(self) -> None:
        """Fail every request under way with EngineDied: the engine answers, but makes no tokens."""
        for connection in self._under_way:
            connection.fail(ConnectionAbortedError("the engine makes no tokens"))

    def close(self) -> None:
        """Close the connections that wait for requests."""
        self._connections.close()

    @contextmanager
    def occupied(self, generations: int) -> Iterator[None]:
        self.outstanding += generations
        try:
            yield
        finally:
            self.outstanding -= generations

    def serves(self, model: str) -> bool:
        return any(card["id"] == model for card in self.status.models)

    def context(self, model: str) -> int | None:
        """Most tokens of prompt and completion together; None if the engine doesn't tell."""
        own = self.budget_description.max_model_len if self.budget_description is not None else None
        cards = [card.get("max_model_len") for card in self.status.models if card["id"] == model]
        return own or next((length for length in cards if isinstance(length, int)), None)

    @property
    def budget_description(self) -> EngineDescription | None:
        """The engine's own description, or ours of what rounds enforce on it."""
        rounds = self.status.rounds
        return self.status.description or (rounds.description if rounds is not None else None)

    @property
    def speaks_another_protocol(self) -> bool:
        """Why it enforces nothing: it is of another version, and an upgrade is under way."""
        description, off = self.status.description, self.settings.family_options.off
        return not off and description is not None and description.protocol != PROTOCOL

    @property
    def enforced_fields(self) -> tuple[str, ...]:
        described = self.budget_description
        return () if self.status.enforcement == "none" or described is None else described.enforces

    async def complete(self, call: EngineCall) -> dict[str, Any]:
        """The chat completion of one call.

        Raises:
            EngineRefused, EngineDied, EngineMisbehaved
        """
        answer = await self.post(
            "/v1/chat/completions",
            call.body,
            call.request_id,
            receipt_id=call.receipt_id,
            shared=call.shared,
        )
        brought = answer.pop(_RECEIPT, None)
        if brought is not None:
            call.brought.extend(_brought(brought))
        return answer

    async def stream(self, call: EngineCall, on_event: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        """Hand every chunk of one call's stream to `on_event`. Cancelling closes the engine's connection.

        Raises:
            EngineRefused: also for an error inside the stream.
            EngineDied: the stream ended without its [DONE].
            EngineMisbehaved
        """
        speed = StreamSpeed(self.pace)
        parts = self._parts(
            "/v1/chat/completions",
            call.body,
            call.request_id,
            receipt_id=call.receipt_id,
            shared=call.shared,
        )
        async with aclosing(parts):
            async for part in parts:
                async with call.burst:
                    for event in part:
                        if event.startswith(_RECEIPT_EVENT):
                            call.brought.extend(_brought(_json_object(event)[_RECEIPT]))
                            continue
                        chunk = _chat_chunk(event)
                        speed.see(chunk)
                        await on_event(chunk)

    async def post(
        self,
        path: str,
        body: bytes,
        request_id: str | None = None,
        *,
        receipt_id: str | None = None,
        shared: bytes = b"",
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """The JSON object that answers a POST.

        Args:
            shared: what the request's body begins with.
            receipt_id: of the receipt that is wanted along with the answer.

        Raises:
            EngineRefused, EngineDied, EngineMisbehaved
        """
        limit = nullcontext() if timeout_s is None else asyncio.timeout(timeout_s)
        try:
            async with limit:
                with await self._post(path, body, request_id, receipt_id, shared) as answer:
                    raw = await answer.body()
        except (TimeoutError, OSError) as error:
            raise self._lost(error) from error
        _raise_for_status(answer.status, raw)
        return _json_object(raw)

    async def get(self, path: str) -> dict[str, Any]:
        """The JSON object that answers a GET of a small, quick route.

        Raises:
            EngineRefused, EngineDied, EngineMisbehaved
        """
        try:
            status, raw = await self._get(path)
        except (TimeoutError, OSError) as error:
            raise self._lost(error) from error
        _raise_for_status(status, raw)
        return _json_object(raw)

    async def events(
        self, path: str, body: bytes, request_id: str | None, *, says_done: bool = True
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of a streamed answer. Closing the generator closes the engine's connection.

        Args:
            says_done: the stream ends with [DONE], as OpenAI's do.

        Raises: as `stream`.
        """
        parts = self._parts(path, body, request_id, says_done=says_done)
        async with aclosing(parts):
            async for part in parts:
                for event in part:
                    yield _stream_chunk(event)

    async def _parts(
        self,
        path: str,
        body: bytes,
        request_id: str | None,
        *,
        says_done: bool = True,
        receipt_id: str | None = None,
        shared: bytes = b"",
    ) -> AsyncGenerator[list[bytes], None]:
        """The data of events, as many as were received together."""
        splitter = EventSplitter()
        finished = not says_done
        try:
            with await self._post(path, body, request_id, receipt_id, shared) as answer:
                if answer.status != 200:
                    _raise_for_status(answer.status, await answer.body())
                while part := await answer.part():
                    self.parts_received += 1
                    events = splitter.feed(part)
                    if DONE in events:
                        finished = True
                        events = [event for event in events if event != DONE]
                    if events:
                        yield events
        except (TimeoutError, OSError) as error:
            raise self._lost(error) from error
        if not finished:
            raise self._lost(EOFError("the stream ended early"))

    async def receipt(self, call: EngineCall, output_tokens: int) -> EngineReceipt:
        """The engine's record of a choice, as of at least `output_tokens` tokens: as it came along with the
        answer, or else asked for.

        Raises:
            ReceiptMissing, EngineDied, EngineMisbehaved
        """
        while call.brought:
            recorded = call.brought.pop()
            if _is_of(recorded, call, output_tokens):
                return recorded
        return await self._ask_for_receipt(call, output_tokens)

    async def _ask_for_receipt(self, call: EngineCall, output_tokens: int) -> EngineReceipt:
        wait_ms = self.settings.receipt_wait_ms
        path = f"/s1/receipts/{call.receipt_id}?output_tokens={output_tokens}&wait_ms={wait_ms}"
        missing = ReceiptMissing(
            f"receipt missing: the engine has no record of this choice after {wait_ms} ms"
        )
        try:
            status, raw = await self._get(path, wait_ms / 1000 + self.settings.control_timeout_s)
        except TimeoutError:
            raise missing from None
        except OSError as error:
            raise self._lost(error) from error
        if status != 200:
            raise missing
        recorded = _receipt(_json_object(raw))
        if not _is_of(recorded, call, output_tokens):
            raise missing
        return recorded

    async def end_thinking(self, receipt_id: str, ended_by: str) -> str:
        """See `ChatEngine`.

        Raises:
            EngineRefused, EngineDied, EngineMisbehaved
        """
        path = f"/s1/end_thinking/{receipt_id}?ended_by={ended_by}"
        answer = await self.post(path, b"", timeout_s=CONTROL_TIMEOUT_S)
        state = answer.get("state")
        if state not in ("thinking", "answering", "absent"):
            raise EngineMisbehaved(f"the engine's /s1/end_thinking can't be read: its state is {state!r}")
        return str(state)

    async def healthy(self) -> bool:
        status, _ = await self._get("/health")
        return status == 200

    async def learn_models(self) -> tuple[dict[str, Any], ...]:
        status, raw = await self._get("/v1/models")
        _raise_for_status(status, raw)
        cards = _json_object(raw).get("data")
        if not isinstance(cards, list) or not all(isinstance(card, dict) and "id" in card for card in cards):
            raise EngineMisbehaved("the engine's /v1/models is not a list of models")
        return tuple(cards)

    async def learn_tokens_made(self) -> float | None:
        """All tokens since its start; None if it doesn't say: not every server has vLLM's metrics."""
        status, raw = await self._get("/metrics")
        return tokens_made(raw) if status == 200 else None

    async def learn_kv_cache_tokens(self) -> int | None:
        """None if the engine doesn't say: not every server has vLLM's metrics."""
        try:
            status, raw = await self._get("/metrics")
        except (TimeoutError, OSError):
            return None
        return kv_cache_tokens(raw.decode(errors="replace")) if status == 200 else None

    async def learn_description(self) -> EngineDescription | None:
        """None for an engine without our plugin."""
        status, raw = await self._get("/s1/engine")
        if status == 404:
            return None
        _raise_for_status(status, raw)
        try:
            return EngineDescription.model_validate_json(raw)
        except ValidationError as error:
            raise EngineMisbehaved(
                f"the engine's /s1/engine can't be read: {error.errors()[0]['msg']}"
            ) from error

    async def _post(
        self,
        path: str,
        body: bytes,
        request_id: str | None,
        receipt_id: str | None = None,
        shared: bytes = b"",
    ) -> Connection:
        """The connection on which the answer comes."""
        headers = {"content-type": "application/json", **trace_headers()}
        if request_id is not None:
            headers["x-request-id"] = request_id
        if receipt_id is not None:
            headers["x-s1-receipt"] = receipt_id
        return await self._connections.ask(
            "POST",
            path,
            body=(shared, body) if shared else (body,),
            headers=headers,
            keeps=self._keeps_connections,
            under_way=self._under_way,
        )

    async def _get(self, path: str, timeout_s: float | None = None) -> tuple[int, bytes]:
        async with asyncio.timeout(self.settings.control_timeout_s if timeout_s is None else timeout_s):
            with await self._connections.ask("GET", path, keeps=self._keeps_connections) as answer:
                return answer.status, await answer.body()

    @property
    def _keeps_connections(self) -> bool:
        """Only to makes that are known to bear it."""
        rounds = self.status.rounds
        return self.status.description is not None or (rounds is not None and rounds.dialect.keeps_alive)

    def _lost(self, error: Exception) -> EngineDied:
        self.on_lost()
        detail = "timed out" if isinstance(error, TimeoutError) else type(error).__name__
        return EngineDied(f"the connection to the engine was lost ({detail}); the request can be repeated")


def _raise_for_status(status: int, raw: bytes) -> None:
    if status == 200:
        return
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = raw.decode(errors="replace")
    raise EngineRefused.from_body(body, status)


def _stream_chunk(event: bytes) -> dict[str, Any]:
    chunk = _json_object(event)
    if "error" in chunk or chunk.get("object") == "error":
        raise EngineRefused.from_body(chunk, status=502)
    return chunk


def _chat_chunk(event: bytes) -> dict[str, Any]:
    """The hot path: everything behind it reads the choices' deltas without a look."""
    chunk = _stream_chunk(event)
    choices = chunk.get("choices")
    if choices:
        if not isinstance(choices, list):
            raise EngineMisbehaved("the engine's stream can't be read: its `choices` are not a list")
        for choice in choices:
            if not isinstance(choice, dict) or not isinstance(choice.get("delta"), dict):
                raise EngineMisbehaved("the engine's stream can't be read: a choice has no `delta` object")
    return chunk


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise EngineMisbehaved(f"the engine sent what is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise EngineMisbehaved("the engine sent JSON that is not an object")
    return body


def _is_of(recorded: EngineReceipt, call: EngineCall, output_tokens: int) -> bool:
    return recorded.receipt_id == call.receipt_id and recorded.output_tokens >= output_tokens


def _brought(fields: Any) -> list[EngineReceipt]:
    """A receipt that came along; nothing if it can't be read: then it is asked for."""
    try:
        return [EngineReceipt.from_json(fields)]
    except (KeyError, TypeError):
        return []


def _receipt(fields: dict[str, Any]) -> EngineReceipt:
    try:
        return EngineReceipt.from_json(fields)
    except (KeyError, TypeError) as error:
        raise EngineMisbehaved(f"the engine's receipt can't be read: {error!r}") from error
