"""Pushing to a Hub over real HTTP: what arrives is what was there, and what fails says what to do."""

from __future__ import annotations

import io
import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hub_client
import pytest
from champ import load_champ
from conftest import conversation, make_model
from datasets import Dataset, DatasetDict, NamedSplit, concatenate_datasets, load_from_disk
from hub_server import Blob, Hub
from PIL import Image

from rsr_datasets import (
    HubError,
    Published,
    RSRScorer,
    control_subsets,
    preview_card,
    score_dataset,
    select_trajectories,
)
from rsr_datasets.curation.controls import ARMS
from rsr_datasets.hub.card import FIGURE_FILE, RECORDS_FILE, REPORT_FILE

TOKEN = "hf_MeMeMeMeMeMeMeMeMeMeMeMeMeMeMeMeMe"
OTHER_TOKEN = "hf_YouYouYouYouYouYouYouYouYouYouYouYo"
WRONG_TOKEN = "hf_NobodyNobodyNobodyNobodyNobodyNobod"
TOKENS = (TOKEN, OTHER_TOKEN, WRONG_TOKEN)

DATA, CARD = "Curated with rsr_datasets: data", "Curated with rsr_datasets: card"

REQUESTS = (
    ("GET", "/api/datasets/"),
    ("POST", "/api/repos/create"),
    ("POST", "/api/validate-yaml"),
    ("POST", "/preupload/"),
    ("POST", "objects/batch"),
    ("PUT", "/storage/"),
    ("POST", "/lfs-verify"),
    ("POST", "/commit/"),
    ("HEAD", "/resolve/"),
)

HOSTILE = (
    "---\nlicense: evil\n---",
    "{{ 7 * 7 }}{% for x in y %}",
    "<script>alert(1)</script>",
    "[click](javascript:alert(1)) | ![x](http://x.invalid/y.png)",
    "`code` ``` *bold* _it_ # head\n- list",
    "\x00\x07\x1b[31m tab\t",
    "👩‍👩‍👧‍👦🏴󠁧󠁢󠁳󠁣󠁴󠁿",
    "\u202eevil\u2066 עברית العربية",
    "<!-- rsr_datasets: end -->",
    "'\"\\ : # & %",
)


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with Hub({TOKEN: ["me", "my-org"], OTHER_TOKEN: ["you"]}) as hub:
        yield hub


@pytest.fixture
def hub(server: Hub) -> Iterator[Hub]:
    server.reset()
    yield server
    assert server.leaks == [], "the access token went to the storage's host"
    assert not any(token.encode() in server.stored() for token in TOKENS)


