"""Asks a checkpoint on disk, without a server: the same budget rules in a plain generation loop.

For development and for the curve at the end of training. The rules are not repeated here: every
sequence runs the budget machine that the served engine is tested against.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server.budget.machine import BudgetMachine, Phase
from server.budget.markers import FAMILIES, MarkerIds, marker_ids
from server.budget.spec import ThinkingBudget, resolve
from training.evaluate.demo_curve.results import MAX_COMPLETION_TOKENS, Outcome, Setting
from training.grading.program import grade_exact
from training.tiny.tasks import Question

_BATCH_SIZE = 128
_REPACK_BELOW = 0.7


@dataclass(slots=True)
class Continuation:
    """One prompt being continued under its budget."""

    prompt_ids: list[int]
    machine: BudgetMachine
    output_ids: list[int] = field(default_factory=list)
    finished: bool = False

    def advance(self, sampled: int) -> int:
        """The next input; a finished continuation only fills its row until the batch is repacked."""
        if self.finished:
            return self.output_ids[-1]
        token = self.machine.commit(sampled)
        self.output_ids.append(token)
        ends = self.machine.phase is Phase.ANSWER and token in self.machine.ids.eos
        self.finished = ends or len(self.output_ids) >= MAX_COMPLETION_TOKENS
        return token

    @property
    def answer_ids(self) -> list[int]:
        begin = self.machine.answer_begin
        answer = [] if begin is None else self.output_ids[begin:]
        return [token for token in answer if token not in self.machine.ids.special]


class LocalModel:
    """A checkpoint folder of the s1 family."""

    versions_of: tuple[str, ...] = ("s1-server", "torch", "transformers")

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.ids: MarkerIds = marker_ids(
            FAMILIES["s1"],
            self.tokenizer,
            vocab_size=self.model.config.vocab_size,
            eos_token_ids=self.model.generation_config.eos_token_id,
        )

    async def answer_all(
        self, questions: Sequence[Question], setting: Setting, on_answer: Callable[[], None]
    ) -> list[Outcome]:
        sequences = [self._open(question.text, setting) for question in questions]
        shortest_first = sorted(sequences, key=lambda sequence: len(sequence.prompt_ids))
        for begin in range(0, len(sequences), _BATCH_SIZE):
            batch = shortest_first[begin : begin + _BATCH_SIZE]
            self._generate(batch)
            for _ in batch:
                on_answer()
        return [self._outcome(sequence, q.truth) for sequence, q in zip(sequences, questions, strict=True)]

    def _open(self, question: str, setting: Setting) -> Continuation:
        prompt = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        prompt_ids: list[int] = self.tokenizer.encode(prompt, add_special_tokens=False)
        budget = resolve(
            ThinkingBudget.from_fields(setting.fields()),
            room=MAX_COMPLETION_TOKENS,
            limited_by="max_completion_tokens",
            opening_tokens=0,
            exit_tokens=self.ids.exit_tokens(),
        )
        return Continuation(prompt_ids, BudgetMachine(self.ids, budget, opened=True))

    def _outcome(self, sequence: Continuation, truth: str) -> Outcome:
        content = self.tokenizer.decode(sequence.answer_ids, skip_special_tokens=True)
        verdict = grade_exact(truth, content)
        return Outcome(verdict.correct, verdict.extracted, sequence.machine.thinking_tokens)

    def _generate(self, running: list[Continuation]) -> None:
        """Greedy, with a key-value cache; finished sequences leave the batch now and then."""
        import torch

        inputs, mask = self._left_padded(running)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache: Any = None
        with torch.inference_mode():
            while running:
                step = self.model(
                    input_ids=inputs,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                cache = step.past_key_values
                sampled = self._greedy(step.logits[:, -1], running)
                inputs = torch.tensor([[s.advance(t)] for s, t in zip(running, sampled, strict=True)])
                mask = torch.cat([mask, torch.ones_like(inputs)], dim=1)
                positions = positions[:, -1:] + 1
                kept = [row for row, sequence in enumerate(running) if not sequence.finished]
                if len(kept) < _REPACK_BELOW * len(running):
                    running = [running[row] for row in kept]
                    cache.batch_select_indices(torch.tensor(kept, dtype=torch.long))
                    inputs, mask, positions = inputs[kept], mask[kept], positions[kept]

    def _greedy(self, logits: Any, running: list[Continuation]) -> list[int]:
        for row, sequence in enumerate(running):
            if masked := sequence.machine.masked:
                logits[row, list(masked)] = float("-inf")
        sampled: list[int] = logits.argmax(-1).tolist()
        return sampled

    def _left_padded(self, running: list[Continuation]) -> tuple[Any, Any]:
        import torch

        longest = max(len(sequence.prompt_ids) for sequence in running)
        rows, masks = [], []
        for sequence in running:
            padding = longest - len(sequence.prompt_ids)
            rows.append([self.tokenizer.pad_token_id] * padding + sequence.prompt_ids)
            masks.append([0] * padding + [1] * len(sequence.prompt_ids))
        return torch.tensor(rows), torch.tensor(masks)
