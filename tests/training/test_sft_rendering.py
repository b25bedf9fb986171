"""Loss masks, token by token, over the tokenizers and chat templates of each family."""

import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("trl")

from tests.support.sft import tokenizer_of
from training.sft.rendering import (
    IGNORED,
    TRACE_FORMATS,
    RenderingError,
    explain,
    render_messages,
    render_turn,
    split_text,
    tokenize,
)

QUESTION, THINKING, ANSWER = (
    "What is two plus three?",
    "Two and three make five.\n\nWait, I check: five.",
    "5",
)
_QWEN_SYSTEM = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
)
_USER = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
_S1 = f"<|im_start|>think\n{THINKING}\n<|im_start|>answer\n5<|im_end|>\n"

# tokenizer, format -> what is context, what is learned
EXPECTED = {
    ("demo", "s1"): (_USER, _S1),
    ("qwen2_5", "s1"): (_QWEN_SYSTEM + _USER, _S1),
    ("qwen3", "qwen3"): (_USER, f"<think>\n{THINKING}\n</think>\n\n5<|im_end|>"),
    ("deepseek_r1_distill", "deepseek_r1"): (
        f"<｜begin▁of▁sentence｜><｜User｜>{QUESTION}<｜Assistant｜>",
        f"<think>\n{THINKING}\n</think>\n\n5<｜end▁of▁sentence｜>",
    ),
}
CASES = list(EXPECTED)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("tokenizers")
    return {family: tokenizer_of(family, folder / family) for family, _ in CASES}


@pytest.mark.parametrize(("family", "form"), CASES)
def test_every_token_is_context_before_the_think_marker_and_learned_from_it_on(
    tokenizers: dict[str, Any], family: str, form: str
) -> None:
    tokenizer, trace_format = tokenizers[family], TRACE_FORMATS[form]
    rendered = render_turn(tokenizer, trace_format, question=QUESTION, thinking=THINKING, answer=ANSWER)
    assert (rendered.prompt, rendered.completion) == EXPECTED[family, form]
    example = tokenize(tokenizer, rendered)
    views = explain(tokenizer, example)
    for at, (view, label) in enumerate(zip(views, example.labels, strict=True)):
        said = "learned" if view.learned else "context"
        sys.stdout.write(f"{at:4d} {view.token_id:4d} {said} {view.text!r}\n")
        assert label == (view.token_id if view.learned else IGNORED)
    context = tokenizer.decode([view.token_id for view in views if not view.learned])
    learned = tokenizer.decode([view.token_id for view in views if view.learned])
    assert (context, learned) == EXPECTED[family, form]
    first = next(at for at, view in enumerate(views) if view.learned)
    assert not any(view.learned for view in views[:first]) and all(view.learned for view in views[first:])
    assert views[first].text == ("<think>" if form != "s1" else "<|im_start|>")
    assert any(view.learned and view.text == trace_format.turn_end for view in views[-2:])


@pytest.mark.parametrize(("family", "form"), CASES)
def test_columns_messages_and_text_give_the_same_tokens(
    tokenizers: dict[str, Any], family: str, form: str
) -> None:
    tokenizer, trace_format = tokenizers[family], TRACE_FORMATS[form]
    rendered = render_turn(tokenizer, trace_format, question=QUESTION, thinking=THINKING, answer=ANSWER)
    expected = tokenize(tokenizer, rendered)
    user = {"role": "user", "content": QUESTION}
    marked = f"{trace_format.think_start}\n{THINKING}\n{trace_format.think_end}\n\n{ANSWER}"
    for last in (
        {"role": "assistant", "reasoning": THINKING, "content": ANSWER},
        {"role": "assistant", "reasoning_content": THINKING, "content": ANSWER},
        {"role": "assistant", "content": marked},
    ):
        assert tokenize(tokenizer, render_messages(tokenizer, trace_format, [user, last])) == expected
    assert tokenize(tokenizer, split_text(trace_format, rendered.text)) == expected


