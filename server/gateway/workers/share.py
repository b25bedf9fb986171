"""What of the gateway's limits one of several workers gets, and what several workers can't do."""

from __future__ import annotations

import sys

from server.gateway.access.keys import KeysError, read_keys
from server.gateway.settings import Settings, SettingsError


def check_workers(settings: Settings) -> None:
    """
    Raises:
        SettingsError: these settings don't allow for several workers; it says what to do.
    """
    if settings.workers == 1:
        return
    if sys.platform != "linux":
        raise SettingsError(
            f"workers: several share a port on Linux only; this is {sys.platform}. Given: {settings.workers}"
        )
    if settings.redis_url is None and (name := _key_with_quotas(settings)) is not None:
        raise SettingsError(
            f"workers: the key {name!r} has quotas, and several workers can count them together in a Redis "
            "only. Name one with S1_GATEWAY_REDIS_URL, or start with --workers 1. "
            f"Given: {settings.workers}, and no redis_url"
        )


def _key_with_quotas(settings: Settings) -> str | None:
    if settings.keys_file is None:
        return None
    try:
        keys = read_keys(settings.keys_file).keys
    except KeysError as error:
        raise SettingsError(f"keys_file: {error}. `s1 keys create` makes one") from None
    return next((key.name for key in keys if key.quotas.is_set), None)


def share_of(settings: Settings) -> Settings:
    """The settings of one worker: its part of what the gateway may fill, queue and keep.

    Whole numbers are rounded up, so that every worker has some of what is on at all.
    """
    workers = settings.workers
    shared = ("admission_queue_size", "admission_queue_per_key", "think_more_keep_tokens")
    parts = {name: -(-getattr(settings, name) // workers) for name in shared}
    return settings.model_copy(
        update=parts | {"admission_overcommit": settings.admission_overcommit / workers}
    )


def engines_from(settings: Settings, index: int) -> tuple[str, ...]:
    """The engines in another order for each worker: of idle ones the first is chosen."""
    urls = settings.engine_urls
    first = index % len(urls)
    return urls[first:] + urls[:first]
