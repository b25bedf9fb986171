"""GET /v1/models."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request

from server.gateway.access.callers import caller_of
from server.gateway.context import context_of
from server.gateway.engines.engine import Engine

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.head("", include_in_schema=False)
@router.get("", summary="The models that are served now, and what thinking budgets they take")
async def list_models(request: Request) -> dict[str, Any]:
    caller, served = caller_of(request), context_of(request).engines.models()
    cards = [_card(request, model, engines) for model, engines in served.items() if caller.may_use(model)]
    return {"object": "list", "data": cards}


# A model's name may hold slashes.
@router.get("/{model:path}", summary="One model")
async def get_model(request: Request, model: str) -> dict[str, Any]:
    engines = context_of(request).engines
    caller_of(request).check_model(model)
    return _card(request, engines.resolve_model(model), engines.models()[model])


def _card(request: Request, model: str, engines: list[Engine]) -> dict[str, Any]:
    """Of several engines that serve a model, the one that enforces most speaks for it: budgets go there."""
    best = max(engines, key=lambda engine: len(engine.enforced_fields))
    own = next(card for card in best.status.models if card["id"] == model)
    description = best.budget_description
    card = {
        "id": model,
        "object": "model",
        "created": own.get("created", 0),
        "owned_by": own.get("owned_by", "s1-server"),
        "root": own.get("root"),
        "parent": own.get("parent"),
        "max_model_len": own.get("max_model_len") or (description.max_model_len if description else None),
        "thinking": {
            "family": description.family if description else None,
            "enforcement": best.status.enforcement,
            "fields": list(best.enforced_fields),
            "checkpoint": _checkpoint(engines),
        },
    }
    return card | _anthropics(card) if "anthropic-version" in request.headers else card


def _anthropics(card: dict[str, Any]) -> dict[str, Any]:
    """What a model has in Anthropic's API and not in OpenAI's."""
    return {
        "type": "model",
        "display_name": card["id"],
        "created_at": datetime.fromtimestamp(card["created"] or 0, UTC).isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": card["max_model_len"],
    }


def _checkpoint(engines: list[Engine]) -> str | None:
    """What the engines have loaded, all of it where they differ; None where none says."""
    said = {engine.status.description.checkpoint for engine in engines if engine.status.description}
    return " ".join(sorted(filter(None, said))) or None
