"""The application: its parts put together. Nothing happens before `create_app`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException

from server import __version__
from server.budget.spec import BudgetError
from server.gateway.access.callers import KeyRing
from server.gateway.access.guard import Guard
from server.gateway.access.ledger import Ledger
from server.gateway.access.local_pages import LocalPages
from server.gateway.access.quota_stores import quota_stores
from server.gateway.apis.api_schemas import body_schemas
from server.gateway.chat.earlier_thinking import EarlierThinking
from server.gateway.chat.turnstile import Turnstile
from server.gateway.connection.boundary import Boundary, http_error_response, known_error_response
from server.gateway.connection.cors import add_cors
from server.gateway.connection.drain import Drain
from server.gateway.context import Context
from server.gateway.engines.pool import EnginePool
from server.gateway.errors import GatewayError
from server.gateway.live.control import LiveRequests
from server.gateway.live.kept_thinking import KeptThinking
from server.gateway.observe.middleware import Observing
from server.gateway.observe.observatory import Observatory
from server.gateway.parallel.reward import RewardModel
from server.gateway.policy_file import PolicyStore
from server.gateway.routes import chat, control, health, messages, models, passthrough, responses, running
from server.gateway.routes.playground import add_playground
from server.gateway.routes.reference import add_reference
from server.gateway.settings import Settings, SettingsError
from server.gateway.workers.fleet import Fleet, Here

Background = Callable[[], AbstractAsyncContextManager[Any]]
_BUSIEST = ("/v1/chat/completions", "/v1/messages", "/v1/responses")


def create_app(
    settings: Settings,
    *,
    engines: EnginePool | None = None,
    background: Sequence[Background] = (),
    ledger: Ledger | None = None,
    fleet: Fleet | None = None,
) -> FastAPI:
    """The gateway's ASGI application.

    Args:
        engines: the pool to use; by default one over `settings.engine_urls`.
        background: async contexts entered before the pool and left after it, for example the supervisor of
            an engine. Entering must not wait for the engine: /health has to answer meanwhile.
        ledger: where used tokens are counted; by default as the settings say.
        fleet: who knows what runs in all of the gateway's processes; by default this is the only one.

    Raises:
        SettingsError: there is no engine URL, the policy or keys file can't be used, or no client for Redis.
            Or these are settings of several processes without what joins them.
    """
    if settings.workers > 1 and fleet is None:
        raise SettingsError(f"workers: only `s1 serve` starts several. Given: {settings.workers}")
    pool = engines or EnginePool(settings)
    keys = KeyRing.of(settings)
    usual_ledger, rates = quota_stores(settings)
    drain = Drain()
    turnstile = Turnstile(settings, pool, ledger or usual_ledger, drain)
    observatory = Observatory(settings, pool)
    observatory.watch_queue(turnstile.admission.waiting_by_model)

    reward = None if settings.reward_url is None else RewardModel(settings, settings.reward_url)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for enter in background:
                await stack.enter_async_context(enter())
            stack.push_async_callback(observatory.close)
            await stack.enter_async_context(pool)
            await stack.enter_async_context(turnstile)
            if reward is not None:
                await stack.enter_async_context(reward)
            yield

    # A path with a slash too many is no path of ours: nothing is answered before the keys are seen.
    app = FastAPI(
        title="s1-server",
        version=__version__,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    app.state.context = Context(
        settings,
        pool,
        PolicyStore(settings.policy_file),
        EarlierThinking(),
        turnstile,
        drain,
        observatory,
        LiveRequests(),
        reward,
        KeptThinking(settings),
    )
    app.state.fleet = fleet or Here(app.state.context)
    for router in (
        control.router,
        chat.router,
        messages.router,
        responses.router,
        passthrough.router,
        models.router,
        health.router,
        running.router,
    ):
        app.include_router(router)
    add_reference(app)
    add_playground(app, shown=settings.playground)
    # Routes are tried one after the other; none of them hides another.
    app.router.routes.sort(key=lambda route: getattr(route, "path", None) not in _BUSIEST)
    app.add_middleware(Guard, keys=keys, rates=rates, pages=LocalPages(settings))
    add_cors(app, settings.cors_origins)
    app.add_middleware(Boundary)
    app.add_middleware(Observing, observatory=observatory)
    app.add_exception_handler(HTTPException, http_error_response)
    for known in (GatewayError, BudgetError):
        app.add_exception_handler(known, known_error_response)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's schema plus the bodies that routes read themselves."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schema.setdefault("components", {}).setdefault("schemas", {}).update(body_schemas())
        app.openapi_schema = schema
    return app.openapi_schema
