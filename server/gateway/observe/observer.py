"""Where the pipeline tells what happens to a request. It imports nothing, so that every module can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from starlette.types import Scope

if TYPE_CHECKING:
    from server.gateway.access.metering import Used
    from server.gateway.chat.chat_call import ChatCall
    from server.gateway.engines.engine import ChatEngine


class Observer:
    """This one, for requests nobody observes, is deaf."""

    def asked(self, call: ChatCall, *, model: str) -> None:
        """The request is understood and its model exists; from now on it waits for an engine."""

    def watched(self, answering: ChatEngine, *, engine: str, call: ChatCall) -> ChatEngine:
        """`answering`, in such a way that its work is seen. All generation has to go through this.

        Args:
            engine: the URL of the engine behind it.
            call: as it is sent, with the budget that is to be enforced.
        """
        return answering

    def handed_on(self, *, model: str) -> None:
        """The request goes to an engine as it is."""

    def branched(self, method: str, width: int) -> None:
        """The request is answered by so many branches."""

    def reserved(self, amounts: Mapping[str, int]) -> None:
        """Tokens by kind that were reserved of the key's quotas."""

    def charged(self, used: Used) -> None:
        """What the reservation became in the end."""

    def failed(self, error: Exception) -> None:
        """The client is told of `error`."""


UNOBSERVED = Observer()


def observer_of(scope: Scope) -> Observer:
    return cast(Observer, scope.get("state", {}).get("observer", UNOBSERVED))
