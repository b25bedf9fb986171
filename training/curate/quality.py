"""Quality: failed, cut and empty traces, broken texts, other languages (paper 2.2; rules in YAML)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from training.curate.errors import CurationError
from training.curate.schema import Drop, Question, drop, is_cut
from training.curate.stage import Outcome

STAGE = "quality"
DEFAULT_RULES = Path(__file__).with_name("quality.yaml")
_MATH = re.compile(
    r"\$\$.*?\$\$|\$[^$]*\$|\\\[.*?\\\]|\\\(.*?\\\)|\\begin\{.*?\\end\{\w+\*?\}|\\[a-zA-Z]+", re.DOTALL
)
_WORD = re.compile(r"[^\W\d_]{2,}")

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rule(_Section):
    name: Annotated[str, Field(min_length=1)]
    field: Literal["question", "thinking", "trace_answer"] = "question"
    contains: Annotated[str, Field(min_length=1)] | None = None
    regex: str | None = None
    lacks: str | None = None
    """A regular expression that every text must hold."""
    except_sources: tuple[str, ...] = ()

    @field_validator("regex", "lacks")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _one_pattern(self) -> Rule:
        if sum(pattern is not None for pattern in (self.contains, self.regex, self.lacks)) != 1:
            raise ValueError("needs one of contains, regex and lacks")
        return self

    @property
    def pattern(self) -> str:
        return self.contains or self.regex or self.lacks or ""

    def breaks(self, question: Question) -> bool:
        """A text that is not there breaks no rule: whether it must be is not a matter of its form."""
        text: str | None = getattr(question, self.field)
        if question.source in self.except_sources or text is None:
            return False
        if self.contains is not None:
            return self.contains in text
        found = re.search(self.pattern, text) is not None
        return found if self.lacks is None else not found


class LanguageRule(_Section):
    minimum_words: Annotated[int, Field(ge=1)]
    minimum_probability: Share
    maximum_non_latin_share: Share


class QualityRules(_Section):
    rules: tuple[Rule, ...]
    language: LanguageRule


@dataclass(frozen=True, slots=True)
class QualityOptions:
    english_only: bool = False
    require_trace: bool = False
    require_solution: bool = False
    """s1 drops questions without a reference solution, without saying so."""
    require_correct: bool = False
    """s1 does not: 46 % of its traces are wrong (section 2.2)."""


def load_rules(path: Path) -> QualityRules:
    """Raises CurationError: no such file, not YAML, or not rules; names the field."""
    import yaml

    try:
        return QualityRules.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise CurationError(f"--rules {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CurationError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "rules"
        raise CurationError(f"{path}: {field}: {first['msg']} (given: {first['input']!r})") from error


def quality(
    questions: Sequence[Question], rules: QualityRules, options: QualityOptions, advance: Iterator[None]
) -> Outcome:
    language = language_of() if options.english_only else None
    kept: list[Question] = []
    drops: list[Drop] = []
    for question in questions:
        next(advance, None)
        fault = _trace_fault(question, options) or _format_fault(question, rules)
        if fault is None and language is not None:
            fault = _language_fault(question, rules.language, language)
        if fault is None:
            kept.append(question)
        else:
            drops.append(drop(question, STAGE, *fault))
    return Outcome(len(questions), kept, drops)


def _trace_fault(question: Question, options: QualityOptions) -> tuple[str, str] | None:
    if question.trace_error is not None:
        return "api_error", question.trace_error
    if is_cut(question.trace_finish_reason):
        return "cut_trace", f"finish reason {question.trace_finish_reason}"
    if question.trace_model is not None:
        for name in ("thinking", "trace_answer"):
            if not (getattr(question, name) or "").strip():
                return "empty_trace", f"no {name}"
    elif options.require_trace and not ((question.thinking or "").strip() and question.trace_answer):
        return "no_trace", ""
    if options.require_solution and not (question.solution or question.answer):
        return "no_solution", ""
    if options.require_correct and question.trace_correct is not True:
        return ("not_known_correct" if question.trace_correct is None else "not_correct"), ""
    return None


def _format_fault(question: Question, rules: QualityRules) -> tuple[str, str] | None:
    for rule in rules.rules:
        if rule.breaks(question):
            return rule.name, rule.pattern
    return None


def language_of() -> Callable[[str], tuple[str, float]]:
    """The most likely language of a text and its probability; the model is part of the package."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def classify(text: str) -> tuple[str, float]:
        language, probability = identifier.classify(text)
        return str(language), float(probability)

    return classify


def _language_fault(
    question: Question, rule: LanguageRule, language: Callable[[str], tuple[str, float]]
) -> tuple[str, str] | None:
    text = _MATH.sub(" ", question.question)
    words = _WORD.findall(text)
    letters = "".join(words)
    foreign = sum("LATIN" not in unicodedata.name(letter, "") for letter in letters)
    if letters and foreign / len(letters) > rule.maximum_non_latin_share:
        return "not_english", f"{foreign} of {len(letters)} letters are not Latin"
    if len(words) < rule.minimum_words:
        return None
    name, probability = language(" ".join(words))
    if name != "en" and probability >= rule.minimum_probability:
        return "not_english", f"{name} with probability {probability:.2f}"
    return None
