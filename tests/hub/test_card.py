"""The dataset card: it says what happened, holds it against the scores, and shows whatever the data contains."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import conversation, make_model
from datasets import ClassLabel, Dataset, DatasetDict, concatenate_datasets
from huggingface_hub import DatasetCard
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from rsr_datasets import RSRScorer, preview_card, rescore, score_dataset, select_subset, select_trajectories
from rsr_datasets.cli.sources import open_dataset
from rsr_datasets.hub.card import FIGURE_FILE, RECORDS_FILE, build_card
from rsr_datasets.hub.markdown import code, python, text
from rsr_datasets.hub.provenance import load_records
from rsr_datasets.tables.records import append_record, read_records, settings_hash

TOKEN = "hf_" + "Secret" * 6

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda part: st.lists(part) | st.dictionaries(st.text(), part),
)


@pytest.fixture(scope="module")
def scorer(student_folder: str) -> RSRScorer:
    return RSRScorer(student_folder, dtype="float32", token_columns=True)


@pytest.fixture(scope="module")
def other(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> RSRScorer:
    """A scorer with another student, whose score columns have another prefix."""
    folder = tmp_path_factory.mktemp("other-student")
    make_model("llama", len(tokenizer), seed=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return RSRScorer(str(folder), dtype="float32", column_prefix="other", turns="last")


@pytest.fixture(scope="module")
def run_folder(scorer: RSRScorer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    answers = {"long": "f(n) = 2 f(n-1) + 3, and so on", "short": "the answer is 42.", "odd": "x b c"}
    rows = [
        {"problem_id": f"p{i}", "teacher": name, "messages": conversation(f"Solve it ({i}).", f"{answer} {i}")}
        for i in range(12)
        for name, answer in answers.items()
    ]
    score_dataset(Dataset.from_list(rows), scorer, folder)
    return folder


@pytest.fixture(scope="module")
def scored(run_folder: Path) -> Dataset:
    return Dataset.load_from_disk(str(run_folder / "scored"))


@pytest.fixture(scope="module")
def best(scored: Dataset) -> Dataset:
    return select_trajectories(scored, group_by="problem_id")


def without_records(dataset: Dataset) -> Dataset:
    return Dataset.from_list(dataset.to_list(), features=dataset.features)


def with_settings(dataset: Dataset, record: dict[str, Any]) -> Dataset:
    """The rows as if they were scored with a record's settings, of which the data says nothing."""
    column = [settings_hash(record["settings"])] * len(dataset)
    return without_records(dataset).remove_columns("rsr_settings").add_column("rsr_settings", column)


def body(card: DatasetCard) -> str:
    return card.text


def rendered(markdown: str) -> str:
    return MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(markdown)


def made_again(card: DatasetCard, data: Any, folder: Path, *students: str) -> Any:
    """Runs the card's code on rows in files, with students from where they are, and returns what it selects."""
    source = re.search(r"## Make it again\n\n```python\n(.*?)```", body(card), re.DOTALL)[1]
    for name, rows in data.items():
        rows.remove_columns([name for name in rows.column_names if name.startswith("rsr")]).to_json(
            folder / f"{name}.jsonl"
        )
        source = source.replace(f'"{name}.jsonl"', repr(str(folder / f"{name}.jsonl")))
    for student in students:
        source = source.replace(f'"{Path(student).name}"', repr(student))
    names: dict[str, Any] = {}
    exec(source, names)
    return names["best"]


