"""What a route needs of its application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from starlette.requests import Request

from server.gateway.drain import Drain
from server.gateway.earlier_thinking import EarlierThinking
from server.gateway.kept_thinking import KeptThinking
from server.gateway.live import LiveRequests
from server.gateway.observe.observatory import Observatory
from server.gateway.parallel.reward import RewardModel
from server.gateway.policy_file import PolicyStore
from server.gateway.settings import Settings
from server.gateway.turnstile import Turnstile
from server.gateway.upstream import EnginePool


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
    return cast(Context, request.app.state.context)
