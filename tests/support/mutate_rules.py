"""Break each rule once and see a test go red: `python -m tests.support.mutate_rules [steps | kernels]`.

`steps` (V1's, compiled) takes five minutes on one core and `kernels` (V2's) a quarter of an hour, so it is no
part of the test run. Exits with 1 if a mutation survives.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
Mutation = tuple[str, str, str]
"""The rule that is broken, its code, and what stands there instead."""

KERNELS: tuple[Mutation, ...] = (
    ("the maximum", "tl.where(maximum > 0, maximum - 1, 0))", "tl.where(maximum > 0, maximum, 0))"),
    ("the newline at the maximum", "(full & (maximum > 0))", "(full & (maximum > 9))"),
    ("no newline after a line end", "((near | loops | told) & bare)", "(near | loops | told)"),
    ("waits left", "(waits < num_waits) |", "(waits <= num_waits) |"),
    ("the minimum", "| (thinking < minimum)", "| (thinking <= minimum)"),
    (
        "a wait counts as thinking",
        "thought | waiting | in_wait, thinking + 1",
        "thought | waiting, thinking + 1",
    ),
    ("the mask after a wait", "tl.where(thinks & (just_waited != 0), _C_END, 0)", "0"),
    ("the mask ends after one token", "just_waited = tl.where(thought, 0, just_waited)", ""),
    ("landing begins", "(thinking >= maximum - landing)", "(thinking > maximum - landing)"),
    (
        "landing at a sentence end",
        "((token_class & _C_SENTENCE_END) != 0)",
        "((token_class & _C_LINE_END) != 0)",
    ),
    ("no landing right after a wait", "(script == _S_NONE) & (just_waited == 0)\n", "(script == _S_NONE)\n"),
    ("the answer prompt", "tl.where(free_answer != 0, _S_EXIT, _S_END)", "_S_EXIT"),
    (
        "the answer begins visibly",
        "((token_class & _C_BLANK) == 0), _P_ANSWER",
        "(token_class >= 0), _P_ANSWER",
    ),
    ("blanks are counted", "blanks = tl.where(starts, blanks + 1, blanks)", ""),
    ("white space is masked at last", "_C_NOT_FIRST | _C_BLANK, _C_NOT_FIRST", "_C_NOT_FIRST, _C_NOT_FIRST"),
    (
        "a tool call may begin with a special token",
        "start_mask, _C_END | _C_MARKER)",
        "start_mask, start_mask)",
    ),
    ("what a grammar reads doesn't begin with an end", "start_mask, _C_END | _C_MARKER)", "start_mask, 0)"),
    (
        "a marker ends an s1 answer",
        "(free & (phase == _P_ANSWER)).to(tl.int32)",
        "(free & (phase > 9)).to(tl.int32)",
    ),
    ("no marker before `min_tokens`", "mask | _C_MARKER, mask", "mask, mask"),
    ("`min_tokens` itself", "(seen < tl.load(s + _MIN_OUTPUT))", "(seen <= tl.load(s + _MIN_OUTPUT))"),
    ("ends by the model", "ended_by = tl.where(ending, _BY_MODEL, ended_by)", ""),
    ("ends by a loop", "tl.where(loops, _BY_LOOP,", "tl.where(loops, _BY_MAXIMUM,"),
    ("left after the next token", "(seen >= told_at)", "(seen > told_at)"),
    ("on whose word", "tl.where(told, told_by, _BY_MAXIMUM)", "_BY_MAXIMUM"),
    ("the loop's window", "(runs >= window - periods)", "(runs > window - periods)"),
    ("the loop's repetitions", "(periods <= window // _REPEATS)", "(periods <= window // 3)"),
    (
        "a run that breaks",
        "tl.where(before == token, runs + 1, 0)",
        "tl.where(before == token, runs + 1, runs)",
    ),
    ("drafts lengthen a run", "(at >= begin) & (at >= committed), other=-1", "(at < begin), other=-1"),
    ("wait texts in turn", "(waits % wait_count) * _TEXT_TOKENS)", "0 * _TEXT_TOKENS)"),
    ("a wait text's tokens", "(waits_before % wait_count) * _TEXT_TOKENS + script_pos", "script_pos"),
    ("a wait text's length", "(tl.where(waits > 0, waits, 1) - 1) % wait_count)", "0)"),
    ("unknown ids", "_C_END, 0)) | _C_UNKNOWN", "_C_END, 0))"),
    ("replay knows the waits", "ended = ended | waited", "ended = ended | 0"),
    (
        "replay knows the end",
        "== _BY_MODEL, tl.load(parked + _END), -1)",
        "== 9, tl.load(parked + _END), -1)",
    ),
    (
        "replay when tokens were lost",
        "tl.load(parked + _SEEN) <= output_tokens",
        "tl.load(parked + _SEEN) >= 0",
    ),
    ("replay rebuilds runs", "& (window == 0):\n            source", "& (window >= 0):\n            source"),
    ("a changed draft ends the step", "tl.where(token != sampled, place + 1, kept)", "kept"),
    ("an end in a draft, at its place", "seen + place, ended_at)", "seen, ended_at)"),
)

STEPS: tuple[Mutation, ...] = (
    ("the maximum", ">= max(0, state[slot, _MAX] - 1)", ">= max(0, state[slot, _MAX])"),
    (
        "the newline at the maximum",
        "state[slot, _MAX] > 0, _BY_MAXIMUM",
        "state[slot, _MAX] > 9, _BY_MAXIMUM",
    ),
    ("no newline after a line end", "newline = not token_class & _C_LINE_END", "newline = True"),
    (
        "waits left",
        "state[slot, _WAITS] < state[slot, _NUM_WAITS]",
        "state[slot, _WAITS] <= state[slot, _NUM_WAITS]",
    ),
    (
        "the minimum",
        "state[slot, _THINKING] < state[slot, _MIN]",
        "state[slot, _THINKING] <= state[slot, _MIN]",
    ),
    (
        "a wait counts as thinking",
        "if state[slot, _SCRIPT] == _S_WAIT:\n            state[slot, _THINKING] += 1",
        "if state[slot, _SCRIPT] == _S_WAIT:\n            state[slot, _THINKING] += 0",
    ),
    ("the mask after a wait", "mask = _M_ENDS", "mask = _M_NONE"),
    (
        "the mask ends after one token",
        "            state[slot, _JUST_WAITED] = 0\n        elif",
        "        elif",
    ),
    (
        "landing begins",
        "state[slot, _THINKING] >= state[slot, _MAX] - state[slot, _LANDING]",
        "state[slot, _THINKING] > state[slot, _MAX] - state[slot, _LANDING]",
    ),
    (
        "landing at a sentence end",
        "near and token_class & _C_SENTENCE_END",
        "near and token_class & _C_LINE_END",
    ),
    ("not right after a wait", "== _S_NONE and not state[slot, _JUST_WAITED]", "== _S_NONE"),
    ("the answer prompt", "_S_EXIT if state[slot, _FREE_ANSWER] else _S_END", "_S_EXIT"),
    ("the answer begins visibly", "if not token_class & _C_BLANK:", "if True:"),
    ("blanks are counted", "state[slot, _BLANKS] += 1", "state[slot, _BLANKS] += 0"),
    (
        "white space is masked at last",
        "_M_START_VISIBLE if state[slot, _BLANKS] >= MAX_BLANK_ANSWER_TOKENS else _M_START",
        "_M_START",
    ),
    ("a tool call may begin with a special token", "mask = _M_CONSTRAINED", "mask = _M_START"),
    ("what a grammar reads doesn't begin with an end", "mask = _M_CONSTRAINED", "mask = _M_NONE"),
    ("a marker ends an s1 answer", "demands[slot, _ENDS_ANSWER] = 1", "demands[slot, _ENDS_ANSWER] = 0"),
    ("no marker before `min_tokens`", "mask = _M_MARKERS", "mask = _M_NONE"),
    (
        "`min_tokens` itself",
        "state[slot, _SEEN] < state[slot, _MIN_OUTPUT]",
        "state[slot, _SEEN] <= state[slot, _MIN_OUTPUT]",
    ),
    ("ends by the model", "state[slot, _END] = _BY_MODEL,", "state[slot, _END] = _BY_MAXIMUM,"),
    ("ends by a loop", "newline, _BY_LOOP", "newline, _BY_MAXIMUM"),
    (
        "left after the next token",
        "state[slot, _SEEN] >= state[slot, _TOLD_AT]",
        "state[slot, _SEEN] > state[slot, _TOLD_AT]",
    ),
    ("on whose word", "newline, state[slot, _TOLD_BY]", "newline, _BY_MAXIMUM"),
    ("the loop's window", "runs[slot, i] >= window - (i + 1)", "runs[slot, i] > window - (i + 1)"),
    ("the loop's repetitions", "window // LOOP_REPEATS", "window // 3"),
    (
        "a run that breaks",
        "if recent[slot, i] == token else 0",
        "if recent[slot, i] == token else runs[slot, i]",
    ),
    ("wait texts in turn", "text = state[slot, _WAITS] % state[slot, _WAIT_TEXTS]", "text = 0"),
    (
        "a wait text's tokens",
        "text = (max(state[slot, _WAITS], 1) - 1) % state[slot, _WAIT_TEXTS]",
        "text = 0",
    ),
    (
        "a wait text's length",
        "wait_rows[slot, (max(state[slot, _WAITS], 1) - 1) % state[slot, _WAIT_TEXTS]]",
        "wait_rows[slot, 0]",
    ),
    ("replay knows the waits", "(waited[at // WORD] >> np.int32(at % WORD)) & 1 != 0", "False"),
    ("a discarded sample is none", "if new == 1 and token >= 0:", "if new <= 1 and token >= 0:"),
    ("rows that vLLM took tokens from", "elif new != 0:", "elif new > 0:"),
    (
        "an end is where it was sampled",
        "state[slot, _ENDED_AT] = state[slot, _SEEN]",
        "state[slot, _ENDED_AT] = state[slot, _SEEN] + 1",
    ),
    ("what was left is told", "last[slot] = stands", "last[slot] = token"),
    ("whether anything was edited", "edited = True", "edited = False"),
)


@dataclass(frozen=True)
class Implementation:
    path: str
    mutations: tuple[Mutation, ...]
    tests: tuple[str, ...]
    """Arguments of pytest."""


IMPLEMENTATIONS = {
    "steps": Implementation("server/engine/steps.py", STEPS, ("tests/engine/test_forcing.py",)),
    "kernels": Implementation(
        "server/engine/kernels.py",
        KERNELS,
        ("tests/engine/test_kernels.py", "tests/engine/test_kernels_told.py", "-k", "not compile"),
    ),
}


def main(names: list[str]) -> int:
    survivors = 0
    for name in names or list(IMPLEMENTATIONS):
        implementation = IMPLEMENTATIONS[name]
        for mutation in implementation.mutations:
            caught = _is_caught(implementation, mutation)
            survivors += not caught
            sys.stdout.write(f"{'caught  ' if caught else 'SURVIVED'}  {name}: {mutation[0]}\n")
            sys.stdout.flush()
        sys.stdout.write(f"{name}: {len(implementation.mutations)} mutations\n")
    sys.stdout.write(f"{survivors} survived\n")
    return 1 if survivors else 0


def _is_caught(implementation: Implementation, mutation: Mutation) -> bool:
    _, old, new = mutation
    source = (ROOT / implementation.path).read_text()
    if source.count(old) == 0:
        raise SystemExit(f"not in {implementation.path} any more: {old}")
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory)
        for part in ("server", "tests", "training"):
            shutil.copytree(
                ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "checkpoints")
            )
        shutil.copy(ROOT / "pyproject.toml", copy)
        (copy / implementation.path).write_text(source.replace(old, new))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, *implementation.tests],
            cwd=copy,
            env={"PYTHONPATH": directory, "HOME": directory},
            capture_output=True,
        )
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout.decode())
    return done.returncode == 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