class TestWhatItSays:
    def test_the_student_the_settings_and_the_versions(self, best: Dataset, scorer: RSRScorer) -> None:
        card = body(preview_card(best))
        assert f"| settings hash | `{scorer.settings_hash}` |" in card
        assert "| rank clip | `100` |" in card and "| student dtype | `float32` |" in card
        assert re.search(r"\| scored with \| `rsr_datasets [\d.]+`, `torch ", card)
        assert f"content hash `{scorer.settings['student']['content']}`" in card

    def test_no_path_of_this_machine(self, best: Dataset, student_folder: str) -> None:
        assert str(Path(student_folder).parent) not in str(preview_card(best))
        assert str(Path(student_folder).parent) not in json.dumps(read_records(best))

    def test_the_rule_and_its_report(self, scored: Dataset) -> None:
        chosen, report = select_subset(scored, fraction=0.25, balance_by="teacher", return_report=True)
        card = body(preview_card(chosen))
        assert "The share `0.25` of the rows with the lowest `rsr`, the same share of each `teacher`" in card
        assert f"rows: {report.rows_in} in, {report.rows_out} kept" in card
        assert f"RSR: {report.rsr_before:.3f} before, {report.rsr_after:.3f} after" in card

    def test_teachers_with_share_and_ratio_before_and_after(self, scored: Dataset) -> None:
        chosen, report = select_trajectories(scored, group_by="problem_id", return_report=True)
        card = body(preview_card(chosen))
        assert set(report.teacher_rsr_before) == {"long", "short", "odd"}
        for name, share in report.teacher_share.items():
            row = next(line for line in card.splitlines() if line.startswith(f"| {name} |"))
            before, after = report.teacher_rsr_before[name], report.teacher_rsr_after[name]
            assert row.endswith(f"| {share:.1%} | 33.3% | {before:.3f} | {after:.3f} |")

    def test_every_column_is_explained(self, best: Dataset) -> None:
        card = body(preview_card(best))
        for name in best.column_names:
            assert f"| `{name}` |" in card
        assert "| `messages` | `List({'role': string, 'content': string})` | the trajectory, as" in card

    def test_the_figure_is_a_file_beside_it(self, best: Dataset) -> None:
        made = build_card(best, "me/x")
        assert made.files[FIGURE_FILE].startswith(b"\x89PNG") and f"]({FIGURE_FILE})" in made.section
        assert made.files == build_card(best, "me/x").files

    def test_without_matplotlib_a_warning_names_the_extra(
        self, best: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        made = build_card(best, "me/x")
        assert set(made.files) == {RECORDS_FILE} and FIGURE_FILE not in made.section
        assert "rsr_datasets[report]" in caplog.text

    def test_the_header(self, best: Dataset) -> None:
        header = preview_card(best, card={"language": ["en"], "license": "mit"}).data.to_dict()
        assert header["license"] == "mit" and header["language"] == ["en"] and header["size_categories"] == ["n<1K"]
        assert header["task_categories"] == ["text-generation"] and {"rsr", "rsr-datasets"} <= set(header["tags"])
        assert not {"license", "language"} & set(preview_card(best).data.to_dict())

    @pytest.mark.parametrize(
        ("given_license", "in_header", "in_text"), [("MIT", "mit", False), ("Ask <us>\nfirst", None, True)]
    )
    def test_a_license_is_carried_over_and_never_invented(
        self, best: Dataset, given_license: str, in_header: str | None, in_text: bool
    ) -> None:
        licensed = best.select(range(len(best)))
        licensed.info.license = given_license
        card = preview_card(licensed)
        assert card.data.to_dict().get("license") == in_header
        assert ("As given with the data: Ask &#60;us&#62;" in body(card)) is in_text

    def test_statuses_of_rows_without_a_score(self, rows: list[dict[str, Any]], student_folder: str) -> None:
        scorer = RSRScorer(student_folder)
        card = body(preview_card(Dataset.from_list(rows).map(scorer, batched=True), scorer=scorer))
        assert "Statuses of `rsr` in `train`: 5 `scored`, 1 `no_response`, 1 `bad_row`." in card

    def test_scores_of_two_students(self, scored: Dataset, other: RSRScorer) -> None:
        card = body(preview_card(scored.map(other, batched=True), scorer=other))
        assert "fine-tuning several students" in card.split("## How")[0]
        assert card.count("### Scoring: `") == 2 and f"`{other.settings_hash}`" in card
        assert "| `train` | `other` | 36 |" in card and "| `other_status` |" in card

    def test_class_labels_are_shown_by_name(self, best: Dataset) -> None:
        names = sorted(best.unique("teacher"))
        labelled = best.cast_column("teacher", ClassLabel(names=names))
        assert f"| {names[0]} |" in body(preview_card(labelled))


class TestProvenance:
    def test_a_record_gives_the_hash_in_the_column(self, scored: Dataset) -> None:
        assert [settings_hash(read_records(scored)[0]["settings"])] == scored.unique("rsr_settings")

    @pytest.mark.parametrize("name", ["", "run.json", "manifest.json"])
    def test_a_run_folder_says_what_plain_parquet_lost(self, best: Dataset, run_folder: Path, name: str) -> None:
        told = preview_card(without_records(best), provenance=run_folder / name)
        assert "| scored with | `rsr_datasets" in body(told)
        files = build_card(without_records(best), "me/x", provenance=run_folder).files
        assert json.loads(files[RECORDS_FILE])[0]["settings"] == read_records(best)[0]["settings"]

    def test_records_may_be_given_as_they_are(self, best: Dataset, tmp_path: Path) -> None:
        records = read_records(best)
        (tmp_path / "records.json").write_text(json.dumps(records))
        expected = str(preview_card(best))
        assert str(preview_card(without_records(best), provenance=records)) == expected
        assert str(preview_card(without_records(best), provenance=tmp_path / "records.json")) == expected
        assert load_records(records[0]) == records[:1]

    def test_a_scorer_says_what_map_did(self, scored: Dataset, scorer: RSRScorer, best: Dataset) -> None:
        card = body(preview_card(without_records(best), scorer=scorer))
        assert f"`{scorer.settings_hash}`" in card and "| published with |" in card

    def test_nothing_known_is_an_error_that_says_what_needs_it(self, best: Dataset) -> None:
        with pytest.raises(ValueError, match=r"nothing says how 12 rows .* pass scorer=.* or provenance="):
            preview_card(without_records(best))

    def test_no_scores_at_all(self, best: Dataset) -> None:
        with pytest.raises(ValueError, match="neither score columns nor a record"):
            preview_card(without_records(best).select_columns(["messages"]))

    def test_records_alone_do_where_the_columns_were_dropped(self, best: Dataset) -> None:
        assert "Its scores are not among the columns." in body(preview_card(best.select_columns(["messages"])))

    @pytest.mark.parametrize("changes", [{"turns": "last"}, {"rank_clip": 50}, {"dtype": "bfloat16"}])
    def test_another_scorer_is_refused(self, best: Dataset, student_folder: str, changes: dict[str, Any]) -> None:
        wrong = RSRScorer(student_folder, **({"dtype": "float32"} | changes))
        for dataset in (best, without_records(best)):
            with pytest.raises(ValueError, match=f"does not fit the data.*{wrong.settings_hash}"):
                preview_card(dataset, scorer=wrong)

    def test_another_run_is_refused(self, best: Dataset) -> None:
        record = json.loads(json.dumps(read_records(best)[0]))
        record["settings"]["max_length"] = 7
        with pytest.raises(ValueError, match="does not fit the data"):
            preview_card(best, provenance=[record])

    def test_rescored_rows_keep_their_record(self, scored: Dataset) -> None:
        card = body(preview_card(rescore(scored, rank_clip=10)))
        assert "| rank clip | `10` |" in card and "Scored with a rank clip of `100`, then rescored." in card
        assert "rank_clip=10" in card

    def test_one_unexplained_row_is_enough(self, best: Dataset, student_folder: str, scored: Dataset) -> None:
        other = scored.select(range(1)).map(RSRScorer(student_folder, turns="last", dtype="float32"), batched=True)
        kept = best.column_names
        mixed = concatenate_datasets([best, other.select_columns(kept).cast(best.features)])
        with pytest.raises(ValueError, match="nothing says how 1 rows"):
            preview_card(mixed)

    @pytest.mark.parametrize("wrong", [[], "text", [1], {"a": 1}, 3])
    def test_what_is_no_provenance(self, best: Dataset, wrong: Any, tmp_path: Path) -> None:
        if isinstance(wrong, str):
            wrong = tmp_path / "notes.json"
            wrong.write_text("[1, 2]")
        with pytest.raises(ValueError, match="provenance"):
            preview_card(best, provenance=wrong)

    def test_a_path_that_is_not_there(self, best: Dataset, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no such file or folder"):
            preview_card(best, provenance=tmp_path / "nothing")
        with pytest.raises(ValueError, match=r"a folder without manifest\.json or run\.json"):
            preview_card(best, provenance=tmp_path)

    def test_no_rows_and_no_dataset(self, best: Dataset) -> None:
        with pytest.raises(ValueError, match="no rows"):
            preview_card(best.select([]))
        with pytest.raises(TypeError, match="found list"):
            preview_card([{"a": 1}])

    def test_records_of_strangers_are_shown_or_passed_over(self, best: Dataset) -> None:
        rule = {"group_by": {"a": 1}, "keep": "x`", "column_prefix": []}
        strange = {"step": "select_trajectories", "rule": rule, "report": {"dropped": [], "rows_in": "<b>"}}
        lone = {"step": "note", "text": "\ud800"}
        for record in (lone, strange, {"step": ["<b>"]}, {"step": "score", "settings": 3}, {"rule": 1}):
            assert "<b>" not in body(preview_card(append_record(best, record)))


class TestCodeThatItGives:
    def test_it_makes_the_same_rows(self, scored: Dataset, student_folder: str, tmp_path: Path) -> None:
        pool = select_trajectories(scored, group_by="problem_id", keep=2, max_tokens=60)
        chosen = select_subset(pool, n=7, balance_by="teacher", sort=True)
        card = preview_card(chosen)
        assert f'RSRScorer("{Path(student_folder).name}", dtype="float32", token_columns=True)' in body(card)
        assert made_again(card, {"trajectories": scored}, tmp_path, student_folder).to_list() == chosen.to_list()

    @pytest.mark.parametrize("share", [0.5, 0.25])
    def test_each_split_is_selected_once(
        self, scored: Dataset, student_folder: str, tmp_path: Path, share: float
    ) -> None:
        splits = DatasetDict(train=scored.select(range(20)), test=scored.select(range(20, 36)))
        shares = {"train": 0.5, "test": share}
        chosen = DatasetDict({name: select_subset(splits[name], fraction=shares[name]) for name in splits})
        again = made_again(preview_card(chosen), splits, tmp_path, student_folder)
        for name, part in chosen.items():
            for column in ("problem_id", "teacher"):
                assert again[name][column][:] == part[column][:]

    def test_both_students_score_before_the_second_selects(
        self, scored: Dataset, other: RSRScorer, student_folder: str, tmp_path: Path
    ) -> None:
        both = scored.map(other, batched=True)
        chosen = select_trajectories(both, group_by="problem_id", metric="other_avg_surprisal", column_prefix="other")
        card = preview_card(chosen, scorer=other)
        again = made_again(card, {"trajectories": scored}, tmp_path, student_folder, other.source.name)
        assert again.to_list() == chosen.to_list()

    def test_a_record_of_an_earlier_version_names_its_metric_by(self, best: Dataset) -> None:
        records = read_records(select_subset(best, n=3, metric="rsr_avg_rank"))
        records[-1]["rule"]["by"] = records[-1]["rule"].pop("metric")
        card = body(preview_card(without_records(best), provenance=records))
        assert "with the lowest `rsr_avg_rank`" in card and 'metric="rsr_avg_rank"' in card

    def test_it_loads_a_source_that_is_named(self, best: Dataset) -> None:
        card = body(preview_card(best, card={"source_datasets": ["me/traces"]}))
        assert 'dataset = load_dataset("me/traces", split="train")' in card

    @pytest.mark.parametrize(
        ("columns", "line"),
        [
            ({"text": "a"}, 'dataset.select_columns(["text"])'),
            ({"prompt": "a", "completion": "b"}, 'dataset.select_columns(["prompt", "completion"])'),
            (
                {"question": "a", "solution": "b"},
                'dataset.select_columns(["question", "solution"]).rename_columns({"question": "prompt", '
                '"solution": "completion"})',
            ),
            ({"instruction": "a", "input": "c", "output": "b"}, "dataset.map(lambda row: "),
        ],
    )
    def test_one_line_leaves_what_trl_reads(self, student_folder: str, columns: dict[str, str], line: str) -> None:
        named = {"prompt": "question", "completion": "solution"} if "question" in columns else None
        scorer = RSRScorer(student_folder, columns=named)
        scored = Dataset.from_list([columns] * 3).map(scorer, batched=True)
        card = body(preview_card(scored, scorer=scorer))
        assert f"dataset = {line}" in card
        code_ = re.search(r"^dataset = dataset\..*$", card, re.MULTILINE)[0]
        names: dict[str, Any] = {"dataset": scored}
        exec(code_, names)
        assert set(names["dataset"].column_names) in ({"text"}, {"prompt", "completion"})

    def test_the_entry_for_llama_factory_is_json(self, best: Dataset) -> None:
        entry = json.loads(re.search(r"```json\n(.*?)```", body(preview_card(best, "me/x")), re.DOTALL)[1])
        assert entry["x"]["hf_hub_url"] == "me/x" and entry["x"]["columns"] == {"messages": "messages"}

    def test_no_entry_for_rows_that_llama_factory_does_not_read(self, student_folder: str) -> None:
        scorer = RSRScorer(student_folder)
        prompt, completion = conversation("Solve it.", "x = 3")
        scored = Dataset.from_list([{"prompt": [prompt], "completion": [completion]}]).map(scorer, batched=True)
        assert "LLaMA-Factory" not in body(preview_card(scored, scorer=scorer))


class TestSeveralFormats:
    """Runs over files of different formats, read as one: the rows of one run are null in the columns of the other."""

    @pytest.fixture(scope="class")
    def merged(self, student_folder: str, scored: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
        folder = tmp_path_factory.mktemp("formats")
        rows = [
            {"problem_id": f"p{i}", "teacher": "parts", "problem": f"Solve {i}.", "solution": f"x = {i}"}
            for i in range(4)
        ]
        texts = [
            {"problem_id": f"p{i}", "teacher": "texts", "prompt": f"{i}", "completion": "ab" * i} for i in range(1, 3)
        ]
        named = {"user": "problem", "assistant": "solution"}
        for name, part, columns in (("parts", rows, named), ("texts", texts, None)):
            scorer = RSRScorer(student_folder, dtype="float32", token_columns=True, columns=columns)
            score_dataset(Dataset.from_list(part), scorer, folder / name)
        scored.save_to_disk(folder / "messages")
        return open_dataset([str(folder / name) for name in ("messages", "parts", "texts")])

    def test_the_card_says_which_columns_how_many_rows_have(self, merged: Dataset) -> None:
        card = body(preview_card(merged))
        listed = re.findall(r"^- (\d+) rows in (.*)$", card, re.MULTILINE)
        assert listed == [("36", "`messages`"), ("2", "`prompt`, `completion`"), ("4", "`problem`, `solution`")]
        for name in ("messages", "prompt", "solution"):
            assert re.search(rf"\| `{name}` \| .* \| the trajectory, as", card)
        assert "LLaMA-Factory" not in card

    def test_the_code_for_training_takes_rows_that_have_what_it_reads(self, merged: Dataset) -> None:
        for rows, kept in ((merged, ["messages"] * 36), (merged.select(range(30, 42)), ["messages"] * 6)):
            lines = re.findall(r"^dataset = dataset\..*$", body(preview_card(rows)), re.MULTILINE)
            names: dict[str, Any] = {"dataset": rows}
            exec("\n".join(lines), names)
            assert names["dataset"].column_names == kept[:1] and len(names["dataset"]) == len(kept)
            assert all(row["messages"] for row in names["dataset"])

    def test_each_format_is_scored_again_with_its_columns(
        self, merged: Dataset, student_folder: str, tmp_path: Path
    ) -> None:
        chosen = select_trajectories(merged, group_by="problem_id", keep=9)
        card = preview_card(chosen)
        assert 'columns={"user": "problem", "assistant": "solution"}' in body(card)
        again = made_again(card, {"trajectories": merged}, tmp_path, student_folder)
        assert sorted(again["rsr"]) == pytest.approx(sorted(merged["rsr"]), rel=1e-5)

    def test_rows_of_one_run_alone_are_made_again_with_its_columns(self, merged: Dataset) -> None:
        card = body(preview_card(merged.select(range(36, 40))))
        assert 'columns={"user": "problem", "assistant": "solution"}' in card and "rows in `" not in card
        code_ = re.search(r"^dataset = dataset\..*$", card, re.MULTILINE)[0]
        names: dict[str, Any] = {"dataset": merged.select(range(36, 40))}
        exec(code_, names)
        assert names["dataset"][1] == {
            "prompt": [{"role": "user", "content": "Solve 1."}],
            "completion": [{"role": "assistant", "content": "x = 1"}],
        }


class TestMerging:
    def test_a_card_without_our_section_keeps_its_text_before_it(self, best: Dataset) -> None:
        for fields, expected in (({}, "mit"), ({"license": "odc-by"}, "odc-by")):
            made = build_card(best, "me/x", card=fields)
            merged = made.merged_into("---\nlicense: mit\n---\n# Mine\n\nWords.\n")
            assert merged.text.startswith("# Mine\n\nWords.\n\n<!-- rsr_datasets") and merged.data.license == expected

    def test_only_our_section_changes(self, best: Dataset, scored: Dataset) -> None:
        first = str(build_card(best, "me/x").merged_into(None))
        edited = first.replace("# x\n", "# Title of mine\n\nBefore.\n") + "\nAfter.\n"
        second = build_card(scored, "me/x").merged_into(edited).text
        assert second.startswith("\n# Title of mine\n\nBefore.\n") and second.endswith("\nAfter.\n")
        assert "36 reasoning trajectories scored for fine-tuning" in second and "### Selection" not in second
        assert "12 reasoning trajectories" not in second

    def test_windows_line_ends_and_no_header(self, best: Dataset) -> None:
        merged = build_card(best, "me/x").merged_into("Just words.\r\n")
        assert DatasetCard(str(merged)).data.tags and "Just words." in merged.text


class TestSecrets:
    def test_what_looks_like_one_is_hidden(self, best: Dataset) -> None:
        record = {"step": "score", "settings": read_records(best)[0]["settings"] | {"model_kwargs": {"token": "s3"}}}
        made = build_card(
            with_settings(best, record), "me/x", provenance=[record | {"note": TOKEN}], card={"pretty_name": TOKEN}
        )
        everything = str(made.merged_into(None)) + "".join(map(str, made.files.values()))
        assert TOKEN not in everything and '"s3"' not in everything and "(hidden)" in made.section


class TestText:
    @given(st.text())
    @example("](x) `a` **b** <i> &amp; ~~c~~ www.x.invalid http://x.invalid a@b.cd")
    @example("---")
    @example("1. a")
    def test_in_a_table_it_is_text_and_nothing_else(self, value: str) -> None:
        for shown in (text(value), code(value)):
            html = rendered(f"| a | b |\n|---|---|\n| {shown} | end |\n")
            cells = re.findall(r"<td>(.*?)</td>", html, re.DOTALL)
            assert len(cells) == 2 and cells[1] == "end"
            assert not re.search(r"<(?!/?code>)", cells[0])
            assert "\n" not in shown and not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)

    @given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=100))
    def test_what_is_visible_stays_as_it_is(self, value: str) -> None:
        html = rendered(f"x {text(value)} x").strip().removeprefix("<p>x ").removesuffix(" x</p>")
        unescaped = html.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")
        assert unescaped == value

    @given(JSON)
    def test_a_literal_is_its_value_and_stays_in_its_fence(self, value: Any) -> None:
        literal = python(value)
        assert eval(literal) == value
        assert literal.isascii() and not set(literal) & set("`<\n\r")

    def test_emoji_and_scripts_stay(self) -> None:
        assert text("👩‍👩‍👧‍👦 עברית") == "👩‍👩‍👧‍👦 עברית"
        assert text("a\u202eb") == "a&#92;u202eb"


def test_splits_are_told_apart(best: Dataset, scored: Dataset) -> None:
    card = body(preview_card(DatasetDict(train=best, test=scored)))
    assert "| `train` | `rsr` | 12 |" in card and "| `test` | `rsr` | 36 |" in card
    assert "(`select_trajectories`, split `train`)" in card and "Rows of the split `test`." in card


def test_a_student_on_the_hub_is_linked(best: Dataset) -> None:
    record = {"step": "score", "settings": {"rank_clip": 100, "student": {"hub": "a/b", "revision": "c" * 40}}}
    card = body(preview_card(with_settings(best, record), provenance=record))
    assert f"the student [`a/b`](https://huggingface.co/a/b) at revision `{'c' * 40}`" in card
