"""What a route needs of its application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from starlette.requests import Request

from server.gateway.chat.earlier_thinking import EarlierThinking
from server.gateway.chat.turnstile import Turnstile
from server.gateway.connection.drain import Drain
from server.gateway.engines.pool import EnginePool
from server.gateway.live.control import LiveRequests
from server.gateway.live.kept_thinking import KeptThinking
from server.gateway.observe.observatory import Observatory
from server.gateway.parallel.reward import RewardModel
from server.gateway.policy_file import PolicyStore
from server.gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class Context:
    settings: Settings
    engines: EnginePool
    policy: PolicyStore
    earlier_thinking: EarlierThinking
    turnstile: Turnstile
    drain: Drain
    observatory: Observatory
    live: LiveRequests
    reward: RewardModel | None
    kept: KeptThinking


def context_of(request: Request) -> Context:
    return cast(Context, request.scope["app"].state.context)
