"""The report, opened in a real browser: what it shows, how fast, and that no text of the data does anything."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_pages
from champ import load_champ
from datasets import Dataset
from report_pages import NOT_TESTED, Rows, click_point, embedded, scored_row, wait_until

from rsr_datasets import dataset_rsr, diagnose, select_trajectories
from rsr_datasets.reading.steps import split_text
from rsr_datasets.report import build_report
from rsr_datasets.report.page import load_tokenizer
from rsr_datasets.tables.records import append_record

HOSTILE = (
    "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1><svg onload=window.hacked=1>"
    "<a href='javascript:window.hacked=1'>click</a> [link](javascript:alert(1)) **bold** \x1b[31mred\u2028\u2029"
    "<!-- {{data}} $\\frac{1}{2}$ مرحبا 你好 🎉 &lt;b&gt;"
)


@pytest.fixture
def small_page(small: Dataset, tokenizer: Any, tmp_path: Path, open_page: Any) -> Any:
    return open_page(build_report(small, tmp_path / "report.html", tokenizer=tokenizer))


def test_it_shows_teachers_in_the_order_of_their_rsr(champ: Dataset, tmp_path: Path, open_page: Any) -> None:
    page = open_page(build_report(champ, tmp_path / "report.html", title="CHAMP"))
    assert page.title() == "CHAMP" and page.locator("h1").inner_text() == "CHAMP"
    results = dataset_rsr(champ, "teacher")
    order = sorted(results, key=lambda name: results[name].value)
    rows = page.locator("#teacher-chart .row:not(.axis):not(.head)")
    assert rows.locator(".name").all_inner_texts() == order
    expected = [f"{r.value:.3f} [{r.low:.3f}, {r.high:.3f}] · 270" for r in (results[name] for name in order)]
    assert rows.locator(".numbers").all_inner_texts() == expected
    tiles = page.locator(".tile").all_inner_texts()
    assert tiles[:4] == ["1,350\nrows", "1,350\nwith a score", "270\nproblems (problem_id)", "5\nteachers"]
    assert "Every trajectory with a score is drawn." in page.locator("#plane-lead").inner_text()
    assert "nothing to read here" in page.locator("#trajectories").inner_text()


def test_it_shows_the_diagnosis(champ: Dataset, tmp_path: Path, open_page: Any) -> None:
    page = open_page(build_report(champ, tmp_path / "report.html"))
    found = diagnose(champ, "problem_id")
    assert page.locator("#diagnosis-sentences li").all_inner_texts() == [*found.sentences]
    rows = page.locator("#diagnosis-charts .row:not(.axis):not(.head)")
    assert rows.locator(".name").all_inner_texts() == [
        *(each.trait for each in found.associations),
        *(each.rule for each in found.overlaps if each.rule != "random"),
    ]
    assert rows.locator(".numbers").first.inner_text() == "−0.03 [−0.08, 0.03] · 0.10"
    dots = rows.first.locator(".dot").evaluate_all("(all) => all.map((dot) => parseFloat(dot.style.left))")
    within, between = found.associations[0].within.value, found.associations[0].between.value
    assert dots == pytest.approx([2 + 48 * (1 + 2 * value) for value in (within, between)], abs=0.05)


def test_a_diagnosis_without_problems_is_over_all_rows(champ: Dataset, tmp_path: Path, open_page: Any) -> None:
    page = open_page(build_report(champ.remove_columns("problem_id"), tmp_path / "report.html"))
    assert "not grouped" in page.locator("#diagnosis-sentences li").first.inner_text()
    assert "over all rows" in page.locator("#diagnosis-charts .lead").inner_text()


def test_it_shows_shares_before_and_after_a_selection(champ: Dataset, tmp_path: Path, open_page: Any) -> None:
    selected, selection = select_trajectories(champ, "problem_id", return_report=True)
    path = build_report(champ, tmp_path / "report.html", selected=selected)
    page = open_page(path)
    rows = page.locator("#teacher-chart .row:not(.axis):not(.head)")
    shares = dict(
        zip(rows.locator(".name").all_inner_texts(), rows.locator(".shares.numbers").all_inner_texts(), strict=True)
    )
    assert shares == {teacher: f"20.0% → {share:.1%}" for teacher, share in selection.teacher_share.items()}
    assert f"{selection.rsr_after:.3f}\nRSR of the selection" in page.locator(".tile").all_inner_texts()
    page.locator("#records summary").click()
    assert json.loads(page.locator("#records pre").inner_text())["report"] == selection.to_dict()


def test_points_are_the_rows(champ: Dataset, tmp_path: Path, open_page: Any) -> None:
    path = build_report(champ, tmp_path / "report.html")
    points = embedded(path)["points"]
    columns = {"rsr": "rsr", "rank": "rsr_avg_rank", "surprisal": "rsr_avg_surprisal", "tokens": "rsr_num_tokens"}
    for name, column in columns.items():
        np.testing.assert_allclose(points[name], np.array(champ[column])[points["row"]], rtol=1e-5)
    assert sorted(points["row"]) == list(range(1350))
    page = open_page(path)
    page.locator("#plane-plot canvas").scroll_into_view_if_needed()
    page.evaluate("plots[0].select(points.row.indexOf(7))")
    row = champ[7]
    tooltip = page.locator("#tooltip").inner_text().split("\n")
    assert tooltip[:2] == [row["teacher"], row["problem_id"]]
    assert tooltip[2:6] == ["RSR", f"{row['rsr']:.3f}", "average rank", f"{row['rsr_avg_rank']:.3f}"]
    assert tooltip[6:8] == ["average surprisal", f"{row['rsr_avg_surprisal']:.3f} nats"]
    assert tooltip[-1] == "its text is not in this page"


def test_selected_candidates_are_marked(small: Dataset, tokenizer: Any, tmp_path: Path, open_page: Any) -> None:
    chosen = [1, 5, 6]
    path = build_report(small, tmp_path / "report.html", tokenizer=tokenizer, selected=small.select(chosen))
    points = embedded(path)["points"]
    assert sorted(points["row"][i] for i in points["selected"]) == chosen
    page = open_page(path)
    assert page.locator("tbody tr", has=page.locator(".badge")).locator(".name").all_inner_texts() == ["bob"]
    assert page.locator(".candidate header", has_text="bob").locator(".badge").inner_text() == "selected"
    page.click("#problem-next")
    assert page.locator("tbody tr", has=page.locator(".badge")).locator(".name").all_inner_texts() == ["eve"]
    assert page.locator(".candidate header .badge").count() == 1
    assert page.locator("#plane [data-selection] .key").all_inner_texts() == ["selected", "not selected"]
    middle = (
        "([filled]) => plots[0].stamp(0, themeColors(), 1, false, filled).getContext('2d').getImageData(6, 6, 1, 1)"
        ".data[3]"
    )
    assert page.evaluate(middle, [True]) == 255 and page.evaluate(middle, [False]) < 60
    page.evaluate("plots[0].select(points.row.indexOf(5))")
    assert "selected\nyes" in page.locator("#tooltip").inner_text()


def test_equal_rows_are_marked_as_often_as_they_were_selected(small: Dataset, tmp_path: Path) -> None:
    rows = Dataset.from_list([small[0], small[1], small[0], small[0]])
    for chosen, marked in (([0], [0]), ([2, 3], [0, 2]), ([0, 1, 2, 3], [0, 1, 2, 3]), ([], [])):
        points = embedded(build_report(rows, tmp_path / "a.html", selected=rows.select(chosen)))["points"]
        assert sorted(points["row"][i] for i in points["selected"]) == marked


def test_selected_rows_that_are_not_found_are_counted(small: Dataset, tmp_path: Path, open_page: Any) -> None:
    other = Dataset.from_list([small[1], {**small[0], "rsr_num_tokens": 999}])
    page = open_page(build_report(small, tmp_path / "report.html", selected=other))
    assert "1 selected row cannot be marked" in page.locator("#plane-lead").inner_text()


def test_correct_candidates_have_a_tick(small: Dataset, tokenizer: Any, tmp_path: Path, open_page: Any) -> None:
    rows = small.add_column("is_correct", [True, False, None] * 3)
    page = open_page(build_report(rows, tmp_path / "report.html", tokenizer=tokenizer))
    marks = {row.locator(".name").inner_text(): row.locator(".mark") for row in page.locator("tbody tr").all()}
    assert marks["ada"].get_attribute("aria-label") == "correct" and marks["ada"].inner_text() == "✓"
    assert marks["bob"].get_attribute("aria-label") == "incorrect" and marks["eve"].count() == 0
    page.evaluate("plots[0].select(points.row.indexOf(1))")
    assert "correct\n✗ no" in page.locator("#tooltip").inner_text()
    plain = open_page(build_report(small, tmp_path / "plain.html", tokenizer=tokenizer))
    assert plain.locator(".mark, .badge").count() == 0


def test_headers_explain_themselves(champ: Dataset, small: Dataset, tmp_path: Path, open_page: Any) -> None:
    page = open_page(build_report(champ, tmp_path / "a.html"))
    head = page.locator("#teacher-chart .row.head span").all_inner_texts()
    assert head == ["teacher", "RSR [95% interval] · rows"]
    selected = select_trajectories(champ, "problem_id")
    page = open_page(build_report(champ, tmp_path / "b.html", selected=selected))
    head = page.locator("#teacher-chart .row.head").inner_text().split("\n")
    assert head == [
        "teacher",
        "RSR, lower is better",
        "RSR: all → selected · rows",
        "share of the rows",
        "all → selected",
    ]
    assert page.evaluate("document.documentElement.scrollWidth") == 1200
    page = open_page(build_report(small, tmp_path / "c.html"))
    heads = [text.replace("\n", ": ") for text in page.locator("th").all_inner_texts()]
    assert heads == [
        "candidate: a tick shows its text below",
        "RSR: lower is better",
        "average rank: clipped at 100",
        "average surprisal: nats per token",
        "length: scored tokens",
        "row: of the data set",
    ]


def test_a_line_is_drawn_where_there_are_enough_points(champ: Dataset, tmp_path: Path, open_page: Any) -> None:
    for count, has_line in ((1350, True), (60, True), (59, False)):
        path = build_report(champ.shuffle(seed=1).select(range(count)), tmp_path / f"{count}.html")
        trend = embedded(path)["trend"]
        assert (len(trend) >= 3) == has_line and trend == sorted(trend)
        assert all(lower <= median <= upper for _, lower, median, upper in trend)
        assert ("line" in open_page(path).locator("#length-lead").inner_text()) == has_line
    same = champ.remove_columns("rsr_num_tokens").add_column("rsr_num_tokens", [7] * 1350)
    assert embedded(build_report(same.cast(champ.features), tmp_path / "same.html"))["trend"] == []


def test_few_trajectories_are_dots(champ: Dataset, tmp_path: Path, open_page: Any) -> None:
    few = champ.filter(lambda row, i: row["teacher"] != "human" or i % 20 == 0, with_indices=True)
    page = open_page(build_report(few, tmp_path / "report.html"))
    rows = {
        row.locator(".name").inner_text(): row
        for row in page.locator("#distribution-chart .row:not(.axis):not(.head)").all()
    }
    assert rows["human"].locator(".spot").count() == 2 * few["teacher"].count("human") < 40
    assert rows["human"].locator("svg:not(.glyph)").count() == 0
    assert rows["GPT-4"].locator(".spot").count() == 0 and rows["GPT-4"].locator("svg:not(.glyph)").count() == 2
    assert "each is a dot" in page.locator("#distributions-lead").inner_text()
    label = rows["human"].locator("[role=img]").first.get_attribute("aria-label")
    assert re.fullmatch(r"RSR: median \S+, middle half from \S+ to \S+", label)


def test_axes_have_ticks_where_the_values_are(small_page: Any) -> None:
    for low in (0.7, 2.1, 45.0, 900.0):
        for width in (1.01, 1.1, 1.4, 3.0, 1000.0):
            levels = small_page.evaluate("([low, high]) => roundLevels(low, high, 8)", [low, low * width])
            assert 3 < len(levels) < 10 and all(low <= level <= low * width for level in levels), (low, width)


def test_a_box_says_that_it_scrolls(make_rows: Rows, tokenizer: Any, tmp_path: Path, open_page: Any) -> None:
    rows = make_rows({("p", name): "Therefore x = 1.\n" * 200 for name in ("ada", "bob")})
    question = [{**messages[0], "content": "Why is that so? " * 200} for messages in rows["messages"]]
    rows = rows.map(lambda row, i: {"messages": [question[i], row["messages"][1]]}, with_indices=True)
    page = open_page(build_report(rows, tmp_path / "report.html", tokenizer=tokenizer))
    for selector in (".prompt", ".candidate .body"):
        hint = f"getComputedStyle(document.querySelector('{selector}'), '::after').content.includes('more')"
        wait_until(page, hint)
        page.locator(selector).first.evaluate("(box) => { box.scrollTop = box.scrollHeight; }")
        wait_until(page, f"!{hint}")
    assert page.locator(".scroll-x").evaluate("(box) => box.className") == "scroll-x"


def test_a_click_on_a_point_opens_its_tokens(small: Dataset, small_page: Any) -> None:
    click_point(small_page, 4)
    row = small[4]
    shown = small_page.locator(".candidate", has=small_page.locator("header .name", has_text=row["teacher"]))
    assert shown.locator(".tokens").evaluate("(holder) => holder.textContent") == row["messages"][-1]["content"]
    assert small_page.locator(".problem-name").inner_text() == "p1"
    assert small_page.locator(".prompt").inner_text() == "USER\n\nSolve p1."
    assert f"RSR {row['rsr']:.3f} = {row['rsr_avg_rank']:.3f} / {row['rsr_avg_surprisal']:.3f}" in shown.inner_text()
    assert small_page.locator(".candidate").count() == 2
    small_page.locator("tbody input:not(:checked)").check()
    assert small_page.locator(".candidate").count() == 3


def test_a_click_is_answered_within_300_ms(make_rows: Rows, tokenizer: Any, tmp_path: Path, open_page: Any) -> None:
    """The last of several trajectories of thousands of tokens, from the click to the frame that shows it."""
    text = "Therefore f(n) = 2 f(n-1) + 3, and so the answer is 42. Let x be the number of strings.\n" * 100
    rows = make_rows({(f"p{p}", teacher): text for p in range(6) for teacher in ("ada", "bob")})
    assert rows[0]["rsr_num_tokens"] > 3000
    page = open_page(build_report(rows, tmp_path / "report.html", tokenizer=tokenizer))
    page.evaluate(
        "addEventListener('click', () => { window.clicked = performance.now(); requestAnimationFrame(() => {"
        " setTimeout(() => { window.answered = performance.now(); window.tokens = "
        "document.querySelectorAll('.candidate .token').length; }); }); }, { capture: true })"
    )
    times = []
    while len(times) < 5 and min(times, default=math.inf) > 300:  # a busy machine answers late
        page.evaluate("window.answered = undefined")
        click_point(page, 11)
        wait_until(page, "window.answered")
        times.append(page.evaluate("window.answered - window.clicked"))
        assert page.evaluate("window.tokens") >= 1400
    assert min(times) <= 300
    wait_until(page, "document.querySelectorAll('.candidate .token').length > 6000")
    assert page.locator(".tokens").first.evaluate("(holder) => holder.textContent") == text


def test_a_token_says_its_numbers(small: Dataset, small_page: Any) -> None:
    click_point(small_page, 0)
    shown = small_page.locator(".candidate", has=small_page.locator("header .name", has_text="ada"))
    row, clipped = small[0], shown.locator(".token.clipped")
    assert clipped.count() == 1
    clipped.hover()
    surprisal = row["rsr_token_surprisals"][2]
    facts = small_page.locator("#tooltip dd").all_inner_texts()
    assert facts[0] == "5,000 (counts as 100)" and facts[3] == "3"
    assert float(facts[1].removesuffix(" nats")) == pytest.approx(surprisal, rel=5e-3)
    assert float(facts[2]) == pytest.approx(100 / surprisal, rel=1e-2)
    party = shown.locator(".token", has_text="🎉")
    party.hover()
    assert "4 tokens spell this" in small_page.locator("#tooltip").inner_text()
    assert small_page.locator("#tooltip dl").count() == 4


def test_tokens_are_coloured_by_their_ratio(small: Dataset, tokenizer: Any, tmp_path: Path, open_page: Any) -> None:
    path = build_report(small, tmp_path / "report.html", tokenizer=tokenizer)
    neutral = dataset_rsr(small).value
    assert embedded(path)["tokenScale"]["neutral"] == neutral
    page = open_page(path)
    click_point(page, 8)
    classes = (
        page.locator(".candidate")
        .filter(has_text="eve")
        .locator(".token")
        .evaluate_all("(all) => all.map((t) => t.className)")
    )
    row = small[8]
    ratios = np.minimum(row["rsr_token_ranks"], 100) / np.array(row["rsr_token_surprisals"])
    far = np.abs(np.log(ratios / neutral)) > 0.5
    cut = row["messages"][-1]["content"].index("🎉")
    units = len(tokenizer(row["messages"][-1]["content"][:cut])["input_ids"])
    sides = ["h" if ratio > neutral else "l" for ratio in ratios[:units]]
    assert far[:units].sum() >= 5
    for name, side, is_far in zip(classes[:units], sides, far[:units], strict=True):
        assert not is_far or re.search(rf" {side}[1-6]\b", name), (name, side)
    page.select_option("#color-mode", "surprisal")
    assert page.locator(".token[class*=' h']").count() == 0


def test_segments_that_raise_the_rsr_most_come_first(small: Dataset, tokenizer: Any, small_page: Any) -> None:
    click_point(small_page, 0)
    row = small[0]
    ranks, surprisals = np.minimum(row["rsr_token_ranks"], 100), np.array(row["rsr_token_surprisals"])
    parts = split_text(tokenizer, row["rsr_token_ids"])
    spaces = [len(part) - len(part.lstrip()) if part.strip() else 0 for part in parts]
    starts = np.cumsum([0, *map(len, parts[:-1])]) + spaces
    expected, start = [], 0
    for segment in re.findall(r".+?(?:[.!?]\s+|$)", "".join(parts), re.DOTALL):
        kept = (starts < start) | (starts >= start + len(segment))
        expected.append((row["rsr"] - ranks[kept].sum() / surprisals[kept].sum(), segment.strip()))
        start += len(segment)
    assert len(expected) == 4 and start == len("".join(parts))
    raising = sorted((pair for pair in expected if pair[0] >= 0.0005), reverse=True)
    shown = small_page.locator(".candidate").filter(has_text="ada").first.locator(".segments button")
    assert shown.all_inner_texts() == [f"+{raises:.3f}\n{text}" for raises, text in raising]
    shown.first.click()
    marked = small_page.locator(".token.marked").evaluate_all("(all) => all.map((t) => t.textContent).join('')")
    assert marked.strip() == raising[0][1]


def test_a_problem_is_found_by_its_name_or_prompt(small: Dataset, small_page: Any) -> None:
    small_page.fill("#problem-search", "solve P2")
    assert small_page.locator("#problem-list li .label").all_inner_texts() == ["p2"]
    small_page.keyboard.press("Enter")
    assert small_page.locator(".problem-name").inner_text() == "p2"
    assert small_page.locator("#problem-list").is_hidden()
    small_page.fill("#problem-search", "nowhere")
    assert small_page.locator("#problem-list").inner_text() == "no such problem in this page"
    small_page.keyboard.press("Escape")
    small_page.click("#problem-next")
    assert small_page.locator(".problem-name").inner_text() == "p0"


def test_points_and_tokens_are_reached_by_keyboard(small: Dataset, small_page: Any) -> None:
    small_page.focus("#plane-plot canvas")
    small_page.keyboard.press("ArrowRight")
    lowest = int(np.argmin(small["rsr_avg_surprisal"]))
    assert f"row\n{lowest}" in small_page.locator("#tooltip").inner_text()
    small_page.keyboard.press("Enter")
    assert small_page.locator(".problem-name").inner_text() == small[lowest]["problem_id"]
    small_page.locator(".tokens").first.focus()
    small_page.keyboard.press("ArrowRight")
    assert "token\n1" in small_page.locator("#tooltip").inner_text()


def test_any_text_stays_text(make_rows: Rows, tokenizer: Any, tmp_path: Path, open_page: Any) -> None:
    rows = make_rows({(HOSTILE, f"{HOSTILE}{i}"): HOSTILE * 2 for i in range(3)})
    rows = append_record(rows, {"step": HOSTILE, "settings": HOSTILE})
    path = build_report(rows, tmp_path / "report.html", tokenizer=tokenizer, title=HOSTILE, selected=rows.select([0]))
    content = path.read_text("utf-8")
    assert content.count("<script") == 2 and content.count("</script>") == 2
    data = content[content.index('id="data">') : content.rindex("<script>")]
    assert not {"\u2028", "\u2029"} & set(data) and data.count("<") == 1
    page = open_page(path)
    click_point(page, 1)
    page.locator("#records summary").click()
    shown = ("#trajectories", "#teacher-chart", ".prompt", ".problem-name", "#records pre", ".legend", ".tokens")
    for selector in shown:
        assert "<script>window.hacked=1</script>" in page.locator(selector).first.evaluate("(e) => e.textContent")
    assert "␛[31mred" in page.locator(".tokens").first.evaluate("(e) => e.textContent")
    assert page.locator("img, iframe, main a[href^=java], script[src]").count() == 0
    page.locator(".token").first.hover()
    page.wait_for_timeout(200)


def test_without_token_columns_it_shows_text(small: Dataset, tokenizer: Any, tmp_path: Path, open_page: Any) -> None:
    plain = small.remove_columns(["rsr_token_ids", "rsr_token_ranks", "rsr_token_surprisals"])
    page = open_page(build_report(plain, tmp_path / "a.html", tokenizer=tokenizer))
    assert "no token columns (RSRScorer(..., token_columns=True)" in page.locator("#trajectories .note").inner_text()
    click_point(page, 4)
    assert small[4]["messages"][-1]["content"].split("\n")[0] in page.locator(".candidate").first.inner_text()
    assert page.locator(".token, .segments").count() == 0
    page = open_page(build_report(small, tmp_path / "b.html"))
    assert "No tokenizer was given" in page.locator("#trajectories .note").inner_text()


def test_a_sample_is_said_and_a_page_small(make_rows: Rows, tokenizer: Any, tmp_path: Path, open_page: Any) -> None:
    text = "Nothing here repeats 日本語 quite as it did before, does it? 42 \n" * 130
    rows = make_rows({(f"p{p}", t): f"{p} {t} {text}" for p in range(40) for t in ("ada", "bob")})
    rows = rows.remove_columns("messages").add_column("text", [f"{i} {text * 9}" for i in range(80)])
    path = build_report(rows, tmp_path / "report.html", tokenizer=tokenizer, max_points=60)
    assert 3_000_000 < path.stat().st_size < 5_000_000
    data = embedded(path)
    rows_with_text = {c["row"] for problem in data["texts"]["problems"] for c in problem["candidates"]}
    assert rows_with_text < set(data["points"]["row"]) and len(data["points"]["row"]) <= len(rows_with_text) + 60
    page = open_page(path)
    assert f"{len(data['points']['row'])} of 80 trajectories are drawn" in page.locator("#plane-lead").inner_text()
    count = len(data["texts"]["problems"])
    assert 1 < count < 40
    lead = page.locator("#trajectories-lead").inner_text()
    assert lead == f"The text of {count} of 40 problems is in this page, chosen at random."
    other = next(row for row in data["points"]["row"] if row not in rows_with_text)
    click_point(page, other)
    page.select_option("#color-mode", "rank")
    assert f"look up row {other} of the data set" in page.locator("#trajectory-view").inner_text()
    page.click("#problem-next")
    assert page.locator(".scale").inner_text().startswith("rank 1")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(make_rows: Rows, tokenizer: Any, tmp_path: Path, open_page: Any, scheme: str) -> None:
    names = ["organisation/" + "Very-Long-Model-Name-" * 6, "x" * 190, "نموذج اللغة العربية الكبير", "通义千问" * 9]
    names += [f"teacher {i}" for i in range(29)]
    rows = make_rows({("w" * 300, name): "Therefore 你好 the result مرحبا is 239. " + "y" * 400 for name in names})
    path = build_report(rows, tmp_path / "report.html", tokenizer=tokenizer, selected=rows.select([0, 1, 7]))
    page = open_page(path, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    beyond = (
        "(all) => all.filter((e) => e.offsetParent && e.getBoundingClientRect().right > 390).map((e) => e.className)"
    )
    assert page.locator("main *:not(td):not(th):not(td *)").evaluate_all(beyond) == []
    assert page.locator(".prompt").evaluate("(box) => box.scrollHeight - box.clientHeight") == 0
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(255, 255, 255)", "rgb(20, 23, 28)"
    assert page.evaluate(background) == {"light": light, "dark": dark}[scheme]
    page.click("#theme")
    assert page.evaluate(background) == light
    page.click("#theme")
    assert page.evaluate(background) == dark


def test_paper_is_light(small: Dataset, tokenizer: Any, tmp_path: Path, open_page: Any) -> None:
    page = open_page(build_report(small, tmp_path / "report.html", tokenizer=tokenizer), color_scheme="dark")
    page.evaluate("addEventListener('beforeprint', () => { window.paper = themeColors().bg; })")
    page.pdf(path=tmp_path / "report.pdf")
    assert page.evaluate("window.paper") == "#ffffff"
    assert page.evaluate("themeColors().bg") == "#14171c"


def test_a_plot_without_a_size_waits_for_one(small_page: Any) -> None:
    small_page.evaluate("plots[0].canvas.parentElement.hidden = true; plots[0].draw()")
    small_page.wait_for_timeout(200)
    small_page.evaluate("plots[0].canvas.parentElement.hidden = false")
    wait_until(small_page, "plots[0].width > 0")


def test_rows_without_scores_are_counted(small: Dataset, tokenizer: Any, tmp_path: Path, open_page: Any) -> None:
    nothing = dict.fromkeys(
        ["rsr", "rsr_avg_rank", "rsr_avg_surprisal", "rsr_token_ids", "rsr_token_ranks", "rsr_token_surprisals"]
    )
    unscored = [
        {**small[i], **nothing, "rsr_num_tokens": 0, "rsr_status": "bad_row", "teacher": None} for i in range(3)
    ]
    rows = Dataset.from_list([*small, *unscored])
    page = open_page(build_report(rows, tmp_path / "a.html", tokenizer=tokenizer))
    assert page.locator(".statuses").inner_text().split("\n") == [
        "scoredon the whole response",
        "9 (75.0%)",
        "bad_rowcannot be read",
        "3 (25.0%)",
    ]
    assert page.locator("#teacher-chart .name").all_inner_texts()[-2] == "(none)"
    click_point(page, 0)
    page.locator("tbody tr", has_text="bad_row").first.locator("input").check()
    assert "bad_row" in page.locator(".candidate").last.inner_text()
    for name, some in (("b", rows.select(range(9, 12))), ("c", rows.select([]))):
        page = open_page(build_report(some, tmp_path / f"{name}.html", tokenizer=tokenizer))
        assert page.locator("#plane-lead").inner_text() == "No row has a score."


def test_smollm2_tokens_are_the_text(smollm2: str, tmp_path: Path, open_page: Any) -> None:
    """A real tokenizer on a real trajectory."""
    answer = load_champ(problems=3)[5]["messages"][-1]["content"] + " 你好 🎉"
    real = load_tokenizer(smollm2)
    rows = Dataset.from_list([scored_row("p", "GPT-4", answer, real(answer)["input_ids"], seed=0)])
    page = open_page(build_report(rows, tmp_path / "report.html", tokenizer=real))
    assert page.locator(".tokens").evaluate("(holder) => holder.textContent") == answer


def test_no_browser_is_said(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_pages, "CHROMIUM", None)
    pytester.makepyfile("def test_page(browser): pass")
    for ci, outcome in (("", {"skipped": 1}), ("true", {"errors": 1})):
        monkeypatch.setenv("CI", ci)
        result = pytester.runpytest_inprocess("-p", "report_pages")
        result.assert_outcomes(**outcome)
        result.stdout.fnmatch_lines([NOT_TESTED])