@pytest.mark.parametrize(("family", "form"), CASES)
def test_only_the_last_turn_is_learned(tokenizers: dict[str, Any], family: str, form: str) -> None:
    tokenizer, trace_format = tokenizers[family], TRACE_FORMATS[form]
    conversation = [
        {"role": "user", "content": "What is one plus one?"},
        {"role": "assistant", "content": "It is two."},
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "reasoning": THINKING, "content": ANSWER},
    ]
    example = tokenize(tokenizer, render_messages(tokenizer, trace_format, conversation))
    views = explain(tokenizer, example)
    assert "It is two." in tokenizer.decode([view.token_id for view in views if not view.learned])
    learned = tokenizer.decode([view.token_id for view in views if view.learned])
    assert learned == EXPECTED[family, form][1]


CUT = "Two and three make"
# What the engine forces after a trace that a maximum cut there, per format; then the answer.
FORCED = {
    "s1": ("\n<|im_start|>answer\nFinal Answer:", " 5<|im_end|>\n"),
    "qwen3": ("\n</think>\n\n", "5<|im_end|>"),
    "deepseek_r1": ("\n</think>\n\n", "5<｜end▁of▁sentence｜>"),
}


@pytest.mark.parametrize(("family", "form"), CASES)
@pytest.mark.parametrize("thinking", [CUT, f"{CUT}\n", ""])
def test_of_a_cut_trace_all_but_the_forced_exit_is_learned(
    tokenizers: dict[str, Any], family: str, form: str, thinking: str
) -> None:
    tokenizer, trace_format = tokenizers[family], TRACE_FORMATS[form]
    messages = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "reasoning": thinking, "content": ANSWER, "ended_by": "max_thinking_tokens"},
    ]
    rendered = render_messages(tokenizer, trace_format, messages)
    forced, answer = FORCED[form]
    if not thinking or thinking.endswith("\n"):
        forced = forced.removeprefix("\n")
    example = tokenize(tokenizer, rendered)
    spans: list[tuple[bool, list[int]]] = []
    for token_id, label in zip(example.input_ids, example.labels, strict=True):
        if not spans or spans[-1][0] != (label != IGNORED):
            spans.append((label != IGNORED, []))
        spans[-1][1].append(token_id)
    context = EXPECTED[family, form][0]
    assert [(learned, tokenizer.decode(ids)) for learned, ids in spans] == [
        (False, context),
        (True, trace_format.opening + thinking),
        (False, forced),
        (True, answer),
    ]


@pytest.mark.parametrize(
    ("fields", "form", "message"),
    [
        ({"ended_by": "length"}, "s1", "ended_by must be model or max_thinking_tokens, is 'length'"),
        ({"ended_by": "max_thinking_tokens"}, "s1_steps", "ended_by can't be used with format s1_steps"),
        ({"ended_by": "max_thinking_tokens", "reasoning": "<|im_end|>"}, "s1", "thinking contains"),
        ({"ended_by": "max_thinking_tokens", "content": " "}, "s1", "answer is empty"),
    ],
)
def test_cut_traces_that_break_the_form_are_refused(
    tokenizers: dict[str, Any], fields: dict[str, str], form: str, message: str
) -> None:
    last = {"role": "assistant", "reasoning": CUT, "content": ANSWER, **fields}
    messages: list[dict[str, str]] = [{"role": "user", "content": QUESTION}, last]
    with pytest.raises(RenderingError, match=message):
        render_messages(tokenizers["demo"], TRACE_FORMATS[form], messages)


def test_a_system_prompt_replaces_the_templates_own(tokenizers: dict[str, Any]) -> None:
    rendered = render_turn(
        tokenizers["qwen2_5"],
        TRACE_FORMATS["s1"],
        question=QUESTION,
        thinking=THINKING,
        answer=ANSWER,
        system_prompt="Be brief.",
    )
    assert rendered.prompt == "<|im_start|>system\nBe brief.<|im_end|>\n" + _USER


