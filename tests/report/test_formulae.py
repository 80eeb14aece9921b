"""Formulae in prompts and trajectories, drawn by KaTeX inside the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from report_pages import Rows, wait_until

from rsr_datasets.report import build_report


def drawn(page: Any, formulae: int) -> Any:
    wait_until(page, "waiting.length === 0")
    assert page.locator(".formula math").count() == formulae
    return page.locator(".formula").evaluate_all("(all) => all.map((each) => each.title)")


@pytest.fixture
def show(small: Dataset, tmp_path: Path, open_page: Any) -> Any:
    """Opens the page of one trajectory of this text, as text."""

    def show_(text: str) -> Any:
        row = {**small[0], "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": text}]}
        return open_page(build_report(Dataset.from_list([row]), tmp_path / "report.html"))

    return show_


def test_formulae_are_mathml(show: Any) -> None:
    page = show(
        "Let $x_1 = 2$, \\(y\\) and $$\\frac{a}{b}$$ then \\[\\sqrt[3]{z}\\] so\n"
        "\\begin{align*} a &= b \\\\ c &= d \\end{align*} and $\\boxed{239}$."
    )
    found = drawn(page, 6)
    assert found[:4] == ["x_1 = 2", "y", "\\frac{a}{b}", "\\sqrt[3]{z}"] and found[5] == "\\boxed{239}"
    assert page.locator(".display math[display=block]").count() == 3
    assert page.locator(".candidate mfrac, .candidate mroot, .candidate mtable").count() == 3
    assert page.locator("menclose").evaluate("(box) => getComputedStyle(box).borderTopWidth") == "1px"


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 and then $6, or $5-$7, US$ 8 or \\$9 and \\$10.",
        "She makes 9 * 2 = $<<9*2=18>>18 a day, and so $18/2 = $9.",
        "A price of $4 per day makes it $",
        "Broken: $\\frac{1}$, \\(x^{\\), $$\\nowhere{x}$$ and \\[\\begin{matrix}\\].",
        "$(document).ready(function () { return x; }) and $HOME",
        "between $the two signs there is prose$ alone",
    ],
)
def test_what_does_not_parse_stays_text(show: Any, text: str) -> None:
    page = show(text)
    assert drawn(page, 0) == []
    assert page.locator(".candidate .written").inner_text() == text


def test_formulae_do_nothing_but_show(show: Any) -> None:
    hostile = (
        "$\\href{javascript:window.hacked=1}{x}$ $\\url{javascript:window.hacked=1}$ $\\pmb{x}$ "
        "$\\fcolorbox{red}{blue}{y}$ $\\includegraphics{http://example.com/a.png}$ $\\htmlStyle{color: red;}{z}$ "
        "$\\text{<img src=x onerror=window.hacked=1>}$ $\\rule{9999em}{9999em}$ "
        "$\\def\\a{\\a\\a}\\a$ $\\gdef\\b{1}\\b$ $\\b$"
    )
    page = show(hostile)
    wait_until(page, "waiting.length === 0")
    assert page.locator("main a, main img, main [style*=url]").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 1200
    assert page.locator(".candidate .written").inner_text().endswith("$\\b$")


def test_pages_without_formulae_have_no_katex(small: Dataset, show: Any, tmp_path: Path) -> None:
    plain = build_report(small, tmp_path / "plain.html").stat().st_size
    show("$x$")
    assert (tmp_path / "report.html").stat().st_size - plain > 250_000


def test_tokens_are_read_as_text_with_formulae(
    make_rows: Rows, tokenizer: Any, tmp_path: Path, open_page: Any
) -> None:
    rows = make_rows({("p", "ada"): "So $\\frac{1}{2}$ is the answer."})
    page = open_page(build_report(rows, tmp_path / "report.html", tokenizer=tokenizer))
    assert page.locator(".candidate .token").count() > 5 and page.locator(".candidate math").count() == 0
    page.select_option("#color-mode", "text")
    wait_until(page, "waiting.length === 0")
    assert page.locator(".candidate math").count() == 1
    assert page.locator(".token, .segments, .scale").count() == 0
    page.select_option("#color-mode", "rank")
    assert page.locator(".candidate .token").count() > 5


def test_many_formulae_do_not_hold_up_the_page(show: Any) -> None:
    page = show(" ".join(f"$x_{{{i}}}^2 + 1$" for i in range(1500)))
    drawn(page, 1500)
