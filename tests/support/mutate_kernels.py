"""Break each rule of the kernels once and see a test go red: `python -m tests.support.mutate_kernels`.

Takes a quarter of an hour on one core, so it is no part of the test run. Exits with 1 if a mutation survives.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
KERNELS = Path("server/engine/kernels.py")

MUTATIONS: tuple[tuple[str, str, str], ...] = (
    ("the maximum", "tl.where(maximum > 0, maximum - 1, 0))", "tl.where(maximum > 0, maximum, 0))"),
    ("the newline at the maximum", "(full & (maximum > 0))", "(full & (maximum > 9))"),
    (
        "no newline after a line end",
        "((near | loops | told) & ((token_class & _C_LINE_END) == 0))",
        "(near | loops | told)",
    ),
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


def main() -> int:
    survivors = []
    for rule, old, new in MUTATIONS:
        caught = _is_caught(old, new)
        sys.stdout.write(f"{'caught  ' if caught else 'SURVIVED'}  {rule}\n")
        sys.stdout.flush()
        if not caught:
            survivors.append(rule)
    sys.stdout.write(f"{len(MUTATIONS) - len(survivors)} of {len(MUTATIONS)} mutations caught\n")
    return 1 if survivors else 0


def _is_caught(old: str, new: str) -> bool:
    source = (ROOT / KERNELS).read_text()
    if source.count(old) == 0:
        raise SystemExit(f"not in the kernels any more: {old}")
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory)
        for part in ("server", "tests", "training"):
            shutil.copytree(
                ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "checkpoints")
            )
        shutil.copy(ROOT / "pyproject.toml", copy)
        (copy / KERNELS).write_text(source.replace(old, new))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        command += ["tests/engine/test_kernels.py", "-k", "not compile"]
        done = subprocess.run(
            command, cwd=copy, env={"PYTHONPATH": directory, "HOME": directory}, capture_output=True
        )
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout.decode())
    return done.returncode == 1


if __name__ == "__main__":
    raise SystemExit(main())
