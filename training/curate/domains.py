"""Domains of questions: as a column says, as clusters of their words, or as a model labels them."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from training.curate.asking import Asking
from training.curate.errors import CurationError
from training.curate.progress import Progress
from training.curate.schema import Drop, Question, drop
from training.endpoints.cache import CallCache
from training.endpoints.client import Caller, Endpoint, Patience
from training.endpoints.errors import RequestRefused
from training.endpoints.wire import Sampling

STAGE = "diversity"
_LABEL_ATTEMPTS = 3
_CODE_AT_END = re.compile(r"(?<!\d)(\d{2})\W*\Z")
_KMEANS_ITERATIONS = 100
_WORD_FOR_TFIDF = r"[A-Za-z]{3,}"
_PROMPT = """\
Which field does the question below belong to? Choose the one code of this list that fits best; questions of \
other sciences belong to the code nearest to their subject.

{codes}

## Question
{question}

Say in a sentence or two what the question is about. Then write the two-digit code alone on the last line."""


def load_codes(path: Path | None = None) -> Mapping[str, str]:
    """Two-digit codes and their titles.

    Raises:
        CurationError: the file is missing, or is no mapping of two-digit codes to titles.
    """
    import yaml

    path = path or Path(__file__).with_name("domains.yaml")
    try:
        codes = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CurationError(f"--codes {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CurationError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(codes, dict) or not codes:
        raise CurationError(f"{path} must map two-digit codes to titles")
    for code, title in codes.items():
        if not re.fullmatch(r"\d{2}", str(code)) or not isinstance(code, str) or not isinstance(title, str):
            raise CurationError(f"{path}: {code!r} must be a two-digit code in quotes, with a title as text")
    return codes


def by_field(questions: Sequence[Question], name: str) -> tuple[list[Question], list[Drop]]:
    """The column `domain`, or `metadata.NAME`: a key of the metadata. Questions without one are dropped.

    Raises:
        CurationError: no question has it.
    """
    labelled, drops = [], []
    for question in questions:
        label = question.domain if name == "domain" else _metadata_value(question, name)
        if label:
            labelled.append(dataclasses.replace(question, domain=label))
        else:
            drops.append(drop(question, STAGE, "no_domain", f"{name} is empty"))
    if not labelled:
        raise CurationError(f"--field {name}: no question has it; try --label clusters or --label model")
    return labelled, drops


def _metadata_value(question: Question, name: str) -> str | None:
    metadata = json.loads(question.metadata)
    value = metadata.get(name.removeprefix("metadata."))
    return None if value in (None, "") else str(value)


def by_clusters(questions: Sequence[Question], num_clusters: int, seed: int) -> list[Question]:
    """Groups of questions with like words (TF-IDF, k-means), named by their three heaviest words.

    Raises:
        CurationError: fewer questions than clusters.
    """
    if len(questions) < num_clusters:
        raise CurationError(
            f"--clusters must be <= the number of questions, {len(questions)}. Given: {num_clusters}"
        )
    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfVectorizer
    from threadpoolctl import threadpool_limits

    vectorizer = TfidfVectorizer(stop_words="english", token_pattern=_WORD_FOR_TFIDF, sublinear_tf=True)
    try:
        vectors = vectorizer.fit_transform([question.question for question in questions])
    except ValueError as error:
        raise CurationError(f"--label clusters: the questions have no words to compare ({error})") from error
    # One thread: sums in another order would round differently, and a question at a border change sides.
    with threadpool_limits(limits=1):
        means = KMeans(num_clusters, n_init=1, max_iter=_KMEANS_ITERATIONS, random_state=seed)
        labels = means.fit_predict(vectors)
    words = vectorizer.get_feature_names_out()
    names = []
    for number, center in enumerate(means.cluster_centers_):
        heaviest = sorted(range(len(words)), key=lambda at: (-center[at], at))[:3]
        names.append(f"{number:02d} " + " ".join(words[at] for at in heaviest))
    return [
        dataclasses.replace(question, domain=names[label])
        for question, label in zip(questions, labels, strict=True)
    ]


def code_at_end(answer: str, codes: Mapping[str, str]) -> str | None:
    """The code on the answer's last line; None if that is no code of the list."""
    found = _CODE_AT_END.search(answer.strip())
    return found[1] if found and found[1] in codes else None


@dataclasses.dataclass(frozen=True, slots=True)
class Labeller:
    endpoint: Endpoint
    sampling: Sampling
    codes: Mapping[str, str]
    concurrency: int
    patience: Patience

    def label(
        self, questions: Sequence[Question], cache_path: Path, progress: Progress
    ) -> tuple[list[Question], list[Drop], dict[str, int]]:
        """Questions that get no code of the list, and refused ones, are dropped with the reason."""
        with CallCache(cache_path) as cache:
            asking = Asking(cache, self.patience, self.concurrency, progress)
            return asyncio.run(self._label(questions, asking))

    async def _label(
        self, questions: Sequence[Question], asking: Asking
    ) -> tuple[list[Question], list[Drop], dict[str, int]]:
        labels: dict[str, str] = {}
        failures: dict[str, tuple[str, str]] = {}

        async def work(caller: Caller, question: Question) -> None:
            try:
                labels[question.id] = await self._ask(caller, question)
            except RequestRefused as error:
                failures[question.id] = ("label_refused", str(error))
            except NoCode as error:
                failures[question.id] = ("no_domain", str(error))

        calls = await asking.each("labelling domains", questions, work)
        labelled = [dataclasses.replace(q, domain=labels[q.id]) for q in questions if q.id in labels]
        drops = [drop(q, STAGE, *failures[q.id]) for q in questions if q.id in failures]
        return labelled, drops, {"calls_sent": calls["sent"], "calls_cached": calls["cached"]}

    async def _ask(self, caller: Caller, question: Question) -> str:
        listed = "\n".join(f"{code} {title}" for code, title in self.codes.items())
        prompt = _PROMPT.format(codes=listed, question=question.question)
        for attempt in range(_LABEL_ATTEMPTS):
            reply = await caller.ask(self.endpoint, prompt, self.sampling, attempt=attempt)
            if (code := code_at_end(reply.answer, self.codes)) is not None:
                return code
        raise NoCode(f"{_LABEL_ATTEMPTS} answers without a code, the last: {reply.answer.strip()[-80:]!r}")


class NoCode(ValueError):
    """The labeller never ended with a code of the list."""
