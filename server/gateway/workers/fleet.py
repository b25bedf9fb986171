"""What a route asks of the whole gateway: of this process, and of the workers beside it if there are any.

`Here` answers for one process. `Together` asks the `Here` of every worker, its own included, over the hub in
the process that started them, and puts the answers together, so that no route knows how many there are.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

import aiohttp
from starlette.requests import Request

from server.gateway import errors
from server.gateway.engines.engine import CONTROL_TIMEOUT_S, Engine
from server.gateway.errors import CompletionNotFound, Conflict, GatewayError, Overloaded
from server.gateway.live.kept_thinking import INT32, Kept, KeptChoice
from server.gateway.observe.observatory import describe_running
from server.gateway.settings import Settings

if TYPE_CHECKING:
    from server.gateway.context import Context

SEVERITY = ("ready", "starting", "down")
"""An engine's states, from the best: of several workers' views the worst holds."""
STRENGTH = ("none", "rounds", "native")
"""How budgets are enforced; of several views the weakest holds."""
_ASKING_S = 10
"""Beyond what a worker waits for an engine, the hub has so long, which is longer than it gives workers."""


class Fleet(Protocol):
    async def answer_now(self, account: str, id: str) -> None:
        """End the thinking of the requests under this id: clients may name their own.

        Raises:
            CompletionNotFound, Conflict, InvalidRequest: as `LiveRequest.answer_now`.
            EngineDied, EngineRefused, EngineMisbehaved
            Overloaded: a worker doesn't answer, and no other knows the id.
        """

    async def kept(self, account: str, id: str) -> tuple[Kept | None, bool]:
        """The completion of this id, if it can think on, and whether one of this id runs."""

    async def requests(self) -> list[dict[str, Any]]:
        """The requests under way, the oldest first."""

    async def readiness(self) -> dict[str, Any]:
        """`ready`, `draining`, and `engines` as admins see them."""

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """In the best format that `accept` takes, and its content type."""


def fleet_of(request: Request) -> Fleet:
    return cast(Fleet, request.app.state.fleet)


class Here:
    """This process."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def answer_now(self, account: str, id: str) -> None:
        refusal: Conflict | None = None
        applied = False
        for live in self._context.live.find(account, id):
            try:
                await live.answer_now()
                applied = True
            except Conflict as error:
                refusal = error
        if refusal is not None and not applied:
            raise refusal

    async def kept(self, account: str, id: str) -> tuple[Kept | None, bool]:
        return self._context.kept.find(account, id), self._context.live.is_running(account, id)

    async def requests(self) -> list[dict[str, Any]]:
        return [describe_running(seen) for seen in self._context.observatory.running]

    async def readiness(self) -> dict[str, Any]:
        pool, draining = self._context.engines, self._context.drain.draining
        return {
            "ready": bool(pool.ready) and not draining,
            "draining": draining,
            "engines": [_describe(engine) for engine in pool.engines],
        }

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        return self._context.observatory.render(accept)