@pytest.fixture(scope="module")
def run(server: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    folder = tmp_path_factory.mktemp("client")
    with hub_client.client_process(server.endpoint, folder / "home", folder / "log.txt") as call:
        yield call
    log = (folder / "log.txt").read_text(errors="replace")
    assert f"127.0.0.1:{server.port}/api" in log, "the log holds what the client did"
    assert not any(token in log for token in TOKENS)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> str:
    folder = tmp_path_factory.mktemp("hub") / "tiny-student"
    make_model("llama", len(tokenizer), max_position_embeddings=8192).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def scorer(student: str) -> RSRScorer:
    return RSRScorer(student, dtype="float32")


@pytest.fixture(scope="module")
def scored(scorer: RSRScorer, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """CHAMP trajectories with scores and the record of how they came about."""
    return score_dataset(load_champ(8), scorer, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def best(scored: Dataset) -> Dataset:
    return select_trajectories(scored, group_by="problem_id", keep=2)


@pytest.fixture(scope="module")
def curated(best: Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("curated") / "best")
    best.save_to_disk(folder)
    return folder


def saved(dataset: Dataset | DatasetDict, tmp_path: Path) -> str:
    dataset.save_to_disk(tmp_path / "saved")
    return str(tmp_path / "saved")


def readme(hub: Hub, repo_id: str, revision: str = "main") -> str:
    return hub.dataset(repo_id).files(revision)["README.md"].content.decode()


class TestRoundTrip:
    def test_rows_columns_and_features_come_back(self, hub: Hub, run: Any, curated: str, best: Dataset) -> None:
        published = run(hub_client.push, curated, "me/round-trip", token=TOKEN)
        assert published == Published(
            "me/round-trip", f"{hub.endpoint}/datasets/me/round-trip", hub.dataset("me/round-trip").find("main")
        )
        rows, features = run(hub_client.load, "me/round-trip", token=TOKEN)["train"]
        assert rows == best.to_list()
        assert features == best.features

    def test_card_and_figure_come_in_one_commit_after_the_data(self, hub: Hub, run: Any, curated: str) -> None:
        run(hub_client.push, curated, "me/one-commit", token=TOKEN)
        repo = hub.dataset("me/one-commit")
        assert repo.messages() == ["initial commit", DATA, CARD]
        data, card = (set(files) for _, files in list(repo.commits.values())[1:])
        assert card - data == {FIGURE_FILE, RECORDS_FILE}
        image = Image.open(io.BytesIO(repo.files()[FIGURE_FILE].content))
        assert image.format == "PNG" and len(image.convert("L").getcolors()) > 10
        assert f"]({FIGURE_FILE})" in readme(hub, "me/one-commit")

    def test_the_card_parses_and_the_hub_accepts_it(self, hub: Hub, run: Any, curated: str, best: Dataset) -> None:
        run(hub_client.push, curated, "me/card", token=TOKEN, card={"license": "mit", "language": ["en"]})
        text, header = run(hub_client.checked_card, "me/card", TOKEN)
        assert header["license"] == "mit" and header["language"] == ["en"]
        assert header["size_categories"] == ["n<1K"] and "rsr" in header["tags"]
        assert header["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*"}]
        assert header["dataset_info"]["splits"][0]["num_examples"] == len(best)
        preview = preview_card(best, "me/card", card={"license": "mit", "language": ["en"]})
        assert preview.text == text.split("\n---\n", 1)[1]
        assert preview.data.to_dict().items() <= header.items()

    def test_splits_stay_splits(self, hub: Hub, run: Any, best: Dataset, tmp_path: Path) -> None:
        splits = DatasetDict(train=best.select(range(10)), test=best.select(range(10, len(best))))
        run(hub_client.push, saved(splits, tmp_path), "me/splits", token=TOKEN)
        loaded = run(hub_client.load, "me/splits", token=TOKEN)
        assert {name: rows for name, (rows, _) in loaded.items()} == {n: part.to_list() for n, part in splits.items()}
        assert "| `test` | `rsr` | 6 |" in readme(hub, "me/splits")

    def test_control_arms_become_configurations(
        self, hub: Hub, run: Any, curated: str, scored: Dataset, best: Dataset
    ) -> None:
        arms = control_subsets(scored, best, "problem_id", match=["tokens"])
        run(hub_client.push, curated, "me/arms", token=TOKEN, controls=arms)
        text, header = run(hub_client.checked_card, "me/arms", TOKEN)
        assert {each["config_name"] for each in header["configs"]} == {"default", *ARMS}
        for name, rows in [("default", best), *arms.items()]:
            assert run(hub_client.load, "me/arms", name=name, split="train", token=TOKEN)[0] == rows.to_list()
        assert "| `random` | 16 |" in text and "not within 5" in text
        assert hub.dataset("me/arms").messages()[-1] == CARD

    def test_an_arm_alone_says_its_rule(self, scored: Dataset, best: Dataset) -> None:
        arms = control_subsets(scored, best, "problem_id")
        assert "The control arm `random`: as many rows for each `problem_id`" in preview_card(arms["random"]).text

    @pytest.mark.parametrize("name", ["default", "a b"])
    def test_arms_need_names_for_configurations(self, best: Dataset, name: str) -> None:
        with pytest.raises(ValueError, match="is no name for a configuration"):
            preview_card(best, controls={name: best})
        with pytest.raises(ValueError, match="the arm 'x' has no rows"):
            preview_card(best, controls={"x": best.select([])})

    def test_a_test_split_is_pushed_as_one(self, hub: Hub, run: Any, best: Dataset, tmp_path: Path) -> None:
        test = best.select(range(6))
        test.info.splits, test._split = None, NamedSplit("test")
        run(hub_client.push, saved(test, tmp_path), "me/test", token=TOKEN)
        assert list(run(hub_client.load, "me/test", token=TOKEN)) == ["test"]
        assert 'load_dataset("me/test", split="test")' in readme(hub, "me/test")

    def test_shards(self, hub: Hub, run: Any, curated: str, best: Dataset) -> None:
        run(hub_client.push, curated, "me/shards", token=TOKEN, max_shard_size="10KB")
        assert sum(path.endswith(".parquet") for path in hub.dataset("me/shards").files()) > 2
        assert run(hub_client.load, "me/shards", split="train", token=TOKEN)[0] == best.to_list()

    def test_hostile_text_arrives_unchanged_and_harmless(
        self, hub: Hub, run: Any, scored: Dataset, tmp_path: Path
    ) -> None:
        part = scored.select(range(len(HOSTILE))).remove_columns(["teacher", "messages", "category"])
        part = part.add_column("teacher", list(HOSTILE))
        part = part.add_column("messages", [conversation(text, text[::-1]) for text in HOSTILE])
        for name in ("a\n---\nb", "{{ x }}", "<b>|`c`", "[l](http://x.invalid)", "\u202eעברית👩‍👧"):
            part = part.add_column(name, list(HOSTILE))
        part = select_trajectories(part, group_by="teacher", return_report=False)
        run(hub_client.push, saved(part, tmp_path), "me/hostile", token=TOKEN)
        rows, features = run(hub_client.load, "me/hostile", split="train", token=TOKEN)
        assert rows == part.to_list() and features == part.features
        text, header = run(hub_client.checked_card, "me/hostile", TOKEN)
        assert "license" not in header
        section = text.split("\n---\n", 1)[1]
        assert section.count("<!-- rsr_datasets") == 2
        for forbidden in ("<script", "](javascript", "](http://x", "{{ 7", "\x1b", "\u202e", "\u2066", "\x00"):
            assert forbidden not in section
        assert "👩‍👩‍👧‍👦" in section and "עברית" in section


class TestTraining:
    def test_the_cards_own_code_trains_a_step(
        self, hub: Hub, run: Any, curated: str, student: str, tmp_path: Path
    ) -> None:
        run(hub_client.push, curated, "me/training", token=TOKEN, private=True)
        blocks = re.findall(r"```python\n(.*?)```", readme(hub, "me/training"), re.DOTALL)
        code = next(block for block in blocks if "trl" in block)
        columns, loss, changed = run(hub_client.train, code, student, str(tmp_path), TOKEN)
        assert columns == ["messages"] and 0 < loss < 100 and changed


class TestCardThatIsThere:
    def test_hand_written_text_and_fields_survive_a_second_push(
        self, hub: Hub, run: Any, curated: str, best: Dataset, tmp_path: Path
    ) -> None:
        written = b"---\nlicense: cc-by-4.0\npretty_name: 'Mine: all'\ntags: [math]\n---\n\n# My words\n\nKept.\n"
        hub.create("dataset", "me/twice", files={"README.md": written, "notes.txt": b"mine"})
        run(hub_client.push, curated, "me/twice", token=TOKEN)
        repo = hub.dataset("me/twice")
        added = f"{readme(hub, 'me/twice').rstrip()}\n\n## After\n"
        repo.commit("main", "by hand", repo.files() | {"README.md": Blob(added.encode(), is_lfs=False)})
        run(hub_client.push, saved(best.select(range(5)), tmp_path), "me/twice", token=TOKEN)
        text, header = run(hub_client.checked_card, "me/twice", TOKEN)
        assert header["license"] == "cc-by-4.0" and header["pretty_name"] == "Mine: all"
        assert header["tags"][0] == "math" and header["tags"].count("rsr") == 1
        assert text.count("# My words\n\nKept.\n") == 1 and text.rstrip().endswith("## After")
        assert text.count("## How it was made") == 1 and text.index("Kept.") < text.index("5 reasoning trajectories")
        assert hub.dataset("me/twice").files()["notes.txt"].content == b"mine"
        assert len(run(hub_client.load, "me/twice", split="train", token=TOKEN)[0]) == 5

    def test_the_same_again_changes_nothing(self, hub: Hub, run: Any, curated: str) -> None:
        first = run(hub_client.push, curated, "me/same", token=TOKEN)
        assert run(hub_client.push, curated, "me/same", token=TOKEN) == first

    def test_a_header_that_the_hub_refuses_is_refused_before_the_data(self, hub: Hub, run: Any, curated: str) -> None:
        with pytest.raises(ValueError, match=r'(?s)card=.*"license\W+ must be one of'):
            run(hub_client.push, curated, "me/refused", token=TOKEN, card={"license": "mine"})
        assert not hub.repos and not hub.lfs

    def test_a_header_that_cannot_be_read_is_refused_before_the_data(self, hub: Hub, run: Any, curated: str) -> None:
        hub.create("dataset", "me/broken", files={"README.md": b"---\na: [\n---\n"})
        with pytest.raises(ValueError, match=r"README\.md has no readable YAML header"):
            run(hub_client.push, curated, "me/broken", token=TOKEN)
        assert not hub.lfs

    @pytest.mark.parametrize("after", [0, 1])
    def test_a_commit_in_between_is_not_overwritten(self, hub: Hub, run: Any, curated: str, after: int) -> None:
        hub.fail("POST", "/commit/", 412, times=1, after=after)
        run(hub_client.push, curated, "me/race", token=TOKEN)
        assert "## How it was made" in readme(hub, "me/race")

    def test_a_report_goes_beside_the_card(self, hub: Hub, run: Any, curated: str, tmp_path: Path) -> None:
        (tmp_path / "report.html").write_text("<h1>Scores</h1>")
        run(hub_client.push, curated, "me/report", token=TOKEN, embed_report=str(tmp_path / "report.html"))
        assert hub.dataset("me/report").files()[REPORT_FILE].content == b"<h1>Scores</h1>"
        assert f"[{REPORT_FILE}]({REPORT_FILE})" in readme(hub, "me/report")


class TestWhereItGoes:
    def test_a_name_alone_is_in_the_owners_namespace(self, hub: Hub, run: Any, curated: str) -> None:
        assert run(hub_client.push, curated, "alone", token=TOKEN).repo_id == "me/alone"
        assert 'load_dataset("me/alone"' in readme(hub, "me/alone")

    @pytest.mark.parametrize(("private", "expected"), [(None, False), (True, True), (False, False)])
    def test_private(self, hub: Hub, run: Any, curated: str, private: bool | None, expected: bool) -> None:
        run(hub_client.push, curated, "my-org/visibility", token=TOKEN, private=private)
        assert hub.dataset("my-org/visibility").private is expected

    def test_a_branch_is_made(self, hub: Hub, run: Any, curated: str, best: Dataset) -> None:
        published = run(hub_client.push, curated, "me/branch", token=TOKEN, revision="v2/new")
        repo = hub.dataset("me/branch")
        assert set(repo.files("main")) == {".gitattributes"} and published.commit == repo.find("v2/new")
        rows, _ = run(hub_client.load, "me/branch", split="train", revision="v2/new", token=TOKEN)
        assert rows == best.to_list()

    def test_a_pull_request_holds_data_and_card(self, hub: Hub, run: Any, curated: str) -> None:
        hub.create("dataset", "me/proposed")
        published = run(hub_client.push, curated, "me/proposed", token=OTHER_TOKEN, create_pr=True)
        repo = hub.dataset("me/proposed")
        assert str(published) == published.pull_request == f"{hub.endpoint}/datasets/me/proposed/discussions/1"
        assert repo.pull_requests[1]["status"] == "open" and set(repo.files("main")) == {".gitattributes"}
        assert {"README.md", FIGURE_FILE, "data/train-00000-of-00001.parquet"} <= set(repo.files("refs/pr/1"))

    def test_a_pull_request_has_no_branch(self, run: Any, curated: str) -> None:
        with pytest.raises(ValueError, match="create_pr=True and revision='x'"):
            run(hub_client.push, curated, "me/both", token=TOKEN, create_pr=True, revision="x")


class TestFaults:
    def test_no_token(self, hub: Hub, run: Any, curated: str) -> None:
        with pytest.raises(HubError, match=r"^no access token: run `hf auth login`, set HF_TOKEN, or pass token="):
            run(hub_client.push, curated, "me/no-token")
        assert not hub.requests

    def test_a_wrong_token(self, hub: Hub, run: Any, curated: str) -> None:
        with pytest.raises(HubError, match=r"does not accept the access token \(401\).*; nothing was sent$"):
            run(hub_client.push, curated, "me/wrong-token", token=WRONG_TOKEN)
        assert not hub.repos

    @pytest.mark.parametrize(("private", "status"), [(None, 403), (False, 403), (True, r"\d+")])
    def test_no_right_to_the_namespace(
        self, hub: Hub, run: Any, curated: str, private: bool | None, status: int | str
    ) -> None:
        if private is not None:
            hub.create("dataset", "you/theirs", private=private)
        with pytest.raises(HubError, match=rf"no right to write to you/theirs \({status}\).*sent$"):
            run(hub_client.push, curated, "you/theirs", token=TOKEN)
        assert private is None or len(hub.dataset("you/theirs").commits) == 1

    def test_a_model_of_the_same_name_is_left_alone(self, hub: Hub, run: Any, curated: str) -> None:
        hub.create("model", "me/named", files={"config.json": b"{}"})
        run(hub_client.push, curated, "me/named", token=TOKEN)
        assert len(hub.repos["model", "me/named"].commits) == 1 and len(hub.dataset("me/named").commits) == 3

    def test_a_hub_on_which_a_name_has_one_kind(self, hub: Hub, run: Any, curated: str) -> None:
        hub.one_name_one_kind = True
        hub.create("model", "me/named")
        with pytest.raises(HubError, match="me/named exists as a model: choose another repo_id; nothing was sent"):
            run(hub_client.push, curated, "me/named", token=TOKEN)

    def test_every_kind_of_request_may_fail_twice(self, hub: Hub, run: Any, best: Dataset, curated: str) -> None:
        repo_id = "me/retried"
        for method, path in REQUESTS:
            for status in (429, 500):
                hub.fail(method, path, status, times=1, body="<html>busy</html>")
        run(hub_client.push, curated, repo_id, token=TOKEN)
        assert not hub.faults
        assert hub.dataset(repo_id).messages()[1:] == [DATA, CARD]
        assert run(hub_client.load, repo_id, split="train", token=TOKEN)[0] == best.to_list()

    def test_a_connection_that_breaks_in_a_shard(self, hub: Hub, run: Any, best: Dataset, curated: str) -> None:
        hub.drop("PUT", "/storage/", after_bytes=4000, times=2)
        run(hub_client.push, curated, "me/broken-off", token=TOKEN)
        assert hub.requested("PUT", "/storage/") >= 3
        assert run(hub_client.load, "me/broken-off", split="train", token=TOKEN)[0] == best.to_list()

    @pytest.mark.parametrize("path", ["/api/repos/create", "/commit/"])
    def test_a_connection_that_breaks_in_a_call(self, hub: Hub, run: Any, curated: str, path: str) -> None:
        hub.drop("POST", path, after_bytes=10)
        run(hub_client.push, curated, "me/cut", token=TOKEN)
        assert "## How it was made" in readme(hub, "me/cut")

    def test_a_hub_that_keeps_failing_before_the_data(self, hub: Hub, run: Any, curated: str) -> None:
        hub.fail("POST", "/commit/", 503, times=99, body=f"busy, {TOKEN}")
        with pytest.raises(HubError) as caught:
            run(hub_client.push, curated, "me/failing", token=TOKEN)
        message = str(caught.value)
        assert "the Hub keeps failing (status 503" in message
        assert message.endswith("the repository me/failing was made and has no data yet") and "\n" not in message
        assert "busy, (token)" in message and TOKEN not in "".join(traceback.format_exception(caught.value))
        assert set(hub.dataset("me/failing").files()) == {".gitattributes"}

    def test_a_hub_that_fails_between_data_and_card(self, hub: Hub, run: Any, curated: str, best: Dataset) -> None:
        hub.create("dataset", "me/halfway")
        hub.fail("POST", "/commit/", 400, times=1, after=1)
        with pytest.raises(HubError, match=r"the data is in me/halfway, but its card could not be written$"):
            run(hub_client.push, curated, "me/halfway", token=TOKEN)
        uploads = hub.requested("PUT", "/storage/")
        run(hub_client.push, curated, "me/halfway", token=TOKEN)
        assert hub.requested("PUT", "/storage/") - uploads <= 1, "only the figure is new"
        assert "## How it was made" in readme(hub, "me/halfway")

    def test_nobody_there(self, hub: Hub, run: Any, curated: str, best: Dataset) -> None:
        hub.drop("GET", "/api/datasets/me/nobody", after_bytes=0, times=99)
        with pytest.raises(HubError, match=rf"^cannot reach {re.escape(hub.endpoint)} .*: check the network"):
            run(hub_client.push, curated, "me/nobody", token=TOKEN)
        assert load_from_disk(curated).to_list() == best.to_list()


class TestSecrets:
    def test_a_token_in_the_settings_stays_at_home(
        self, hub: Hub, run: Any, best: Dataset, student: str, tmp_path: Path
    ) -> None:
        telling = RSRScorer(student, dtype="float32", model_kwargs={"token": OTHER_TOKEN, "note": f"x {TOKEN}"})
        plain = best.remove_columns("rsr_settings").add_column("rsr_settings", [telling.settings_hash] * len(best))
        run(hub_client.push, saved(plain, tmp_path), "me/telling", token=TOKEN, scorer=telling)
        assert "(hidden)" in readme(hub, "me/telling")

    def test_a_report_with_the_token_is_not_sent(self, hub: Hub, run: Any, curated: str, tmp_path: Path) -> None:
        (tmp_path / "report.html").write_text(f"<p>{TOKEN}</p>")
        with pytest.raises(ValueError, match="holds your access token") as caught:
            run(hub_client.push, curated, "me/leak", token=TOKEN, embed_report=str(tmp_path / "report.html"))
        assert TOKEN not in str(caught.value) and not hub.requests


def test_concatenated_selections_are_told_apart(hub: Hub, run: Any, scored: Dataset, tmp_path: Path) -> None:
    teachers = scored.unique("teacher")[:2]
    parts = [scored.filter(lambda row, t=t: row["teacher"] == t) for t in teachers]
    chosen = concatenate_datasets([select_trajectories(part, group_by="category") for part in parts])
    run(hub_client.push, saved(chosen, tmp_path), "me/parts", token=TOKEN)
    assert "parts that were put together afterwards" in readme(hub, "me/parts")
