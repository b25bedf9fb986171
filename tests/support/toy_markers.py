"""Marker ids over a vocabulary of 40 tokens, small enough for random search to reach every edge."""

from server.budget.markers import FAMILIES, MarkerIds

VOCABULARY = 40
TURN, THINK, ANSWER, EOS, NEWLINE, DOT, SPACE, SPECIAL, WAIT, WAIT_TAIL = range(10)
UNKNOWN = 39
"""Beyond the tokenizer's vocabulary."""


def toy_markers(
    *,
    family: str = "s1",
    wait: tuple[int, ...] = (WAIT,),
    answer_prompt: bool = True,
    starts_a_line: bool = False,
) -> MarkerIds:
    """
    Args:
        starts_a_line: the start marker ends with a newline.
    """
    two_tokens = family == "s1"
    start = (TURN, THINK) if two_tokens else (THINK,)
    return MarkerIds(
        family=FAMILIES[family],
        start=(*start, NEWLINE) if starts_a_line else start,
        end=(TURN, ANSWER) if two_tokens else (ANSWER,),
        wait=wait,
        newline=NEWLINE,
        answer_prompt=(NEWLINE, 20, 21) if answer_prompt else (),
        eos_token=EOS,
        eos=frozenset({EOS}),
        special=frozenset({TURN, EOS, SPECIAL} if two_tokens else {THINK, ANSWER, EOS, SPECIAL}),
        blank=frozenset({TURN, EOS, SPECIAL, NEWLINE, SPACE, UNKNOWN}),
        line_end=frozenset({NEWLINE}),
        sentence_end=frozenset({NEWLINE, DOT}),
        unknown=frozenset({UNKNOWN}),
    )