class Together:
    """All workers. Usable from `running` on."""

    def __init__(self, hub: str, settings: Settings) -> None:
        """
        Args:
            hub: path of its Unix socket.
        """
        self._hub = hub
        self._timeout_s = engine_wait_s(settings) + _ASKING_S
        self._session: aiohttp.ClientSession | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with socket_session(self._hub, timeout_s=self._timeout_s) as session:
            self._session = session
            yield

    async def answer_now(self, account: str, id: str) -> None:
        answers, silent = await self._each("answer_now", {"account": account, "id": id})
        raised = [error_of(answer["error"]) for answer in answers if "error" in answer]
        for error in raised:
            if not isinstance(error, CompletionNotFound | Conflict):
                raise error
        if len(raised) < len(answers):
            return
        for error in raised:
            if isinstance(error, Conflict):
                raise error
        _check_all_answered(silent, id)
        raise raised[0]

    async def kept(self, account: str, id: str) -> tuple[Kept | None, bool]:
        answers, silent = await self._each("kept", {"account": account, "id": id})
        found = [kept_from_json(answer["kept"]) for answer in answers if answer["kept"] is not None]
        is_running = any(answer["running"] for answer in answers)
        if not found and not is_running:
            _check_all_answered(silent, id)
        # A client that names two completions alike gets the later one, as in one process.
        return max(found, key=lambda kept: kept.noted_s, default=None), is_running

    async def requests(self) -> list[dict[str, Any]]:
        answers, _ = await self._each("requests")
        everybody = [seen for answer in answers for seen in answer["requests"]]
        return sorted(everybody, key=lambda seen: -float(seen["age_s"]))

    async def readiness(self) -> dict[str, Any]:
        try:
            async with self._sessions.get("http://hub/readiness") as response:
                found: dict[str, Any] = await response.json()
                return found
        except (aiohttp.ClientError, TimeoutError):
            # Who can't reach the process that started it is about to end.
            return {"ready": False, "draining": True, "engines": []}

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        async with (
            _asking(),
            self._sessions.get("http://hub/metrics", headers={"accept": accept}) as response,
        ):
            return await response.read(), response.headers["content-type"]

    async def _each(
        self, name: str, body: Mapping[str, str] = MappingProxyType({})
    ) -> tuple[list[dict[str, Any]], int]:
        """Every worker's answer, and how many gave none in time."""
        async with _asking(), self._sessions.post(f"http://hub/each/{name}", json=dict(body)) as response:
            gathered = await response.json()
            return gathered["answers"], gathered["silent"]

    @property
    def _sessions(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the workers' connection to the hub has not been entered")
        return self._session


def engine_wait_s(settings: Settings) -> float:
    """The longest that a worker which is asked waits for an engine."""
    return max(settings.control_timeout_s, CONTROL_TIMEOUT_S)


@contextlib.asynccontextmanager
async def _asking() -> AsyncIterator[None]:
    """
    Raises:
        Overloaded: the hub doesn't answer.
    """
    try:
        yield
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Overloaded("the gateway's workers can't be asked", code="worker_unavailable") from error


def socket_session(path: str, *, timeout_s: float) -> aiohttp.ClientSession:
    """A client of who listens at a Unix socket; the host in its URLs means nothing."""
    return aiohttp.ClientSession(
        # A connection that breaks then means that nobody is there, never that one was idle for too long.
        connector=aiohttp.UnixConnector(path, limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        raise_for_status=True,
    )


def _check_all_answered(silent: int, id: str) -> None:
    if silent:
        raise Overloaded(
            f"{silent} of the gateway's worker processes don't answer: whether `{id}` is theirs isn't known",
            code="worker_unavailable",
        )


def error_to_json(error: GatewayError) -> dict[str, Any]:
    return {
        "kind": type(error).__name__,
        "message": str(error),
        "param": error.param,
        "code": error.code,
        "status": error.status if isinstance(error, errors.EngineRefused) else None,
    }


def error_of(told: dict[str, Any]) -> GatewayError:
    """The error that another worker raised."""
    kind: type[GatewayError] = getattr(errors, told["kind"])
    if issubclass(kind, errors.EngineRefused):
        return kind(told["message"], status=told["status"], param=told["param"])
    return kind(told["message"], param=told["param"], code=told["code"])


def kept_to_json(kept: Kept) -> dict[str, Any]:
    fields = asdict(kept)
    for choice in fields["choices"].values():
        choice["prompt"], choice["output"] = list(choice["prompt"]), list(choice["output"])
    return fields


def kept_from_json(told: dict[str, Any]) -> Kept:
    choices = {
        int(index): KeptChoice(
            **{**choice, "prompt": array(INT32, choice["prompt"]), "output": array(INT32, choice["output"])}
        )
        for index, choice in told["choices"].items()
    }
    return Kept(**{**told, "choices": choices})


def merged_readiness(views: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of several workers: ready if all are, draining if one is."""
    engines: dict[str, list[dict[str, Any]]] = {}
    for view in views:
        for engine in view["engines"]:
            engines.setdefault(engine["url"], []).append(engine)
    return {
        "ready": bool(views) and all(view["ready"] for view in views),
        "draining": any(view["draining"] for view in views),
        "engines": [_merged_engine(seen) for _, seen in sorted(engines.items())],
    }


def _merged_engine(views: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The view of who sees it worst, with what all of them have under way on it."""
    worst = max(views, key=lambda view: (SEVERITY.index(view["state"]), -STRENGTH.index(view["enforcement"])))
    return worst | {
        "outstanding": sum(view["outstanding"] for view in views),
        "committed_tokens": sum(view["committed_tokens"] for view in views),
        "reconnects": max(view["reconnects"] for view in views),
    }


def _describe(engine: Engine) -> dict[str, Any]:
    status, described = engine.status, engine.budget_description
    return {
        "url": engine.url,
        "state": status.state,
        "models": [card["id"] for card in status.models],
        "enforcement": status.enforcement,
        "family": described.family if described else None,
        "processor": described.processor if described else None,
        "fields": list(engine.enforced_fields),
        "reason": status.reason,
        "outstanding": engine.outstanding,
        "kv_cache_tokens": status.kv_cache_tokens,
        "committed_tokens": engine.committed_tokens,
        "reconnects": status.reconnects,
    }
