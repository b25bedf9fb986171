"""Text of thinking and answer, however a stream cuts it and however far text lags behind ids."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.budget.markers import FAMILIES
from server.engine.splitting import StreamSplitter, find, find_last, split_text

S1 = FAMILIES["s1"]
START, END = (1, 2), (1, 3)


def test_split_whole_outputs() -> None:
    assert split_text("think\n<|im_start|>answer\n5", S1) == _pieces("think\n", "5")
    assert split_text("cut\n<|im_start|>answer\nFinal Answer: 5", S1) == _pieces("cut\n", "5")
    assert split_text("<|im_start|>think\nx<|im_start|>answer\n", S1) == _pieces("\nx", None)
    assert split_text("cut\n<|im_start|>answer\nFinal ", S1) == _pieces("cut\n", None)
    assert split_text("never ends", S1) == _pieces("never ends", None)


def _pieces(reasoning: str | None, content: str | None) -> object:
    from server.engine.splitting import Pieces

    return Pieces(reasoning, content)


def tokens_of(
    reasoning: list[str], content: list[str], *, opened: bool, ended: bool
) -> list[tuple[int, str]]:
    """(id, text) pairs of an output; ordinary tokens have ids from 10 on."""
    ids = iter(range(10, 10_000))
    out = [] if opened else [(1, "<|im_start|>"), (2, "think")]
    out += [(next(ids), text) for text in reasoning]
    if ended:
        out += [(1, "<|im_start|>"), (3, "answer")]
        out += [(next(ids), text) for text in content]
    return out


words = st.lists(
    st.sampled_from(["a", " b", "\n", "<", "<|", "im_start", "|>", "answer", "Wait", "."]), max_size=12
)
contents = st.lists(st.sampled_from(["5", " x", "\n", "<", "Final", " Answer", ":", "answer"]), max_size=8)


@given(words, contents, st.booleans(), st.booleans(), st.booleans(), st.integers(0, 2**32))
def test_any_cut_gives_the_whole_split(
    reasoning: list[str], content: list[str], opened: bool, ended: bool, prompted: bool, seed: int
) -> None:
    """Chunks of 1-4 tokens; text up to 9 characters behind the ids, as vLLM's stop strings make it."""
    rng = random.Random(seed)
    prompt = ["\n", "Final", " Answer", ":"] if prompted else ["\n"]
    tokens = tokens_of(reasoning, prompt + content, opened=opened, ended=ended)
    if any("<|im_start|>" in "".join(part) for part in (reasoning, content)):
        return  # a lookalike spelt in ordinary tokens: told apart by ids in a stream only
    splitter = StreamSplitter(S1, start=START, end=END)
    lag = rng.choice([0, 0, 5, 9])
    got_reasoning = got_content = ""
    taken = 0
    while taken < len(tokens):
        taken = min(len(tokens), taken + rng.randint(1, 4))
        text = "".join(text for _, text in tokens[:taken])
        shown = text if taken == len(tokens) else text[: max(0, len(text) - lag)]
        pieces = splitter.push(shown, [token for token, _ in tokens[:taken]])
        got_reasoning += pieces.reasoning or ""
        got_content += pieces.content or ""
    whole = split_text("".join(text for _, text in tokens), S1)
    assert got_reasoning == (whole.reasoning or "")
    assert got_content == (whole.content or "")


def test_a_lookalike_in_ordinary_tokens_does_not_end_thinking() -> None:
    splitter = StreamSplitter(S1, start=START, end=END)
    pieces = splitter.push("say <|im_start|>answer now", [10, 11, 12, 13])
    assert pieces.reasoning == "say <|im_start|>answer now"
    pieces = splitter.push("say <|im_start|>answer now<|im_start|>answer\n5", [10, 11, 12, 13, 1, 3, 14, 15])
    assert (pieces.reasoning, pieces.content) == (None, "5")


@pytest.mark.parametrize(
    ("token_ids", "first", "last"),
    [([1, 3, 5, 1, 3], 0, 3), ([1, 1, 3], 1, 1), ([1], None, None), ([], None, None)],
)
def test_find(token_ids: list[int], first: int | None, last: int | None) -> None:
    assert (find(token_ids, END), find_last(token_ids, END)) == (first, last)
