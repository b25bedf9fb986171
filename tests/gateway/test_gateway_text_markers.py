"""Rounds with an end marker of ordinary tokens, against a reference of its own over a toy model."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

import pytest

from server.budget.spec import EffectiveBudget, RoomLimit, ThinkingBudget, resolve
from tests.gateway.serving import gateway
from tests.gateway.toy_engine import MAX_MODEL_LEN, Toy, encode, running, text_of
from tests.support.toy_markers import EOS, NEWLINE, SPACE, SPECIAL, TURN, WAIT

MESSAGES = [{"role": "user", "content": "?"}]
UNSAMPLED = frozenset({39})
BLANK = frozenset({TURN, EOS, SPECIAL, NEWLINE, SPACE})


@dataclass(frozen=True)
class Described:
    start: str
    end: str
    answer_prompt: str

    @property
    def settings(self) -> dict[str, str]:
        prompt = self.answer_prompt.replace("\n", "\\n")
        return {"think_start": self.start, "think_end": self.end, "answer_prompt": prompt}


WHOLE_TOKENS = Described("w10,w11,", "w12,w13,", "")
BEGINS_INSIDE_A_TOKEN = Described("w10,w11,", ",w13,w14,", "\nFinal Answer:")


@dataclass
class Expected:
    output: list[int]
    thinking_tokens: int
    waits: int
    ended_by: str
    finish: str
    markers: int
    """End markers that the model wrote itself."""


def reference(
    toy: Toy, described: Described, budget: EffectiveBudget, *, opened: bool, room: int
) -> Expected:
    """The rules as they read, on the whole text at every step."""
    prompt = toy.prompt
    opening = [] if opened else encode(described.start)
    end, answer_prompt = encode(described.end), encode(described.answer_prompt)
    thoughts: list[int] = []
    segment = 0  # where the tokens begin that the model sampled since the last wait
    markers, waits, waited, closing, ended_by = 0, 0, False, end + answer_prompt, "max_thinking_tokens"
    while True:
        if budget.max == 0 or len(thoughts) >= budget.max - 1:
            thoughts += [NEWLINE] if budget.max else []
            break
        masked = UNSAMPLED | ({EOS} if waited else set())
        token = toy.next([*prompt, *opening, *thoughts], masked=masked)
        waited = False
        kept = len(thoughts)
        if token != EOS:
            thoughts.append(token)
            at = text_of(thoughts[segment:]).find(described.end)
            if at < 0:
                continue
            kept = next(
                n for n in range(segment, len(thoughts)) if len(text_of(thoughts[segment : n + 1])) > at
            )
        written = thoughts[kept:]
        markers += bool(written)
        del thoughts[kept:]
        if waits < budget.num_waits or len(thoughts) < budget.min:
            thoughts.append(WAIT)
            waits, waited, segment = waits + 1, True, len(thoughts)
            continue
        closing = written if 0 < len(written) <= len(end) else end
        ended_by = "model"
        break
    output = opening + thoughts + closing
    blanks, visible, finish = 0, False, "length"
    while len(output) < room:
        first = UNSAMPLED | {EOS, TURN, SPECIAL} | (BLANK if blanks >= 8 else set())
        output.append(toy.next([*prompt, *output], masked=UNSAMPLED if visible else first))
        blanks, visible = blanks + 1, visible or output[-1] not in BLANK
        if output[-1] == EOS:
            finish = "stop"
            break
    return Expected(output, len(thoughts), waits, ended_by, finish, markers)


def effective(
    fields: dict[str, Any], described: Described, toy: Toy, *, opened: bool
) -> tuple[EffectiveBudget, int]:
    asked, context = fields["max_completion_tokens"], MAX_MODEL_LEN - len(toy.prompt)
    limited_by: RoomLimit = "context" if asked >= context else "max_completion_tokens"
    budget = resolve(
        ThinkingBudget.from_fields(fields),
        room=min(asked, context),
        limited_by=limited_by,
        opening_tokens=0 if opened else len(encode(described.start)),
        exit_tokens=len(encode(described.end)) + len(encode(described.answer_prompt)),
    )
    return budget, min(asked, context)


def random_fields(rng: random.Random) -> dict[str, Any]:
    maximum = rng.choice([0, 1, 2, 3, 4, 6, 9, 20, 60])
    return {
        "max_thinking_tokens": maximum,
        "min_thinking_tokens": rng.choice([0, rng.randint(0, maximum), maximum]),
        "num_waits": rng.choice([0, 0, 1, 2, 4]),
        "answer_reserve_tokens": rng.choice([1, 10]),
        "max_completion_tokens": rng.choice([40, 60, 120]),
    }


def split(text: str, described: Described, *, opened: bool) -> tuple[str | None, str | None]:
    text = text if opened else text.removeprefix(described.start)
    reasoning, _, rest = text.partition(described.end)
    if described.answer_prompt.startswith(rest):
        rest = ""
    return reasoning or None, rest.removeprefix(described.answer_prompt).lstrip() or None


@pytest.mark.parametrize("described", [WHOLE_TOKENS, BEGINS_INSIDE_A_TOKEN], ids=["whole", "inside"])
@pytest.mark.parametrize("opened", [True, False])
async def test_text_markers_in_rounds_equal_the_rules(described: Described, opened: bool) -> None:
    rng = random.Random(11)
    seen = {"model": 0, "max_thinking_tokens": 0, "waits": 0, "markers": 0}
    opening = tuple(encode(described.start))
    toy = Toy(name="toy", opens_thinking=opened, opening=opening, end_tokens=(12, 13, 14, EOS))
    async with running(toy), gateway(toy.url, **described.settings) as client:
        (engine,) = (await client.get("/ready")).json()["engines"]
        assert (engine["enforcement"], engine["family"]) == ("rounds", "custom")
        for seed in range(200):
            toy.seed, toy.ends = seed, rng.choice([0.05, 0.4, 0.8, 1.0])
            fields = random_fields(rng)
            budget, room = effective(fields, described, toy, opened=opened)
            expected = reference(toy, described, budget, opened=opened, room=room)
            body = {"model": "toy", "messages": MESSAGES, "return_token_ids": True, **fields}
            answer = (await client.post("/v1/chat/completions", json=body)).json()
            (choice,) = answer["choices"]
            receipt = choice["thinking_budget"]
            assert choice["token_ids"] == expected.output, fields
            assert choice["finish_reason"] == expected.finish
            found = (receipt["thinking_tokens"], receipt["waits"], receipt["ended_by"])
            assert found == (expected.thinking_tokens, expected.waits, expected.ended_by), fields
            shown = expected.output[:-1] if expected.finish == "stop" else expected.output
            message = choice["message"]
            assert (message["reasoning"], message["content"]) == split(
                text_of(shown), described, opened=opened
            ), fields
            seen[expected.ended_by] += 1
            seen["waits"] += expected.waits
            seen["markers"] += expected.markers
    assert all(count > 20 for count in seen.values()), seen


async def test_a_stream_hands_out_no_token_that_is_taken_back() -> None:
    toy = Toy(name="toy", opening=(10, 11), end_tokens=(12, 13, EOS), ends=0.8)
    async with running(toy), gateway(toy.url, **WHOLE_TOKENS.settings) as client:
        for seed in range(40):
            toy.seed = seed
            asked = {"max_thinking_tokens": 20, "num_waits": 3, "max_completion_tokens": 60}
            body = {"model": "toy", "messages": MESSAGES, "return_token_ids": True, **asked}
            (whole,) = (await client.post("/v1/chat/completions", json=body)).json()["choices"]
            response = await client.post("/v1/chat/completions", json={**body, "stream": True})
            chunks = [
                json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")
            ]
            parts = [part for chunk in chunks for part in chunk["choices"]]
            assert [token for part in parts for token in part.get("token_ids") or ()] == whole["token_ids"]
            for kind in ("reasoning", "content"):
                streamed = "".join(part["delta"].get(kind) or "" for part in parts)
                assert streamed == (whole["message"][kind] or "")
            assert parts[-1]["thinking_budget"] == whole["thinking_budget"]


async def test_a_wait_text_that_holds_the_marker_is_refused() -> None:
    async with running(Toy(name="toy")) as toy, gateway(toy.url, **WHOLE_TOKENS.settings) as client:
        asked = {"num_waits": 1, "wait_text": "w20,w12,w13,"}
        body = {"model": "toy", "messages": MESSAGES, **asked}
        response = await client.post("/v1/chat/completions", json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "wait_text")
        assert "can't contain a marker" in response.json()["error"]["message"]
