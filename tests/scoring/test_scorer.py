"""RSRScorer called by hand: inputs, statuses, errors, and rescoring."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from conftest import CHATML, conversation, make_model
from datasets import Dataset, DatasetDict, concatenate_datasets, load_from_disk
from oracle import assert_scored_the_same, plain_scores
from transformers import PreTrainedTokenizerFast

from rsr_datasets import RSRScorer, rescore
from rsr_datasets.reading.encoder import ConversationEncoder
from rsr_datasets.reading.formats import find_format

GOOD = conversation("Solve it.", "Therefore the result is 239.")
OTHER = conversation("And this?", "f(n) = 2 f(n-1) + 3, so a + b = c.")


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return make_model("llama", 400)


@pytest.fixture
def add_rsr(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast) -> RSRScorer:
    return RSRScorer(model, tokenizer=tokenizer, token_columns=True)


def test_nothing_is_loaded_until_the_first_call(student_folder: str) -> None:
    add_rsr = RSRScorer(student_folder)
    assert add_rsr._session.engine is None and add_rsr._session.encoder is None
    add_rsr({"messages": [GOOD]})
    assert add_rsr._session.engine is not None


def test_scores_equal_the_plain_oracle(add_rsr: RSRScorer, model, tokenizer, rows: list) -> None:
    scored = add_rsr({"messages": [row["messages"] for row in rows]})
    encoder = ConversationEncoder(tokenizer)
    for i, status in enumerate(scored["rsr_status"]):
        if status != "scored":
            continue
        encoded = encoder.encode([rows[i]], find_format(["messages"]))[0]
        expected = plain_scores(model, encoded)
        ranks, surprisals = scored["rsr_token_ranks"][i], np.array(scored["rsr_token_surprisals"][i])
        assert_scored_the_same(np.array(ranks), surprisals, expected)
        assert scored["rsr_token_ids"][i] == encoded.input_ids[encoded.positions].tolist()
        assert scored["rsr_num_tokens"][i] == len(ranks)
        assert scored["rsr_avg_rank"][i] == np.minimum(ranks, 100).mean()
        assert scored["rsr_avg_surprisal"][i] == pytest.approx(surprisals.mean(dtype=np.float64), rel=1e-14)
        assert scored["rsr"][i] == pytest.approx(scored["rsr_avg_rank"][i] / scored["rsr_avg_surprisal"][i], rel=1e-14)


def test_a_dict_gives_the_new_columns_alone(add_rsr: RSRScorer) -> None:
    found = add_rsr({"id": [1, 2], "messages": [GOOD, OTHER]})
    assert list(found) == list(add_rsr.score_columns.types(token_columns=True))
    assert all(isinstance(values, list) and len(values) == 2 for values in found.values())
    alone, batch = add_rsr({"id": 1, "messages": GOOD}), add_rsr({"messages": [GOOD]})
    assert alone == {name: values[0] for name, values in batch.items()}


def test_a_table_gives_the_table_with_the_columns_appended(add_rsr: RSRScorer) -> None:
    table = pa.table({"id": [1, 2], "messages": [GOOD, OTHER], "rsr": ["old", "column"]})
    found = add_rsr(table)
    assert found.column_names == ["id", "messages", *add_rsr.score_columns.types(token_columns=True)]
    assert found.schema.field("rsr").type == pa.float64()
    assert found["rsr"].to_pylist() == pytest.approx(add_rsr({"messages": [GOOD, OTHER]})["rsr"])


def test_inside_map_wrappers_can_read_the_scores(student_folder: str) -> None:
    add_rsr = RSRScorer(student_folder)

    def wrapped(batch):
        result = add_rsr(batch)
        batch["easy"] = [value is not None and value < 3 for value in batch["rsr"].to_pylist()]
        return result

    found = Dataset.from_dict({"messages": [GOOD, []]}).map(wrapped, batched=True)
    assert found["easy"][1] is False and found["rsr"][1] is None and found["rsr"][0] > 0


FORMATS = [
    {"messages": GOOD},
    {"conversations": [{"from": "human", "value": "Solve it."}, {"from": "gpt", "value": GOOD[1]["content"]}]},
    {"prompt": GOOD[:1], "completion": GOOD[1:]},
    {"prompt": "Solve it.", "completion": GOOD[1:]},
    {"prompt": GOOD[:1], "completion": GOOD[1]["content"]},
    {"instruction": "Solve it.", "input": "", "output": GOOD[1]["content"]},
    {"messages": {"role": ["user", "assistant"], "content": ["Solve it.", GOOD[1]["content"]]}},
    {"messages": [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in GOOD]},
    {"messages": [{**m, "tool_calls": None, "name": None} for m in GOOD]},
]


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: "+".join(row))
def test_every_format_of_the_same_conversation_scores_the_same(add_rsr: RSRScorer, row: dict) -> None:
    assert add_rsr({"id": 0, **row}) == add_rsr({"id": 0, "messages": GOOD})


def test_sharegpt_reads_its_system_column(add_rsr: RSRScorer) -> None:
    turns = [{"from": "human", "value": "Solve it."}, {"from": "gpt", "value": "x = 3"}]
    with_system = [{"role": "system", "content": "Be brief."}, *conversation("Solve it.", "x = 3")]
    assert add_rsr({"conversations": turns, "system": "Be brief."}) == add_rsr({"id": 0, "messages": with_system})


def test_alpaca_input_follows_the_instruction(add_rsr: RSRScorer) -> None:
    row = {"instruction": "Solve it.", "input": "x + 1 = 2", "output": "x = 1"}
    assert add_rsr(row) == add_rsr({"id": 0, "messages": conversation("Solve it.\nx + 1 = 2", "x = 1")})


def test_prompt_and_completion_text_are_one_text(add_rsr: RSRScorer, tokenizer) -> None:
    found = add_rsr({"prompt": "a + b ", "completion": "= c and so on"})
    whole = tokenizer("a + b = c and so on")["input_ids"]
    assert whole[-found["rsr_num_tokens"] :] == found["rsr_token_ids"]
    assert tokenizer.decode(found["rsr_token_ids"]).strip() == "= c and so on"


def test_of_text_every_token_but_the_first_is_scored(add_rsr: RSRScorer, tokenizer) -> None:
    found = add_rsr({"text": "Therefore the result is 239."})
    assert found["rsr_token_ids"] == tokenizer("Therefore the result is 239.")["input_ids"][1:]
    assert add_rsr({"text": ["", "x"]})["rsr_status"] == ["no_response", "no_response"]
    assert add_rsr({"prompt": "x", "completion": ""})["rsr_status"] == "no_response"


def test_columns_of_other_names(model, tokenizer) -> None:
    renamed = RSRScorer(model, tokenizer=tokenizer, columns={"prompt": "question", "completion": "solution"})
    standard = RSRScorer(model, tokenizer=tokenizer)
    row = {"question": "a + b", "solution": " = c"}
    assert renamed({**row, "messages": GOOD}) == standard({"prompt": "a + b", "completion": " = c"})
    several = {"text": "x", "prompt": "p", "completion": "c", "messages": GOOD}  # messages come first
    assert standard(several) == standard({"id": 0, "messages": GOOD})


UNSCORABLE = [
    ([], "no_response"),
    ([{"role": "user", "content": "hm?"}], "no_response"),
    (conversation("hm?", ""), "no_response"),
    (conversation("hm?", None), "no_response"),
    (None, "bad_row"),
    ("just text", "bad_row"),
    (17, "bad_row"),
    ([None], "bad_row"),
    ([{"role": "narrator", "content": "once"}], "bad_row"),
    ([{"role": None, "content": "once"}], "bad_row"),
    ([{"content": "once"}], "bad_row"),
    (conversation("hm?", 17), "bad_row"),
    (conversation("hm?", [{"type": "image", "image": "x.png"}]), "bad_row"),
    (conversation("hm?", "lone \ud800 surrogate"), "bad_row"),
]


@pytest.mark.parametrize(("messages", "status"), UNSCORABLE)
def test_a_row_that_cannot_be_scored_leaves_its_neighbours_alone(
    add_rsr: RSRScorer, messages: object, status: str
) -> None:
    expected = add_rsr({"messages": [GOOD, OTHER]})
    found = add_rsr({"messages": [GOOD, messages, OTHER]})
    assert found["rsr_status"] == ["scored", status, "scored"]
    assert [found[name][1] for name in found] == [None, None, None, 0, add_rsr.settings_hash, status, None, None, None]
    for name in ("rsr", "rsr_avg_rank", "rsr_avg_surprisal"):
        assert [found[name][0], found[name][2]] == pytest.approx(expected[name], rel=1e-6)


@pytest.mark.parametrize(("messages", "status"), UNSCORABLE)
def test_strict_raises_on_the_first_of_them(model, tokenizer, messages: object, status: str) -> None:
    with pytest.raises(ValueError, match=f"row 1 of its batch: {status}: "):
        RSRScorer(model, tokenizer=tokenizer, strict=True)({"messages": [GOOD, messages]})


def test_a_template_that_drops_text_is_said(model, tokenizer) -> None:
    forgetful = CHATML.replace("message['content']", "message['content'].split('</think>')[-1]")
    add_rsr = RSRScorer(model, tokenizer=tokenizer, chat_template=forgetful)
    found = add_rsr({"messages": [conversation("?", "<think>a + b = c</think>so it is"), GOOD]})
    assert found["rsr_status"] == ["template_dropped_text", "scored"]


def test_statuses_are_logged_once_with_the_reason(add_rsr: RSRScorer, caplog: pytest.LogCaptureFixture) -> None:
    add_rsr({"messages": [GOOD, None, None]})
    add_rsr({"messages": [None]})
    assert [record.message.split(" (")[0] for record in caplog.records] == [
        "row 1 of its batch: bad_row: column 'messages': expected a list of messages, found null"
    ]


def lengths(tokenizer: PreTrainedTokenizerFast) -> tuple[int, int]:
    """Tokens before the response of ``GOOD``, and up to its end."""
    encoded = ConversationEncoder(tokenizer).encode([{"messages": GOOD}], find_format(["messages"]))[0]
    return int(encoded.positions[0]), int(encoded.input_ids.size)


@pytest.mark.parametrize("too_short", [0, 1, 3])
def test_truncation_scores_the_tokens_that_fit(model, tokenizer, too_short: int) -> None:
    _, whole = lengths(tokenizer)
    full = RSRScorer(model, tokenizer=tokenizer, token_columns=True)({"id": 0, "messages": GOOD})
    cut = RSRScorer(model, tokenizer=tokenizer, token_columns=True, max_length=whole - too_short)
    found = cut({"id": 0, "messages": GOOD})
    assert found["rsr_status"] == ("truncated" if too_short else "scored")
    kept = full["rsr_num_tokens"] - too_short
    assert found["rsr_token_ids"] == full["rsr_token_ids"][:kept]
    np.testing.assert_allclose(found["rsr_token_surprisals"], full["rsr_token_surprisals"][:kept], atol=1e-5)


def test_skip_and_error_on_overflow(model, tokenizer) -> None:
    before, whole = lengths(tokenizer)
    before_response = RSRScorer(model, tokenizer=tokenizer, max_length=before)
    assert before_response({"id": 0, "messages": GOOD})["rsr_status"] == "skipped_too_long"
    skip = RSRScorer(model, tokenizer=tokenizer, max_length=whole - 1, on_overflow="skip")
    assert skip({"messages": [GOOD, conversation("?", "x")]})["rsr_status"] == ["skipped_too_long", "scored"]
    error = RSRScorer(model, tokenizer=tokenizer, max_length=whole - 1, on_overflow="error")
    with pytest.raises(ValueError, match=rf"row 1 of its batch: {whole} tokens, more than max_length={whole - 1}"):
        error({"messages": [conversation("?", "x"), GOOD]})


def test_the_length_limit_is_the_students(tokenizer) -> None:
    short = make_model("llama", 400, max_position_embeddings=12)
    assert RSRScorer(short, tokenizer=tokenizer)({"id": 0, "messages": GOOD})["rsr_status"] != "scored"


def test_without_a_limit_in_the_config_the_students_reach_is_the_limit(tokenizer) -> None:
    config = transformers.MptConfig(d_model=32, n_heads=4, n_layers=2, vocab_size=400, max_seq_len=24)
    mpt = transformers.AutoModelForCausalLM.from_config(config)
    found = RSRScorer(mpt, tokenizer=tokenizer)({"text": ["a b c", "= " * 40]})
    assert found["rsr_status"] == ["scored", "truncated"] and found["rsr_num_tokens"][1] == 24
    with pytest.raises(ValueError, match=r"row 0 of its batch: .* more than max_length=25"):
        RSRScorer(mpt, tokenizer=tokenizer, on_overflow="error")({"text": ["= " * 40]})


def test_only_the_last_turn(model, tokenizer) -> None:
    two_turns = [*GOOD, *OTHER]
    last = RSRScorer(model, tokenizer=tokenizer, turns="last", token_columns=True)({"id": 0, "messages": two_turns})
    every = RSRScorer(model, tokenizer=tokenizer, token_columns=True)({"id": 0, "messages": two_turns})
    first = RSRScorer(model, tokenizer=tokenizer, token_columns=True)({"id": 0, "messages": GOOD})
    assert every["rsr_token_ids"] == first["rsr_token_ids"] + last["rsr_token_ids"]


def test_nan_logits_are_not_finite(tokenizer) -> None:
    broken = make_model("llama", 400)
    with torch.no_grad():
        broken.lm_head.weight[7] = torch.nan
    found = RSRScorer(broken, tokenizer=tokenizer)({"messages": [GOOD, None]})
    assert found["rsr_status"] == ["nonfinite", "bad_row"]
    assert found["rsr"] == [None, None]


def test_zero_surprisal_has_no_ratio(tokenizer) -> None:
    certain = make_model("llama", 400)
    ids = tokenizer("a" * 9)["input_ids"]
    assert len(set(ids)) == 1
    with torch.no_grad():
        certain.lm_head.weight.zero_()
        # Every position predicts the one token with certainty: its logit is the squared norm of the normed state.
        certain.model.norm.weight.zero_()
    certain.lm_head = torch.nn.Linear(32, 400)
    with torch.no_grad():
        certain.lm_head.bias.fill_(-1e4)
        certain.lm_head.bias[ids[0]] = 1e4
    found = RSRScorer(certain, tokenizer=tokenizer, token_columns=True)({"text": "a" * 9})
    assert found["rsr_status"] == "nonfinite"
    assert found["rsr"] is None and found["rsr_avg_rank"] is None and found["rsr_num_tokens"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank_clip": 0}, "rank_clip=0: must be a positive"),
        ({"rank_clip": -3}, "rank_clip=-3"),
        ({"rank_clip": 2.5}, "rank_clip=2.5"),
        ({"dtype": "float99"}, "dtype='float99'"),
        ({"dtype": "int64"}, "dtype='int64'"),
        ({"on_overflow": "explode"}, "on_overflow='explode'"),
        ({"turns": "first"}, "turns='first'"),
        ({"logits_dtype": "float16"}, "logits_dtype='float16'"),
        ({"max_length": 1}, "max_length=1"),
        ({"tokens_per_batch": 0}, "tokens_per_batch=0"),
        ({"column_prefix": ""}, "column_prefix"),
        ({"columns": {"question": "prompt"}}, "columns='question'"),
        ({"chat_template": "no-such-preset"}, "chat_template='no-such-preset'"),
        ({"chat_template": "trl:no-such-model"}, "no such template"),
    ],
)
def test_arguments_that_cannot_be_right(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RSRScorer("nobody/nothing", **arguments)


@pytest.mark.parametrize(
    "arguments",
    [{"dtype": "bfloat16"}, {"revision": "x"}, {"attn_implementation": "eager"}, {"model_kwargs": {"a": 1}}],
)
def test_what_a_loaded_model_cannot_take_is_refused(model, tokenizer, arguments: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        RSRScorer(model, tokenizer=tokenizer, **arguments)
    with pytest.raises(ValueError, match="pass tokenizer="):
        RSRScorer(model)
    assert RSRScorer(model, tokenizer=tokenizer, dtype="float32").settings["dtype"] == "float32"


def test_renamed_columns_that_no_format_reads_are_an_error(model, tokenizer) -> None:
    with pytest.raises(ValueError, match=r"\['input'\] have no meaning in the format 'messages'"):
        RSRScorer(model, tokenizer=tokenizer, columns={"input": "sys"})({"messages": [GOOD], "sys": ["x"]})


def test_no_recognised_column_lists_what_was_found_and_what_is_accepted(add_rsr: RSRScorer) -> None:
    with pytest.raises(ValueError, match=r"found \['a'\]; accepted are messages, .*columns="):
        add_rsr({"a": ["?"]})
    with pytest.raises(
        ValueError, match=r"'answer'\]; .*perhaps columns={\"user\": \"question\", \"assistant\": \"answer"
    ):
        add_rsr({"question": ["?"], "answer": ["!"]})


def test_a_named_column_that_is_missing(model, tokenizer) -> None:
    add_rsr = RSRScorer(model, tokenizer=tokenizer, columns={"prompt": "question"})
    with pytest.raises(ValueError, match="has no column 'question'; it has"):
        add_rsr({"messages": [GOOD]})


def test_a_tokenizer_without_a_chat_template(model, tokenizer) -> None:
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(ValueError, match=r"no chat template.*chat_template="):
        RSRScorer(model, tokenizer=bare)({"messages": [GOOD]})
    assert RSRScorer(model, tokenizer=bare)({"prompt": "a +", "completion": " b"})["rsr_status"] == "scored"
    for preset in ("chatml", "llama3", "plain"):
        found = RSRScorer(model, tokenizer=bare, chat_template=preset)({"id": 0, "messages": GOOD})
        assert found["rsr_status"] == "scored"


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(ValueError, match="cannot load"):
        RSRScorer(str(tmp_path))({"messages": [GOOD]})


def test_settings_are_what_json_gives_back_and_name_the_student(student_folder: str) -> None:
    settings = RSRScorer(student_folder, rank_clip=7, chat_template_kwargs={"a": (1, 2)}).settings
    assert json.loads(json.dumps(settings)) == settings
    assert settings["rank_clip"] == 7 and set(settings["student"]) == {"content"}
    assert student_folder not in json.dumps(settings)


def test_old_names_of_arguments_are_accepted_with_a_warning() -> None:
    with pytest.warns(FutureWarning, match="share_prefixes="):
        renamed = RSRScorer("some/student", share_prompts=False)
    assert repr(renamed) == "RSRScorer('some/student', share_prefixes=False)"
    with pytest.warns(FutureWarning, match="torch_compile= has no effect"):
        assert repr(RSRScorer("some/student", torch_compile=True)) == "RSRScorer('some/student')"
    assert inspect.signature(RSRScorer, eval_str=True).parameters["strict"].annotation is bool


def test_other_options_use_the_same_loaded_student(student_folder: str) -> None:
    add_rsr, rows = RSRScorer(student_folder), {"messages": [GOOD, OTHER]}
    chosen = add_rsr.resolve_options()
    assert chosen["share_prefixes"] and chosen["tokens_per_batch"] > 1
    other = add_rsr.with_options({"tokens_per_batch": 1, "share_prefixes": False})
    batches = {scorer: [] for scorer in (add_rsr, other)}
    for scorer in (add_rsr, other, add_rsr):
        encoded = scorer.encode([{"messages": m} for m in rows["messages"]], find_format(rows))
        scorer.score_encoded(encoded, on_batch=batches[scorer].append)
    assert [len(found) for found in batches.values()] == [2, 2]
    assert other._session.engine is add_rsr._session.engine and add_rsr.resolve_options() == chosen
    assert pickle.loads(pickle.dumps(other)).resolve_options() == other.resolve_options()


def test_it_pickles_to_its_settings(student_folder: str) -> None:
    add_rsr = RSRScorer(student_folder, rank_clip=7, column_prefix="other")
    expected = add_rsr({"messages": [GOOD]})
    pickled = pickle.dumps(add_rsr)
    assert len(pickled) < 2000
    restored = pickle.loads(pickled)
    assert restored._session.engine is None
    assert restored({"messages": [GOOD]}) == expected


def test_a_student_placed_by_a_device_map_scores_the_same(student_folder: str) -> None:
    plain, placed = (RSRScorer(student_folder, model_kwargs=kwargs) for kwargs in ({}, {"device_map": {"": "cpu"}}))
    rows = {"messages": [GOOD, OTHER]}
    assert placed(rows) == plain(rows)


def test_a_loaded_model_can_be_trained_afterwards(tokenizer) -> None:
    model = make_model("gemma3", 400)
    RSRScorer(model, tokenizer=tokenizer)({"messages": [GOOD]})
    ids = torch.arange(9)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.fixture
def scored(dataset: Dataset, student_folder: str) -> Dataset:
    return dataset.map(RSRScorer(student_folder, token_columns=True), batched=True)


def test_rescore_with_the_same_clip_is_bit_equal(scored: Dataset) -> None:
    again = rescore(scored, rank_clip=100)
    assert again.features == scored.features
    assert again.data.table.combine_chunks().equals(scored.data.table.combine_chunks())


def test_rescore_with_another_clip_equals_scoring_with_it(
    scored: Dataset, dataset: Dataset, student_folder: str
) -> None:
    for clip in (1, 5, 500):
        expected = dataset.map(RSRScorer(student_folder, token_columns=True, rank_clip=clip), batched=True)
        assert rescore(scored, rank_clip=clip).to_list() == expected.to_list()


def test_rescore_works_after_reloading_and_on_splits(scored: Dataset, tmp_path: Path) -> None:
    scored.save_to_disk(tmp_path / "scored")
    reloaded = load_from_disk(tmp_path / "scored")
    splits = rescore(DatasetDict(train=reloaded, test=reloaded.select([0])), rank_clip=3)
    assert splits["train"].to_list() == rescore(scored, rank_clip=3).to_list()
    assert len(splits["test"]) == 1


def test_rescore_needs_token_columns(dataset: Dataset, scored: Dataset, student_folder: str) -> None:
    bare = dataset.map(RSRScorer(student_folder), batched=True)
    with pytest.raises(ValueError, match=r"rescore needs the columns \['rsr_token_ids'.*token_columns=True"):
        rescore(bare)
    with pytest.raises(ValueError, match="rank_clip=0"):
        rescore(bare, rank_clip=0)
    with pytest.raises(TypeError, match="a stream has no length"):
        rescore(bare.to_iterable_dataset())
    with pytest.raises(ValueError, match="null in a row with status 'scored'"):
        rescore(concatenate_datasets([scored, bare]))


def test_a_prefix_that_would_overwrite_what_is_read_is_refused(model, tokenizer) -> None:
    with pytest.raises(ValueError, match=r"column_prefix='text': the scores would overwrite the columns \['text'\]"):
        RSRScorer(model, tokenizer=tokenizer, column_prefix="text")({"text": ["x = 3"]})
    add_rsr = RSRScorer(model, tokenizer=tokenizer, metrics=["perplexity"], columns={"text": "rsr_perplexity"})
    with pytest.raises(ValueError, match=r"would overwrite the columns \['rsr_perplexity'\]"):
        add_rsr({"rsr_perplexity": "a b c"})


def test_a_token_outside_the_vocabulary_marks_its_row(tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    inside, outside = "abab", "abab the problem"
    vocabulary = max(tokenizer.encode(inside)) + 1
    assert max(tokenizer.encode(outside)) >= vocabulary
    add_rsr = RSRScorer(make_model("llama", vocabulary), tokenizer=tokenizer)
    scored = add_rsr({"prompt": ["ab", "ab"], "completion": [inside, outside]})
    assert scored["rsr_status"] == ["scored", "bad_row"]
    assert "lies outside the" in caplog.text and "is the tokenizer this student's?" in caplog.text


def test_its_repr_shows_what_was_chosen(model, tokenizer) -> None:
    assert repr(RSRScorer("some/student")) == "RSRScorer('some/student')"
    scorer = RSRScorer("some/student", rank_clip=50, turns="last", max_length=None, dtype="auto")
    assert repr(scorer) == "RSRScorer('some/student', rank_clip=50, turns='last')"
    long = repr(RSRScorer(model, tokenizer=tokenizer, chat_template="{% if '<b>' %}" + "x" * 5000 + "{% endif %}"))
    assert "tokenizer=" in long and "chat_template=\"{% if '<b>' %}xxx" in long and len(long) < 250