@pytest.mark.parametrize(
    ("answer", "said"),
    [("5", "Answer: 5"), ("Final Answer: 5", "Final Answer: 5"), ("Answer: 5", "Answer: 5")],
)
def test_s1_puts_its_prefix_before_answers_that_lack_it(
    tokenizers: dict[str, Any], answer: str, said: str
) -> None:
    rendered = render_turn(
        tokenizers["demo"],
        TRACE_FORMATS["s1"],
        question=QUESTION,
        thinking=THINKING,
        answer=answer,
        answer_prefix="Answer: ",
    )
    assert rendered.completion.endswith(f"<|im_start|>answer\n{said}<|im_end|>\n")


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("question", "", "question is empty"),
        ("thinking", " \n", "thinking is empty"),
        ("answer", None, "answer is missing"),
        ("answer", 5, "answer must be text, is int"),
        ("thinking", "So </think> it ends", "thinking contains '</think>'"),
        ("question", "<|im_start|>system", r"question contains '<\|im_start\|>'"),
    ],
)
def test_parts_that_would_break_the_form_are_refused(
    tokenizers: dict[str, Any], part: str, value: Any, message: str
) -> None:
    parts: dict[str, Any] = {"question": QUESTION, "thinking": THINKING, "answer": ANSWER, part: value}
    with pytest.raises(RenderingError, match=message):
        render_turn(tokenizers["qwen3"], TRACE_FORMATS["qwen3"], **parts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<|im_start|>assistant\nfive<|im_end|>", "no think marker"),
        ("<|im_start|>think\nx\n<|im_start|>answer\n5<|im_end|>", "nothing before"),
        (_USER + "<|im_start|>think\nx\n5<|im_end|>", "once after the think marker, has 0"),
        (_USER + "<|im_start|>think\nx\n<|im_start|>answer\n5", "must end with '<|im_end|>'"),
        (_USER + "<|im_start|>think\n\n<|im_start|>answer\n5<|im_end|>", "empty trace"),
        (_USER + "<|im_start|>think\nx\n<|im_start|>answer\n<|im_end|>", "empty answer"),
    ],
)
def test_rendered_text_that_is_not_whole_is_refused(text: str, message: str) -> None:
    with pytest.raises(RenderingError) as refusal:
        split_text(TRACE_FORMATS["s1"], text)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "must end with a message of role assistant"),
        ([{"role": "user", "content": "x"}], "must end with a message of role assistant"),
        ([{"role": "assistant", "reasoning": "x", "content": "y"}], "must hold a message of role user"),
        ([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "has no trace"),
    ],
)
def test_conversations_without_a_trace_are_refused(
    tokenizers: dict[str, Any], messages: list[Any], message: str
) -> None:
    with pytest.raises(RenderingError, match=message):
        render_messages(tokenizers["qwen3"], TRACE_FORMATS["qwen3"], messages)


def test_a_token_across_the_border_is_refused(tokenizers: dict[str, Any]) -> None:
    from training.sft.rendering import Rendered

    with pytest.raises(RenderingError, match="spans prompt and think marker"):
        tokenize(tokenizers["demo"], Rendered("x an", "swer y"))


def test_step_headers_take_the_think_markers_place(tokenizers: dict[str, Any]) -> None:
    steps = TRACE_FORMATS["s1_steps"]
    trace = "<|im_start|>2 steps left\nTwo.\n<|im_start|>1 steps left\nFive."
    rendered = render_turn(tokenizers["qwen2_5"], steps, question=QUESTION, thinking=trace, answer=ANSWER)
    assert rendered.completion == f"{trace}\n<|im_start|>answer\n5<|im_end|>\n"
    views = explain(tokenizers["qwen2_5"], tokenize(tokenizers["qwen2_5"], rendered))
    assert next(view for view in views if view.learned).text == "<|im_start|>"
    for bad in ("Two.\n\nFive.", "<|im_start|>1 steps left\nso <|im_start|>user"):
        with pytest.raises(RenderingError, match="thinking"):
            render_turn(tokenizers["qwen2_5"], steps, question=QUESTION, thinking=bad, answer=ANSWER)


def test_letters_of_several_bytes_do_not_move_the_mask(tokenizers: dict[str, Any], tmp_path: Path) -> None:
    rendered = render_turn(
        tokenizers["deepseek_r1_distill"],
        TRACE_FORMATS["deepseek_r1"],
        question="Was ist ½ + ½? 🙂",
        thinking="½ und ½ — eins 🙂",
        answer="１",
    )
    example = tokenize(tokenizers["deepseek_r1_distill"], rendered)
    learned = [label for label in example.labels if label != IGNORED]
    assert tokenizers["deepseek_r1_distill"].decode(learned) == rendered.completion
