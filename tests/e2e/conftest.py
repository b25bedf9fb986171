"""Real engines, started once for all end-to-end tests of a session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from openai import AsyncOpenAI, OpenAI
from transformers import AutoTokenizer

from server.budget.markers import FAMILIES, MarkerIds, marker_ids
from tests.support.engines import DEMO, EXACT, TIGHT_CACHE, Running, engine_alone, gateway_only, serving


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="session")
def served(logs: Path) -> Iterator[Running]:
    """Gateway and engine as `s1 serve` starts them; prompts are prefilled in small chunks."""
    with serving(logs, *EXACT, "--max-num-batched-tokens", "64", "--max-num-seqs", "64") as running:
        yield running


@pytest.fixture(scope="session")
def client(served: Running) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
async def aclient(served: Running) -> AsyncIterator[AsyncOpenAI]:
    url = f"{served.url}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=240) as client:
        yield client


@pytest.fixture(scope="session")
def tight(logs: Path) -> Iterator[Running]:
    """An engine whose cache holds a few requests only, so that many are preempted."""
    arguments = (
        *TIGHT_CACHE,
        "--max-model-len",
        "512",
        "--max-num-batched-tokens",
        "48",
    )
    with engine_alone(logs, *EXACT, *arguments, "--max-num-seqs", "16", name="tight") as running:
        yield running


@pytest.fixture(scope="session")
def stock(logs: Path) -> Iterator[Running]:
    """vLLM without our plugin."""
    # Prompts in one piece: vLLM 0.32 on a CPU ends when it discards a seeded sample (the plugin mends that).
    whole = ("--max-num-batched-tokens", "8192")
    with engine_alone(logs, *EXACT, *whole, name="stock", plugin=False) as running:
        yield running


@pytest.fixture(scope="session")
def rounds(stock: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway before stock vLLM: it forces budgets in rounds."""
    with gateway_only(tmp_path_factory.mktemp("rounds"), stock.url) as running:
        running.model = stock.model
        yield running


@pytest.fixture(scope="session")
def ids() -> MarkerIds:
    """The demo checkpoint's markers, from its own tokenizer files."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    return marker_ids(FAMILIES["s1"], tokenizer, vocab_size=len(tokenizer))
