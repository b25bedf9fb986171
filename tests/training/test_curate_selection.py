"""Algorithm 1, its notebook variant and the comparison sets, on candidates with known odds."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from training.curate.diversity import parse_preference
from training.curate.domains import by_clusters, by_field, code_at_end, load_codes
from training.curate.errors import CurationError
from training.curate.schema import Question
from training.curate.selection import Candidate, Preference, Selector, benchmark_weights, select

NOTHING = Preference({})


def candidate(
    number: int, domain: str = "11", *, source: str = "own", length: int | None = None, right: bool = False
) -> Candidate:
    return Candidate(f"q{number:05d}", source, domain, number if length is None else length, right)


POOL = [candidate(number, f"{number % 7:02d}") for number in range(210)]


@pytest.mark.parametrize("selector", ["s1", "s1-notebook", "random", "diverse", "longest"])
def test_the_order_of_the_pool_does_not_matter_and_the_seed_does(selector: Selector) -> None:
    weights = {"00": 1.0, "01": 2.0}
    shuffled = random.Random(1).sample(POOL, len(POOL))
    first = select(POOL, selector, 50, 3, preference=NOTHING, benchmark_weights=weights).ids
    assert select(shuffled, selector, 50, 3, preference=NOTHING, benchmark_weights=weights).ids == first
    assert len(first) == 50
    other = select(POOL, selector, 50, 4, preference=NOTHING, benchmark_weights=weights).ids
    assert (other == first) == (selector == "longest")


def test_equal_lengths_do_not_make_the_order_of_the_pool_matter() -> None:
    pool = [candidate(number, f"{number % 3:02d}", length=7) for number in range(60)]
    for selector in ("s1", "longest"):
        first = select(pool, selector, 20, 0, preference=NOTHING).ids
        assert select(pool[::-1], selector, 20, 0, preference=NOTHING).ids == first


def test_longest_and_full() -> None:
    assert select(POOL, "longest", 3, 0).ids == {"q00207", "q00208", "q00209"}
    assert len(select(POOL, "full", 1, 0).ids) == 210


def test_domains_are_drawn_uniformly_however_large_they_are() -> None:
    pool = [candidate(n, "big") for n in range(900)] + [candidate(1000 + n, "small") for n in range(100)]
    for selector in ("s1", "diverse"):
        ids = select(pool, selector, 100, 0, preference=NOTHING).ids
        small = sum(identifier >= "q01000" for identifier in ids)
        assert 35 <= small <= 65, selector
    assert sum(identifier >= "q01000" for identifier in select(pool, "random", 100, 0).ids) <= 25


def test_within_a_domain_rank_r_has_weight_two_to_the_minus_r() -> None:
    pool = [candidate(number) for number in range(5)]
    drawn = Counter(next(iter(select(pool, "s1", 1, seed, preference=NOTHING).ids)) for seed in range(4000))
    total = sum(2.0**-rank for rank in range(5))
    for rank in range(5):
        expected = 4000 * 2.0**-rank / total
        assert abs(drawn[f"q{4 - rank:05d}"] - expected) < 5 * expected**0.5


def test_a_domain_that_is_empty_is_out() -> None:
    pool = [candidate(0, "one"), *(candidate(n, "many") for n in range(1, 20))]
    chosen = select(pool, "s1", 15, 0, preference=NOTHING)
    assert len(chosen.ids) == 15 and chosen.counts == {"preferred": 0, "uniform": 15}
    assert select(pool, "s1", 20, 0, preference=NOTHING).ids == {c.id for c in pool}


def test_the_papers_preferred_questions_come_first() -> None:
    preferred = [
        candidate(1, source="aime", right=True, length=1),
        candidate(2, source="gpqa", right=True, length=1),
        candidate(3, source="math", right=True, length=5601),
    ]
    others = [
        candidate(4, source="aime", right=False, length=9000),
        candidate(5, source="math", right=True, length=5600),
        candidate(6, source="omnimath", right=True, length=9000),
    ]
    assert select([*preferred, *others], "s1", 3, 0).ids == {c.id for c in preferred}
    with pytest.raises(CurationError, match="3 questions are preferred, more than --size 2"):
        select([*preferred, *others], "s1", 2, 0)


def test_the_notebook_draws_the_last_part_by_the_benchmarks() -> None:
    pool = [candidate(n, f"{n % 10:02d}") for n in range(5000)]
    weights = {"03": 3.0, "04": 1.0}
    chosen = select(pool, "s1-notebook", 1000, 0, preference=NOTHING, benchmark_weights=weights)
    assert chosen.counts == {"preferred": 0, "uniform": 700, "by_benchmark": 300}
    domains = Counter(f"{int(identifier[1:]) % 10:02d}" for identifier in chosen.ids)
    assert domains["03"] > 230 and 110 < domains["04"] < 190
    assert max(domains[f"{n:02d}"] for n in (0, 1, 2, 5, 6, 7, 8, 9)) < 110


def test_the_notebook_needs_benchmarks_and_goes_on_when_they_are_used_up() -> None:
    with pytest.raises(CurationError, match="needs --benchmark"):
        select(POOL, "s1-notebook", 10, 0)
    chosen = select(POOL, "s1-notebook", 200, 0, preference=NOTHING, benchmark_weights={"00": 1.0})
    assert len(chosen.ids) == 200 and chosen.counts["by_benchmark"] <= 30


def test_benchmark_weights_scale_later_ones_to_half_the_first() -> None:
    weights = benchmark_weights([{"11": 60, "51": 30}, {"81": 100, "92": 80, "11": 20}])
    assert weights == pytest.approx({"11": 60 + 4.5, "51": 30, "81": 22.5, "92": 18})


def test_too_few_questions_is_an_error() -> None:
    with pytest.raises(CurationError, match=r"--size must be <= the 210 questions that are left. Given: 211"):
        select(POOL, "random", 211, 0)


def test_preferences_are_read() -> None:
    assert parse_preference([]) == Preference({"aime": -1, "gpqa": -1, "math": 5600})
    assert parse_preference(["none"]) == NOTHING
    assert parse_preference(["own", "x:12"]) == Preference({"own": -1, "x": 12})
    with pytest.raises(CurationError, match="Given: x:many"):
        parse_preference(["x:many"])


def question(number: int, text: str, **fields: str) -> Question:
    return Question(f"q{number}", text, "own", **fields)


def test_clusters_group_questions_with_like_words() -> None:
    texts = [
        *(
            f"Find the probability that {n} dice show equal numbers when rolled"
            for n in ("two", "three", "four")
        ),
        *(f"Prove the triangle has an angle bisector through {n} vertex" for n in ("this", "that", "either")),
    ]
    labelled = by_clusters([question(n, text) for n, text in enumerate(texts)], 2, seed=0)
    domains = [q.domain for q in labelled]
    assert len(set(domains[:3])) == len(set(domains[3:])) == 1 and domains[0] != domains[3]
    with pytest.raises(CurationError, match="--clusters must be <= the number of questions, 6. Given: 7"):
        by_clusters(labelled, 7, seed=0)


def test_labels_by_field_drop_what_has_none() -> None:
    questions = [
        question(1, "a", metadata='{"level": 3}'),
        question(2, "b", metadata='{"level": null}'),
        question(3, "c", domain="11"),
    ]
    labelled, drops = by_field(questions, "metadata.level")
    assert [q.domain for q in labelled] == ["3"] and [drop.id for drop in drops] == ["q2", "q3"]
    with pytest.raises(CurationError, match="no question has it"):
        by_field(questions, "metadata.gone")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("About primes.\n11", "11"),
        ("About primes.\n**11**", "11"),
        ("About primes.\n11.", "11"),
        ("11 because of primes", None),
        ("It is 2011", None),
        ("Code 02", None),
        ("", None),
    ],
)
def test_the_code_is_on_the_last_line(answer: str, code: str | None) -> None:
    assert code_at_end(answer, load_codes()) == code


def test_codes_are_two_digits_in_quotes(tmp_path: Path) -> None:
    assert len(load_codes()) == 63
    path = tmp_path / "codes.yaml"
    path.write_text("11: Number theory")
    with pytest.raises(CurationError, match="11 must be a two-digit code in quotes"):
        load_codes(path)
