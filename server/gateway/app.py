"""The application: its parts put together. Nothing happens before `create_app`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from server import __version__
from server.budget.spec import BudgetError
from server.gateway.boundary import Boundary, http_error_response, known_error_response
from server.gateway.chat_request import ChatCompletionRequest
from server.gateway.context import Context
from server.gateway.earlier_thinking import EarlierThinking
from server.gateway.errors import GatewayError
from server.gateway.policy_file import PolicyStore
from server.gateway.routes import chat, health, messages, models, responses
from server.gateway.settings import Settings
from server.gateway.upstream import EnginePool

Background = Callable[[], AbstractAsyncContextManager[Any]]


def create_app(
    settings: Settings, *, engines: EnginePool | None = None, background: Sequence[Background] = ()
) -> FastAPI:
    """The gateway's ASGI application.

    Args:
        engines: the pool to use; by default one over `settings.engine_urls`.
        background: async contexts entered before the pool and left after it, for example the supervisor of
            an engine. Entering must not wait for the engine: /health has to answer meanwhile.

    Raises:
        SettingsError: there is no engine URL, or the policy file can't be used.
    """
    pool = engines or EnginePool(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for enter in background:
                await stack.enter_async_context(enter())
            await stack.enter_async_context(pool)
            yield

    app = FastAPI(title="s1-server", version=__version__, lifespan=lifespan)
    app.state.context = Context(settings, pool, PolicyStore(settings.policy_file), EarlierThinking())
    for router in (chat.router, messages.router, responses.router, models.router, health.router):
        app.include_router(router)
    app.add_middleware(Boundary)
    app.add_exception_handler(HTTPException, http_error_response)
    for known in (GatewayError, BudgetError):
        app.add_exception_handler(known, known_error_response)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's schema plus the bodies that routes read themselves."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        _, bodies = models_json_schema(
            [(ChatCompletionRequest, "validation")], ref_template="#/components/schemas/{model}"
        )
        schema.setdefault("components", {}).setdefault("schemas", {}).update(bodies["$defs"])
        app.openapi_schema = schema
    return app.openapi_schema
