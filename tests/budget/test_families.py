"""Families: found from what a checkpoint shows, described by options, and proven on rebuilt tokenizers."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from server.budget.families import (
    FAMILIES,
    Family,
    FamilyError,
    FamilyOptions,
    as_options,
    detect_family,
)
from server.budget.machine import BudgetMachine
from server.budget.markers import MarkerIds, marker_ids
from server.budget.spec import EffectiveBudget
from tests.support.engines import DEMO
from tests.support.tokenizers import byte_tokenizer, plain, special

CHATML = ["<|im_start|>", "<|im_end|>"]
THINK = ["<think>", "</think>"]
MISTRAL = ["[INST]", "[/INST]", "[THINK]", "[/THINK]"]
SEED = ["<seed:bos>", "<seed:eos>", "<seed:think>", "</seed:think>"]
HARMONY = ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>"]

QWEN3 = "{%- if '</think>' in content %}…{{ '<|im_start|>assistant\\n' }}"
R1 = "{% if '</think>' in content %}…{{'<｜Assistant｜>'}}"
GPT_OSS = "{{- '<|start|>assistant<|channel|>analysis<|message|>' + message.thinking + '<|end|>' }}"
GRANITE = "…your thoughts after 'Here is my thought process:', your response after 'Here is my response:'"


@pytest.mark.parametrize(
    ("model", "template", "vocabulary", "family"),
    [
        ("any", "…{{'<|im_start|>think'}}", CHATML, "s1"),
        ("simplescaling/s1.1-32B", "plain chatml", CHATML, "s1"),
        ("/models/s1-32B", None, CHATML, "s1"),
        ("Qwen/Qwen3-8B", QWEN3, CHATML + THINK, "qwen3"),
        ("Qwen/QwQ-32B", "{{- '<|im_start|>assistant\\n<think>\\n' }}", CHATML + THINK, "qwen3"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", R1, [*THINK, "<｜Assistant｜>"], "deepseek_r1"),
        (
            "zai-org/GLM-4.5",
            "{{ '<|assistant|>\\n<think></think>' }}",
            [*THINK, "<|assistant|>"],
            "deepseek_r1",
        ),
        ("without-a-template", None, CHATML + THINK, "qwen3"),
        ("allenai/Olmo-3-7B-Think", "{{ '<|im_start|>assistant\\n<think>' }}", CHATML, "qwen3"),
        ("mistralai/Magistral-Small-2509", "[SYSTEM_PROMPT]…[THINK]…[/THINK]", MISTRAL, "mistral"),
        ("ByteDance-Seed/Seed-OSS-36B-Instruct", "{{ '<seed:think>' }}", SEED, "seed_oss"),
        ("openai/gpt-oss-20b", GPT_OSS, HARMONY, "harmony"),
        ("ibm-granite/granite-3.2-8b-instruct", GRANITE, ["<|start_of_role|>"], "granite"),
    ],
)
def test_detection(model: str, template: str | None, vocabulary: list[str], family: str) -> None:
    assert detect_family(model=model, chat_template=template, vocabulary=vocabulary).name == family


@pytest.mark.parametrize(
    ("model", "prompt", "vocabulary", "family"),
    [
        ("x", "<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\n<|im_start|>think", CHATML, "s1"),
        ("x", "<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\n", CHATML + THINK, "qwen3"),
        ("x", "<|start|>user<|message|>?<|end|><|start|>assistant", HARMONY, "harmony"),
        ("x", "<s>[SYSTEM_PROMPT]Draft: [THINK]…[/THINK][/SYSTEM_PROMPT][INST]?[/INST]", MISTRAL, "mistral"),
        ("x", "<seed:bos>user\n?<seed:eos><seed:bos>assistant\n", SEED, "seed_oss"),
    ],
)
def test_detection_from_a_rendered_chat(model: str, prompt: str, vocabulary: list[str], family: str) -> None:
    found = detect_family(model=model, chat_template=None, vocabulary=vocabulary, prompt=prompt)
    assert found.name == family


@pytest.mark.parametrize(
    ("model", "template", "vocabulary"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "chatml", CHATML),
        ("org/gas1-model", None, CHATML),
        ("s10-large", None, CHATML),
        # Tokens that a model shares with others that think prove nothing.
        ("Qwen/Qwen3-4B-Instruct-2507", "{{ '<|im_start|>assistant\\n' }}", CHATML + THINK),
        ("mistralai/Mistral-Small-3.2", "[INST]{{ content }}[/INST]", MISTRAL),
        ("mistralai/Mistral-Small-3.2", None, MISTRAL),
        ("some-base-model", None, [t for t in HARMONY if t != "<|return|>"]),
    ],
)
def test_an_unknown_model_says_what_describes_it(
    model: str, template: str | None, vocabulary: list[str]
) -> None:
    with pytest.raises(FamilyError) as raised:
        detect_family(model=model, chat_template=template, vocabulary=vocabulary)
    for part in (
        repr(model),
        "'<think>'",
        "--think-start TEXT --think-end TEXT",
        "--wait-text, by default 'Wait'",
        "--family {s1|",
        "--family none",
    ):
        assert part in str(raised.value)


def test_an_unknown_model_is_told_its_likely_markers() -> None:
    with pytest.raises(FamilyError, match=r"Its vocabulary has '</thought>', '<thought>'\. Describe"):
        detect_family(model="x", chat_template="…", vocabulary=["<thought>", "</thought>", "thinking", "<s>"])


# -- options ------------------------------------------------------------------------------------------


def unasked() -> Family:
    raise AssertionError("nothing has to be found")


def test_both_markers_describe_a_family() -> None:
    options = FamilyOptions.read(think_start="<a>", think_end="</a>", answer_prompt=r"\nIt is \\n\alpha:")
    assert options.resolve(unasked) == Family("custom", "<a>", "</a>", answer_prompt="\nIt is \\n\\alpha:")


def test_markers_with_one_turn_token_end_an_answer() -> None:
    s1 = FAMILIES["s1"]
    options = FamilyOptions(
        think_start=s1.think_start, think_end=s1.think_end, answer_prompt=s1.answer_prompt
    )
    family = options.resolve(unasked)
    assert family.marker_ends_answer
    assert (
        not FamilyOptions(think_start="Think:", think_end="Think no more").resolve(unasked).marker_ends_answer
    )


def test_a_named_or_found_family_keeps_what_is_not_overridden() -> None:
    named = FamilyOptions(family="s1", wait_text="Hmm").resolve(unasked)
    assert (named.wait_text, named.answer_prompt, named.marker_ends_answer) == (
        "Hmm",
        "\nFinal Answer:",
        True,
    )
    found = FamilyOptions(think_end="</end>").resolve(lambda: FAMILIES["qwen3"])
    assert (found.name, found.think_start, found.think_end) == ("qwen3", "<think>", "</end>")
    assert FamilyOptions(answer_prompt="").resolve(lambda: FAMILIES["qwen3"]).answer_prompt == ""


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"family": "r2"}, "--family must be one of s1, deepseek_r1, qwen3, .*, none. Given: r2"),
        ({"family": "none", "think_end": "</t>"}, "--think-end can't be combined with --family none.*</t>"),
        ({"think_start": ""}, "--think-start must have visible characters. Given: ''"),
        ({"wait_text": "\n"}, "--wait-text must have visible characters"),
        ({"think_start": "<a>", "think_end": "<a>"}, "--think-end must differ from --think-start"),
        ({"family": "qwen3", "wait_text": "No</think>"}, "--wait-text can't contain the marker '</think>'"),
        ({"family": "s1", "answer_prompt": "<|im_start|>answer"}, "--answer-prompt can't contain"),
    ],
)
def test_a_bad_option_is_named(options: dict[str, str], says: str) -> None:
    with pytest.raises(FamilyError, match=says):
        FamilyOptions(**options)


def test_contradictions_with_a_found_family_are_named() -> None:
    options = FamilyOptions(wait_text="a <think> b")
    with pytest.raises(FamilyError, match="--wait-text can't contain the marker '<think>'"):
        options.resolve(lambda: FAMILIES["qwen3"])


@pytest.mark.parametrize(
    "family",
    [
        *FAMILIES.values(),
        Family("custom", "it's <a>", "\\n\n</a>", answer_prompt="\n$x", wait_text="Wait!"),
        FamilyOptions(family="s1", wait_text="Hm").resolve(unasked),
    ],
    ids=lambda family: family.name,
)
def test_the_options_that_are_shown_mean_the_same_family(family: Family) -> None:
    words = shlex.split(as_options(family))
    given = {
        name.removeprefix("--").replace("-", "_"): text
        for name, text in zip(words[::2], words[1::2], strict=True)
    }
    assert FamilyOptions.read(**given).resolve(unasked) == family


# -- on tokenizers ------------------------------------------------------------------------------------


def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    if family == "s1":
        return AutoTokenizer.from_pretrained(DEMO)
    added = {
        "deepseek_r1": [special("<｜end▁of▁sentence｜>"), *map(plain, THINK)],
        "qwen3": [*map(special, CHATML), *map(plain, THINK)],
        "mistral": [special("<s>"), special("</s>"), *map(special, MISTRAL)],
        "seed_oss": [*map(special, SEED)],
        "harmony": [*map(special, HARMONY)],
        "granite": [special("<|end_of_text|>"), special("<|start_of_role|>"), special("<|end_of_role|>")],
    }[family]
    eos = {
        "deepseek_r1": "<｜end▁of▁sentence｜>",
        "mistral": "</s>",
        "seed_oss": "<seed:eos>",
        "harmony": "<|return|>",
        "granite": "<|end_of_text|>",
    }
    return byte_tokenizer(*added, eos=eos.get(family, "<|im_end|>"))


def ids_of(family: str, **kwargs: Any) -> tuple[PreTrainedTokenizerFast, MarkerIds]:
    tokenizer = tokenizer_of(family)
    return tokenizer, marker_ids(FAMILIES[family], tokenizer, vocab_size=len(tokenizer), **kwargs)


@pytest.mark.parametrize("name", ["s1", "deepseek_r1", "qwen3", "mistral", "seed_oss"])
def test_every_native_family_begins_its_end_with_an_added_token(name: str) -> None:
    tokenizer, ids = ids_of(name)
    family = FAMILIES[name]
    assert tokenizer.decode(list(ids.start)) == family.think_start
    assert tokenizer.decode(list(ids.end)) == family.think_end
    assert tokenizer.decode(list(ids.answer_prompt)) == family.answer_prompt
    assert not ids.end_is_text
    assert ids.end_attempt == {ids.end[0], tokenizer.eos_token_id}
    assert len(ids.end) == (2 if name == "s1" else 1)
    around = tokenizer.encode(f"a{family.think_start}b{family.think_end}c", add_special_tokens=False)
    assert around.count(ids.end[0]) == (2 if name == "s1" else 1)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("harmony", "family harmony can't be served by the plugin: vLLM reads its channels"),
        ("granite", "'Here is my response:' begins with the ordinary token 'H'"),
    ],
)
def test_families_for_rounds_alone_are_refused_by_the_plugin(name: str, says: str) -> None:
    with pytest.raises(FamilyError) as refused:
        ids_of(name)
    assert says in str(refused.value)
    assert f"s1 serve --engine-url URL --family {name}" in str(refused.value)
    _, ids = ids_of(name, rounds=True)
    assert ids.end_is_text == (name == "granite")


def test_gemma_4_can_be_described() -> None:
    tokenizer = byte_tokenizer(
        *map(special, ["<|channel>", "<channel|>", "<|turn>", "<turn|>"]), eos="<turn|>"
    )
    options = FamilyOptions.read(think_start=r"<|channel>thought\n", think_end="<channel|>")
    ids = marker_ids(options.resolve(unasked), tokenizer, vocab_size=len(tokenizer))
    assert tokenizer.decode(list(ids.start)) == "<|channel>thought\n"
    assert ids.end == (tokenizer.convert_tokens_to_ids("<channel|>"),)
    assert not ids.family.marker_ends_answer


def harmony_run(thought: str, ending: str, *, waits: int = 0, answer: str = "4<|return|>") -> str:
    """What stands in the output when gpt-oss samples these texts where it may choose."""
    tokenizer, ids = ids_of(
        "harmony", rounds=True, eos_token_ids=tokenizer_of("harmony").convert_tokens_to_ids(["<|call|>"])
    )
    prompt = tokenizer.encode("<|start|>user<|message|>2+2?<|end|><|start|>assistant")
    assert not ids.opened(prompt)
    budget = EffectiveBudget(max=100, min=0, num_waits=waits, landing=0, clamped_by=())
    machine = BudgetMachine(ids, budget, opened=False)
    output = []
    for text in (*[thought + ending] * (waits + 1), answer):
        for token in tokenizer.encode(text, add_special_tokens=False):
            while machine.forced is not None:
                output.append(machine.commit(machine.forced))
            output.append(machine.commit(token))
    return tokenizer.decode(output)


FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"


@pytest.mark.parametrize("ending", ["<|end|>", "<|return|>", "<|call|>"])
def test_harmony_goes_from_analysis_to_the_final_channel(ending: str) -> None:
    analysis = "<|channel|>analysis<|message|>"
    assert harmony_run("2+2.", ending) == f"{analysis}2+2.{FINAL}4<|return|>"
    assert harmony_run("2+2.", ending, waits=1) == f"{analysis}2+2.Wait2+2.{FINAL}4<|return|>"


@pytest.mark.parametrize("leaving", ["<|end|>", "<|channel|>"])
def test_a_harmony_answer_that_opens_another_message_is_over(leaving: str) -> None:
    assert harmony_run("a", "<|end|>", answer=f"4{leaving}").endswith(f"{FINAL}4<|return|>")
