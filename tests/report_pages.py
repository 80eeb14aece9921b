"""Scored rows for reports, and the browser that opens reports; fixtures for all tests."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from rsr_datasets.metrics import trajectory_scores

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PLAYWRIGHT = importlib.util.find_spec("playwright")
NOT_TESTED = "REPORT PAGE NOT TESTED: no browser; install chromium and playwright"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [report for outcome in ("skipped", "error") for report in terminalreporter.stats.get(outcome, [])]
    if any(NOT_TESTED in str(report.longrepr) for report in reports):
        terminalreporter.write_line(NOT_TESTED, red=True, bold=True)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if CHROMIUM is None or PLAYWRIGHT is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(NOT_TESTED)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        started = running.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a report; at the end of the test nothing may have been loaded, said on the console, or run."""
    contexts, complaints, opened = [], [], set()

    def open_(path: Path, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        opened.add(path.as_uri())
        page.on("request", lambda request: request.url in opened or complaints.append(f"request {request.url}"))
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(path.as_uri())
        return page

    yield open_
    for context in contexts:
        for page in context.pages:
            assert page.evaluate("window.hacked") is None
        context.close()
    assert complaints == []


def wait_until(page: Any, expression: str) -> None:
    """Asks again and again from outside: a page whose policy forbids eval cannot poll an expression by itself."""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"never came true: {expression}")


def click_point(page: Any, row: int) -> None:
    """Clicks the plane where the row's point is."""
    page.locator("#plane-plot canvas").scroll_into_view_if_needed()
    where = "(row) => { const i = points.row.indexOf(row); return { x: plots[0].px[i], y: plots[0].py[i] }; }"
    page.locator("#plane-plot canvas").click(position=page.evaluate(where, row))


def embedded(path: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text("utf-8"), re.DOTALL)
    return json.loads(found[1])


def scored_row(problem: str, teacher: str | None, answer: str, ids: list[int], seed: int) -> dict[str, Any]:
    """A row with token columns whose row columns are what the metric gives for them."""
    draw = np.random.default_rng(seed)
    surprisals = (draw.exponential(1.2, len(ids)) + 0.01).astype(np.float32)
    ranks = np.maximum(1, np.exp(np.minimum(surprisals, 6) * draw.uniform(0.2, 1.2, len(ids)))).astype(int)
    scores = trajectory_scores(ranks, surprisals, [0, len(ids)])
    return {
        "problem_id": problem,
        "teacher": teacher,
        "messages": [{"role": "user", "content": f"Solve {problem}."}, {"role": "assistant", "content": answer}],
        "rsr": scores.rsr[0],
        "rsr_avg_rank": scores.avg_rank[0],
        "rsr_avg_surprisal": scores.avg_surprisal[0],
        "rsr_num_tokens": len(ids),
        "rsr_settings": "0123456789ab-100",
        "rsr_status": "scored",
        "rsr_token_ids": ids,
        "rsr_token_ranks": ranks.tolist(),
        "rsr_token_surprisals": surprisals.tolist(),
    }


Rows = Callable[[dict[tuple[str, str], str]], Dataset]


@pytest.fixture(scope="session")
def make_rows(tokenizer: PreTrainedTokenizerFast) -> Rows:
    def make(answers: dict[tuple[str, str], str]) -> Dataset:
        return Dataset.from_list([
            scored_row(problem, teacher, answer, tokenizer(answer)["input_ids"], seed)
            for seed, ((problem, teacher), answer) in enumerate(answers.items())
        ])  # fmt: skip

    return make


@pytest.fixture(scope="session")
def small(make_rows: Rows) -> Dataset:
    """Three problems of three teachers, a line break, a character of several tokens and a rank above the clip."""
    answers = {
        (f"p{p}", teacher): f"First, x = {p + 1}. Then 🎉 by {teacher}!\nSo the answer is {p * 7}.\n\nDone."
        for p in range(3)
        for teacher in ("ada", "bob", "eve")
    }
    rows = list(make_rows(answers))
    ranks = [min(rank, 90) for rank in rows[0]["rsr_token_ranks"]]
    ranks[2] = 5000
    scores = trajectory_scores(ranks, rows[0]["rsr_token_surprisals"], [0, len(ranks)])
    rows[0] |= {"rsr_token_ranks": ranks, "rsr": scores.rsr[0], "rsr_avg_rank": scores.avg_rank[0]}
    return Dataset.from_list(rows)


@pytest.fixture(scope="session")
def champ() -> Dataset:
    return Dataset.from_parquet(str(Path(__file__).parent / "data" / "champ_smollm2_scores.parquet"))
