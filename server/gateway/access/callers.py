"""Who is asking: the key ring, the caller that a request's key names, and what that key caps."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import structlog
from starlette.datastructures import Headers
from starlette.requests import Request

from server.budget.spec import ThinkingBudget
from server.gateway.access.keys import Key, KeysError, KeysFile, Quotas, read_keys, split_key
from server.gateway.engines.pool import EnginePool
from server.gateway.errors import Forbidden, InvalidKey, ModelNotFound
from server.gateway.file_changes import RETRY_S, Signature, file_signature
from server.gateway.settings import Settings, SettingsError

log = structlog.get_logger(__name__)

ANONYMOUS = "anonymous"
_MODELS_TOLD = 10
"""To whom asks for one that there isn't."""
_NOBODY = Key(id="0" * 12, name=ANONYMOUS, sha256="0" * 64, created=datetime.fromtimestamp(0, UTC))
"""Compared with when no record has the id, so that an unknown id takes as long as a wrong secret."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request, and what that one may do."""

    name: str
    account: str
    """What quotas are counted under: a key's id, so that a new key of the same name begins anew."""
    admin: bool
    key: Key | None = None
    """None: this gateway has no keys."""

    @property
    def quotas(self) -> Quotas:
        return self.key.quotas if self.key is not None else Quotas()

    @property
    def caps(self) -> Mapping[str, int]:
        return self.key.caps if self.key is not None else {}

    def may_use(self, model: str) -> bool:
        return self.key is None or self.key.models is None or model in self.key.models

    def check_model(self, model: str | None) -> None:
        """
        Raises:
            Forbidden: the key is for other models.
        """
        if model is not None and not self.may_use(model):
            raise Forbidden(
                f"the key '{self.name}' is not for the model `{model}`",
                param="model",
                code="model_not_allowed",
            )


def caller_of(request: Request) -> Caller:
    """Whom the guard let in."""
    return cast(Caller, request.scope["state"]["caller"])


def is_admin(request: Request) -> bool:
    """On open paths nobody has to be known."""
    caller: Caller | None = getattr(request.state, "caller", None)
    return caller is not None and caller.admin


def resolve_model(caller: Caller, engines: EnginePool, model: str | None) -> str:
    """The model asked for, or the only one there is for this caller.

    Raises:
        Forbidden: the key is for other models.
        EngineUnavailable, InvalidRequest, ModelNotFound: as `EnginePool.resolve_model`.
    """
    caller.check_model(model)
    own = [name for name in engines.models() if caller.may_use(name)] if model is None else []
    try:
        resolved = own[0] if len(own) == 1 else engines.resolve_model(model)
    except ModelNotFound as error:
        served = [name for name in engines.models() if caller.may_use(name)][:_MODELS_TOLD]
        raise ModelNotFound(f"{error}. Served: {', '.join(served) or 'none'}", param="model") from None
    caller.check_model(resolved)
    return resolved


class KeyRing:
    """The keys of a file, read again when it changes."""

    def __init__(self, path: Path | None, *, open_to_admins: bool) -> None:
        """
        Args:
            path: None lets everybody in.
            open_to_admins: whether everybody is an admin then.

        Raises:
            SettingsError: the file can't be read.
        """
        self._path = path
        self._anonymous = Caller(ANONYMOUS, ANONYMOUS, admin=open_to_admins)
        self._keys: dict[str, Key] = {}
        self._signature: Signature | None = None
        """Of the file as it was taken."""
        self._failed: Signature | None = None
        self._retry_at = 0.0
        if path is not None:
            self._signature = file_signature(path)
            try:
                self._adopt(read_keys(path))
            except KeysError as error:
                raise SettingsError(f"keys_file: {error}. `s1 keys create` makes one") from None

    @classmethod
    def of(cls, settings: Settings) -> KeyRing:
        return cls(settings.keys_file, open_to_admins=is_loopback(settings.host))

    @property
    def required(self) -> bool:
        return self._path is not None

    def caller(self, headers: Headers, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Caller:
        """Whom the request's key names.

        Raises:
            InvalidKey: there is none, it is unknown, or it has expired.
        """
        if self._path is None:
            return self._anonymous
        self._refresh(self._path)
        id, secret = _presented(headers)
        key = self._keys.get(id, _NOBODY)
        if not key.matches(secret) or key is _NOBODY:
            raise InvalidKey("the API key is not known to this server")
        if key.expired(now()):
            raise InvalidKey(f"the API key '{key.name}' has expired", code="api_key_expired")
        return Caller(key.name, key.id, key.admin, key)

    def _refresh(self, path: Path) -> None:
        """A file that can't be read, or is gone, leaves the keys as they are, and is tried again."""
        signature = file_signature(path)
        if signature == self._signature:
            return
        if signature == self._failed and time.monotonic() < self._retry_at:
            return
        try:
            self._adopt(read_keys(path))
        except KeysError as error:
            self._failed, self._retry_at = signature, time.monotonic() + RETRY_S
            log.error("keys not reloaded", reason=str(error))
        else:
            self._signature = signature
            log.info("keys reloaded", count=len(self._keys))

    def _adopt(self, content: KeysFile) -> None:
        self._keys = {key.id: key for key in content.keys}


def _presented(headers: Headers) -> tuple[str, str]:
    """Id and secret, from `Authorization: Bearer` or Anthropic's `x-api-key`."""
    authorization, api_key = headers.get("authorization"), headers.get("x-api-key")
    presented = api_key
    if authorization is not None:
        scheme, _, presented = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise InvalidKey(f"`Authorization` must be `Bearer KEY`. Given: the scheme {scheme[:20]!r}")
        presented = presented.strip()
        if api_key is not None and api_key != presented:
            raise InvalidKey("`Authorization` and `x-api-key` name different keys: give one")
    if not presented:
        raise InvalidKey("an API key is needed: `Authorization: Bearer KEY`, or `x-api-key: KEY`")
    parts = split_key(presented)
    if parts is None:
        raise InvalidKey("the API key has not the form of this server's keys, s1-ID-SECRET")
    return parts


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(settings: Settings) -> None:
    """Refuse to listen where others can reach a gateway that asks for no key.

    Raises:
        SettingsError: it says what to do.
    """
    if is_loopback(settings.host) or settings.keys_file is not None or settings.insecure_no_auth:
        return
    raise SettingsError(
        f"host: {settings.host} can be reached from other machines, and no API keys are configured. "
        "Make keys (`s1 keys create NAME --file keys.json`) and name the file (--keys-file keys.json, or "
        "S1_GATEWAY_KEYS_FILE), listen on 127.0.0.1, or let everybody in with --insecure-no-auth"
    )


def within_maximum(budget: ThinkingBudget) -> ThinkingBudget:
    """Minimum and landing lowered to a maximum that was lowered: it wins over both."""
    maximum = budget.max_thinking_tokens
    if maximum is None:
        return budget
    lowered = {
        name: min(value, maximum)
        for name in ("min_thinking_tokens", "landing_tokens")
        if (value := getattr(budget, name)) is not None
    }
    return replace(budget, **lowered)
