"""What a gateway is told of its engines' family: read from the environment, checked, compared."""

from __future__ import annotations

import pytest

from server.gateway.settings import SettingsError, read_settings
from tests.gateway import stand_in
from tests.gateway.serving import gateway
from tests.gateway.toy_engine import Toy, running


def test_a_family_can_be_described_in_the_environment() -> None:
    environ = {
        "S1_GATEWAY_THINK_START": "<a>",
        "S1_GATEWAY_THINK_END": "</a>",
        "S1_GATEWAY_ANSWER_PROMPT": r"\nSo:",
    }
    told = read_settings(environ).family_options
    assert told.texts == {"think_start": "<a>", "think_end": "</a>", "answer_prompt": "\nSo:"}
    assert read_settings(environ, think_end="<b>").family_options.think_end == "<b>"


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"S1_GATEWAY_FAMILY": "r2"}, "S1_GATEWAY_FAMILY must be one of s1, .*none. Given: r2"),
        ({"S1_GATEWAY_THINK_END": ""}, "S1_GATEWAY_THINK_END must have visible characters. Given: ''"),
        (
            {"S1_GATEWAY_FAMILY": "none", "S1_GATEWAY_WAIT_TEXT": "Hm"},
            "S1_GATEWAY_WAIT_TEXT can't be combined with S1_GATEWAY_FAMILY none",
        ),
        (
            {"S1_GATEWAY_FAMILY": "qwen3", "S1_GATEWAY_ANSWER_PROMPT": "</think>"},
            "S1_GATEWAY_ANSWER_PROMPT can't contain the marker",
        ),
    ],
)
def test_a_bad_family_setting_stops_the_start(environ: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        read_settings(environ)


async def test_an_override_alone_changes_the_found_family() -> None:
    async with running(Toy()) as toy, gateway(toy.url, wait_text="w25,") as client:
        (engine,) = (await client.get("/ready")).json()["engines"]
        assert (engine["enforcement"], engine["family"]) == ("rounds", "s1")
        (pooled,) = client.pool.engines  # type: ignore[attr-defined]
        assert pooled.status.rounds.ids.family.wait_text == "w25,"


@pytest.mark.parametrize(
    ("told", "enforcement", "reason"),
    [
        ({"family": "s1", "answer_prompt": r"\nFinal Answer:"}, "native", ""),
        ({"family": "qwen3"}, "none", "the engine's family is 's1', the gateway is told 'qwen3'"),
        ({"wait_text": "Hm"}, "none", "the engine's wait_text is 'Wait', the gateway is told 'Hm'"),
        ({"family": "none"}, "none", "--family none"),
    ],
)
async def test_what_is_told_must_be_what_the_plugin_says(
    told: dict[str, str], enforcement: str, reason: str
) -> None:
    async with stand_in.running(stand_in.StandIn()) as engine, gateway(engine.url, **told) as client:
        (described,) = (await client.get("/ready")).json()["engines"]
        assert described["enforcement"] == enforcement
        assert reason in described["reason"]


async def test_no_family_means_no_budgets_and_no_probing() -> None:
    async with running(Toy()) as toy, gateway(toy.url, family="none") as client:
        (engine,) = (await client.get("/ready")).json()["engines"]
        assert engine["enforcement"] == "none"
        body = {"model": toy.name, "messages": [{"role": "user", "content": "?"}], "num_waits": 1}
        response = await client.post("/v1/chat/completions", json=body)
        assert response.status_code == 400
        assert "--family none" in response.json()["error"]["message"]
        assert not toy.bodies
