from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.gateway.chat.sse import EventSplitter

STREAM = (
    b': a comment\n\ndata: {"a": 1}\n\ndata:no space\r\n\r\nevent: x\nid: 7\ndata:  two spaces\n\n'
    + "data: größer 思考 🧠\n\n".encode()
    + b"data: line one\ndata: line two\n\n\n\ndata: [DONE]\r\n\r\ndata: cut"
)
EVENTS = [
    b'{"a": 1}',
    b"no space",
    b" two spaces",
    "größer 思考 🧠".encode(),
    b"line one\nline two",
    b"[DONE]",
]


def test_one_chunk() -> None:
    assert EventSplitter().feed(STREAM) == EVENTS


@given(st.sets(st.integers(0, len(STREAM))))
def test_any_split(cuts: set[int]) -> None:
    splitter = EventSplitter()
    edges = [0, *sorted(cuts), len(STREAM)]
    events = [
        event
        for start, end in zip(edges, edges[1:], strict=False)
        for event in splitter.feed(STREAM[start:end])
    ]
    assert events == EVENTS


def test_an_event_comes_out_with_its_last_byte() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"data: x\n") == []
    assert splitter.feed(b"\n") == [b"x"]
