"""The dataset card: how a data set was made, said so that a stranger can check it and do it again.

What is known comes from the provenance records that travel with the data, from a scorer, or from a run folder, each
held against the ``rsr_settings`` column. The template is ``cards/dataset_card.md.jinja``.
"""

from __future__ import annotations

import inspect
import io
import json
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from datasets import Dataset, DatasetDict
from huggingface_hub import DatasetCard, DatasetCardData

from ..curation.pool import RANDOM
from ..curation.subset import select_subset
from ..curation.trajectories import select_trajectories
from ..figures.plots import plot_teachers
from ..metrics import DEFAULT_METRICS, available_metrics, ratio_of_means
from ..reading.formats import RowFormat, find_format
from ..scoring.scorer import RSRScorer
from ..tables import arrays
from ..tables.columns import STATUSES_WITH_SCORE, ScoreColumns
from ..tables.records import package_versions
from ..teachers.dataset_rsr import DatasetRSR, dataset_rsr, summarize_metrics
from .history import History, Scoring, Splits, score_prefixes
from .markdown import code, python, text
from .provenance import load_records, score_record

logger = logging.getLogger(__name__)

FIGURE_FILE = "rsr/teachers.png"
RECORDS_FILE = "rsr/provenance.json"
REPORT_FILE = "rsr/report.html"
TAGS = ("rsr", "rsr-datasets", "reasoning", "distillation", "data-selection")
TASK_CATEGORIES = ("text-generation",)

_BEGIN = "<!-- rsr_datasets: what stands between these two comments is written anew by every push -->"
_END = "<!-- rsr_datasets: end -->"
_SECTION = re.compile(re.escape(_BEGIN) + r".*?" + re.escape(_END), re.DOTALL)
_HIDDEN = "(hidden)"
_TOKEN = re.compile(r"\bhf_\w{8,}|\bapi_org_\w{8,}")
_SECRETS = re.compile(r"(?:\w*_)?(?:token|password|secret|api_key)", re.IGNORECASE)
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_MAX_TEACHERS = 50
_MAX_FIGURE_TEACHERS = 40
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_MORE_SIZES = ((10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"), (10**11, "10B<n<100B"))

# How LLaMA-Factory finds its way in messages with the roles of chat templates.
_ROLE_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "function",
    "system_tag": "system",
}

# The Hub refuses other identifiers in the header.
# fmt: off
_LICENSES = frozenset((
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cdla-sharing-1.0",
    "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1",
    "eupl-1.2", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "isc", "mpl-2.0",
    "ms-pl", "odc-by", "odbl", "osl-3.0", "postgresql", "ofl-1.1", "ncsa", "unlicense", "zlib", "pddl", "llama2",
    "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "gemma", "unknown", "other",
))
# fmt: on


@dataclass(frozen=True)
class CuratedCard:
    """What a push adds to a repository beside the data.

    Attributes:
        title: The heading of a card that has no text yet.
        fields: Fields of the YAML header that are known.
        given: Those of them that the caller gave, which win over what a card has already.
        section: The text between the marks.
        files: Path in the repository to content: records, and figure and report where there are any.
    """

    title: str
    fields: Mapping[str, Any]
    given: Mapping[str, Any]
    section: str
    files: Mapping[str, bytes]

    def merged_into(self, existing: str | None) -> DatasetCard:
        """The card of a repository: what people wrote stays, our section and what we know of the header is renewed.

        Args:
            existing: The repository's README, if it has one.

        Raises:
            ValueError: If its header cannot be read.
        """
        try:
            card = DatasetCard(existing if existing is not None else "---\n{}\n---\n")
        except Exception as error:
            raise ValueError(
                f"the repository's README.md has no readable YAML header, mend it first: {error}"
            ) from error
        header = card.data.to_dict()
        for name, value in self.fields.items():
            if name == "tags":
                known = _listed(header.get(name))
                header[name] = known + [tag for tag in value if tag not in known]
            elif name == "size_categories" or name not in header:
                header[name] = value
        header |= self.given
        if rows := _rows_said(header.get("dataset_info")):
            header["size_categories"] = self.given.get("size_categories", [_size_category(rows)])
        card.data = DatasetCardData(**header)
        card.text = self._merged_text(card.text)
        return card

    def _merged_text(self, existing: str) -> str:
        if _SECTION.search(existing):
            return _SECTION.sub(lambda _: self.section, existing, count=1)
        if existing.strip():
            return f"{existing.rstrip()}\n\n{self.section}\n"
        return f"\n# {self.title}\n\n{self.section}\n"


def preview_card(
    dataset: Dataset | DatasetDict,
    repo_id: str = "username/dataset",
    *,
    scorer: RSRScorer | None = None,
    provenance: Any = None,
    card: Mapping[str, Any] | DatasetCardData | None = None,
    embed_report: str | Path | None = None,
) -> DatasetCard:
    """The card that :func:`rsr_datasets.push_curated` would write to a new repository; nothing is sent.

    Args:
        dataset: Scored, and mostly selected, rows.
        repo_id: The repository that the card is for: its name is the title and stands in the examples.
        scorer: As in :func:`rsr_datasets.push_curated`.
        provenance: As there.
        card: As there.
        embed_report: As there.

    Returns:
        The card; ``str(card)`` is the README. The fields ``configs`` and ``dataset_info``, which
        ``Dataset.push_to_hub`` adds, are not in it.

    Raises:
        ValueError: As :func:`rsr_datasets.push_curated` before it sends anything.
        TypeError: If ``dataset`` is neither a ``Dataset`` nor a ``DatasetDict``.
    """
    return build_card(dataset, repo_id, scorer, provenance, card, embed_report).merged_into(None)


def build_card(
    dataset: Dataset | DatasetDict,
    repo_id: str,
    scorer: RSRScorer | None = None,
    provenance: Any = None,
    card: Mapping[str, Any] | DatasetCardData | None = None,
    embed_report: str | Path | None = None,
    secrets: Sequence[str] = (),
) -> CuratedCard:
    """Makes all that a push adds beside the data.

    Args:
        dataset: Scored rows.
        repo_id: Where they go.
        scorer: What they were scored with, where their records were lost.
        provenance: Records, or where they are, likewise.
        card: Fields of the YAML header.
        embed_report: An HTML file.
        secrets: Texts that must not stand in anything that is made.

    Raises:
        ValueError: If there are no rows, nothing says how they were scored, what says so contradicts the settings
            column, or a file holds a secret.
        FileNotFoundError: If a file is not there.
        TypeError: If ``dataset`` is neither a ``Dataset`` nor a ``DatasetDict``.
    """
    splits = _as_splits(dataset)
    files: dict[str, bytes] = {}
    if embed_report is not None:
        files[REPORT_FILE] = _read_report(Path(embed_report), secrets)
    hide = _hider(secrets)
    given = [
        *([score_record(scorer)] if scorer else []),
        *(load_records(provenance) if provenance is not None else []),
    ]
    history = History.read(splits, given).with_records(hide)
    teachers = _teachers(splits, history)
    files[RECORDS_FILE] = (json.dumps(history.records, indent=1, ensure_ascii=False) + "\n").encode(
        errors="backslashreplace"
    )
    if teachers and (figure := _figure(teachers)):
        files[FIGURE_FILE] = figure
    name = repo_id.split("/")[-1]
    header = dict(card.to_dict() if isinstance(card, DatasetCardData) else card or {})
    license_id, license_text = _license(splits)
    fields: dict[str, Any] = {
        "license": license_id,
        "task_categories": list(TASK_CATEGORIES),
        "size_categories": [_size_category(sum(map(len, splits.values())))],
        "tags": list(TAGS),
    }
    row_format = _row_format(splits, history)
    section = hide(
        _template().render(
            splits=splits,
            total_rows=sum(map(len, splits.values())),
            student=_only({student for score in history.scores if (student := _student_label(score))}),
            scores=[_score_view(score) for score in history.scores],
            steps=[_step_view(split, record, len(splits) > 1) for split, record in history.steps],
            parallel=history.parallel,
            teachers=teachers,
            statistics=[row for split, part in splits.items() for row in _statistics(split, part)],
            metrics=[row for split, part in splits.items() for row in _metric_rows(split, part)],
            status_lines=[line for split, part in splits.items() for line in _status_lines(split, part)],
            columns=_columns(next(iter(splits.values())), history, row_format),
            license_text=None if license_id else license_text,
            figure_file=FIGURE_FILE if FIGURE_FILE in files else None,
            records_file=RECORDS_FILE,
            report_file=REPORT_FILE if REPORT_FILE in files else None,
            make_code=_make_code(history, _listed(header.get("source_datasets"))),
            train_code=_train_code(repo_id, splits, history, row_format),
            llamafactory=_llamafactory_entry(repo_id, splits, row_format),
        )
    )
    return CuratedCard(
        title=text(name),
        fields={key: value for key, value in fields.items() if value},
        given=hide(header),
        section=f"{_BEGIN}\n\n{section.strip()}\n\n{_END}",
        files=files,
    )


def _as_splits(dataset: Dataset | DatasetDict) -> Splits:
    if isinstance(dataset, DatasetDict):
        splits = {str(name): part for name, part in dataset.items()}
    elif isinstance(dataset, Dataset):
        splits = {str(dataset.split) if dataset.split is not None else "train": dataset}
    else:
        raise TypeError(f"expected a Dataset or DatasetDict, found {type(dataset).__name__}")
    if not any(map(len, splits.values())):
        raise ValueError("the dataset has no rows: there is nothing to publish")
    return splits


def _student_label(score: Scoring) -> str:
    name = score.student
    if score.hub_student:
        linked = _HUB_ID.fullmatch(score.hub_student) is not None
        label = f"[{code(name)}](https://huggingface.co/{name})" if linked else code(name)
        revision = score.identity.get("revision")
        return f"{label} at revision {code(revision)}" if revision else label
    content = next(iter(score.identity.values()), None)
    shown = code(name) if name else "a local model"
    return f"{shown} (content hash {code(content)})" if content else shown


def _score_view(score: Scoring) -> dict[str, Any]:
    settings = score.settings
    sentence = f"The student {_student_label(score)} read each trajectory once."
    if not score.in_data:
        sentence += " Its scores are not among the columns."
    elif str(settings.get("rank_clip")) != score.rank_clip:
        sentence += f" Scored with a rank clip of {code(settings.get('rank_clip'))}, then rescored."
    own = "the student's own"
    shown = {
        "rank clip": code(score.rank_clip),
        "longest sequence": f"{own} limit" if settings.get("max_length") is None else code(settings["max_length"]),
        "longer rows": code(settings.get("on_overflow")),
        "turns scored": code(settings.get("turns")),
        "chat template": own if settings.get("chat_template") is None else f"hash {code(settings['chat_template'])}",
        "student dtype": code(settings.get("dtype")),
        "logits": code(settings.get("logits_dtype")),
    }
    if shown["student dtype"] == code("auto"):
        shown["student dtype"] = f"{own} ({code('auto')})"
    if tokenizer := score.identity.get("tokenizer"):
        shown["tokenizer"] = code(tokenizer)
    optional = ("chat_template_kwargs", "attn_implementation", "model_kwargs", "trust_remote_code")
    shown |= {name.replace("_", " "): code(_json(settings[name])) for name in optional if settings.get(name)}
    versions = score.record.get("versions")
    listed = versions if isinstance(versions, Mapping) else package_versions()
    when = "scored with" if isinstance(versions, Mapping) else "published with"
    shown[when] = ", ".join(code(f"{name} {version}") for name, version in listed.items())
    shown["scores version"] = code(settings.get("scores_version"))
    shown["settings hash"] = code(score.settings_hash)
    return {"settings_hash": score.settings_hash, "sentence": sentence, "rows": list(shown.items())}


def _step_view(split: str | None, record: Mapping[str, Any], name_split: bool) -> dict[str, Any]:
    rule, report = record.get("rule"), record.get("report")
    if not isinstance(rule, Mapping) or not isinstance(report, Mapping):
        return {"sentence": f"{code(record.get('step'))}", "lines": [code(_json(record))]}
    sentence = f"{_rule_sentence(rule)} ({code(record.get('step'))}"
    sentence += f", split {code(split)})" if name_split else ")"
    lines = [f"rows: {_number(report.get('rows_in'))} in, {_number(report.get('rows_out'))} kept"]
    if report.get("groups_in") is not None:
        lines.append(f"groups: {_number(report['groups_in'])} in, {_number(report.get('groups_out'))} of them kept")
    conditions = {
        "correct": "only correct candidates, where a problem has one, by",
        "max_tokens": "at most so many scored tokens:",
        "min_tokens": "at least so many scored tokens:",
        "seed": "seed",
    }
    for name, meaning in conditions.items():
        if rule.get(name) is not None and (name != "seed" or _metric_of(rule) == RANDOM):
            lines.append(f"{meaning} {code(rule[name])}")
    flags = {
        "keep_unscored": "rows without a score could be kept",
        "keep_truncated": "rows scored on a part of their response could be kept",
        "allow_mixed_settings": "scores of several settings were compared",
    }
    lines += [meaning for name, meaning in flags.items() if rule.get(name)]
    for name, meaning in (("dropped", "not kept"), ("unscored", "came in without a score")):
        if isinstance(report.get(name), Mapping) and report[name]:
            lines.append(f"{meaning}: " + ", ".join(f"{_number(n)} {code(why)}" for why, n in report[name].items()))
    tokens = [report.get(f"mean_tokens_{when}") for when in ("before", "after")]
    ratios = [report.get(f"rsr_{when}") for when in ("before", "after")]
    lines.append(f"scored tokens, mean: {_number(tokens[0])} before, {_number(tokens[1])} after")
    lines.append(f"RSR: {_ratio(ratios[0])} before, {_ratio(ratios[1])} after")
    return {"sentence": sentence, "lines": lines}


def _metric_of(rule: Mapping[str, Any]) -> Any:
    """The column that a selection compared, ``by`` in records of earlier versions."""
    return rule.get("metric", rule.get("by"))


def _rule_sentence(rule: Mapping[str, Any]) -> str:
    which = f"the {'greatest' if rule.get('largest') else 'lowest'} {code(_metric_of(rule))}"
    if _metric_of(rule) == RANDOM:
        which = "a random draw"
    if (keys := rule.get("group_by")) is not None:
        names = ", ".join(map(code, keys if isinstance(keys, list) else [keys]))
        kept = "row" if rule.get("keep") == 1 else f"{_number(rule.get('keep'))} rows"
        return f"Of the rows with the same {names}, the {kept} with {which}"
    balanced = f", the same share of each {code(rule['balance_by'])}" if rule.get("balance_by") else ""
    if rule.get("fraction") is not None:
        return f"The share {code(rule['fraction'])} of the rows with {which}{balanced}"
    if rule.get("n") is not None:
        return f"The {_number(rule['n'])} rows with {which}{balanced.replace('share', 'number')}"
    return f"The rows with a ratio of at most {code(rule.get('max_rsr'))}"


@dataclass(frozen=True)
class _Teachers:
    split: str | None
    rows: list[dict[str, Any]]
    names: int
    left_out: int
    before: dict[str, float]
    after: dict[str, DatasetRSR | float]


def _teachers(splits: Splits, history: History) -> _Teachers | None:
    split, part = max(splits.items(), key=lambda item: len(item[1]))
    column = history.teacher_column
    if column not in part.column_names:
        return None
    categories = arrays.read_categories(part, column)
    counts = np.bincount(categories.codes + 1, minlength=len(categories.values) + 1)
    rows_of = {str(name): int(n) for name, n in zip([None, *categories.values], counts, strict=True) if n}
    reports = [
        record["report"]
        for where, record in history.steps
        if where == split and isinstance(record.get("report"), Mapping)
    ]
    before = _before(reports, "teacher_rsr_before", history.parallel)
    share_before = {} if history.parallel else _before(reports, "teacher_share_before", False)
    after: dict[str, DatasetRSR | float] = _before(reports[-1:], "teacher_rsr_after", False)
    prefixes = score_prefixes(part)
    prefix = next((p for p in (*history.prefixes, *prefixes) if p in prefixes), None)
    if prefix:
        try:
            after = {str(name): result for name, result in dataset_rsr(part, column, column_prefix=prefix).items()}
        except ValueError as error:
            logger.warning("the card has no ratio of each teacher: %s", error)
            after = {}
    names = sorted(dict.fromkeys([*rows_of, *share_before, *before]), key=lambda name: -rows_of.get(name, 0))
    shown = [
        {
            "teacher": name,
            "rows": rows_of.get(name, 0),
            "share": rows_of.get(name, 0) / len(part),
            "share_before": share_before.get(name),
            "before": before.get(name),
            "after": _plain_ratio(after.get(name)),
        }
        for name in names
    ]
    return _Teachers(
        split=split if len(splits) > 1 else None,
        rows=shown[:_MAX_TEACHERS],
        names=len(rows_of),
        left_out=max(0, len(shown) - _MAX_TEACHERS),
        before=before,
        after={name: value for name, value in after.items() if _plain_ratio(value) is not None},
    )


def _before(reports: Sequence[Mapping[str, Any]], name: str, parallel: bool) -> dict[str, Any]:
    """What reports say by teacher: the first of a chain; of parallel ones where only one knows the teacher."""
    said = [value for report in reports if isinstance(value := report.get(name), Mapping)]
    merged: dict[str, Any] = {}
    for values in said if parallel else said[:1]:
        for teacher, value in values.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            merged[str(teacher)] = float(value) if is_number and teacher not in merged else None
    return {teacher: value for teacher, value in merged.items() if value is not None}


def _plain_ratio(value: DatasetRSR | float | None) -> float | None:
    ratio = value.value if isinstance(value, DatasetRSR) else value
    return ratio if ratio is not None and math.isfinite(ratio) else None


def _figure(teachers: _Teachers) -> bytes | None:
    largest = [row["teacher"] for row in teachers.rows[:_MAX_FIGURE_TEACHERS]]
    before = {name: teachers.before[name] for name in largest if name in teachers.before}
    after = {name: teachers.after[name] for name in largest if name in teachers.after}
    if not before and not after:
        return None
    try:
        figure = plot_teachers(before, after) if before else plot_teachers(after)
    except ImportError:
        logger.warning("the card has no figure, which needs matplotlib: pip install 'rsr_datasets[report]'")
        return None
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()


def _statistics(split: str, part: Dataset) -> list[dict[str, Any]]:
    rows = []
    for prefix in score_prefixes(part):
        columns = ScoreColumns(prefix)
        scored = arrays.read_categories(part, columns.status).among(STATUSES_WITH_SCORE)
        values = {name: arrays.read_numbers(part, name)[scored] for name in list(columns.row_types)[:4]}
        ratios = values[columns.rsr][np.isfinite(values[columns.rsr])]
        tokens = values[columns.num_tokens]
        quantiles = np.quantile(ratios, [0.05, 0.5, 0.95]) if ratios.size else [None] * 3
        one_setting = len(arrays.read_categories(part, columns.settings).values) == 1
        ratio = ratio_of_means(values[columns.avg_rank], values[columns.avg_surprisal]) if one_setting else None
        rows.append(
            {
                "split": split,
                "prefix": prefix,
                "rows": len(part),
                "scored": int(scored.sum()),
                "tokens": int(np.nansum(tokens)),
                "mean_tokens": float(np.nanmean(tokens)) if tokens.size else None,
                "rsr": _plain_ratio(ratio),
                **dict(zip(("low", "median", "high"), quantiles, strict=True)),
            }
        )
    return rows


def _metric_rows(split: str, part: Dataset) -> list[dict[str, Any]]:
    rows = []
    for prefix in score_prefixes(part):
        columns = ScoreColumns(prefix)
        if len(arrays.read_categories(part, columns.settings).values) == 1:
            rows += [{"split": split, **row} for row in summarize_metrics(part, columns)]
    return rows


def _status_lines(split: str, part: Dataset) -> list[str]:
    lines = []
    for prefix in score_prefixes(part):
        status = arrays.read_categories(part, ScoreColumns(prefix).status)
        counts = {value: int((status.codes == i).sum()) for i, value in enumerate(status.values)}
        if set(counts) - {"scored"}:
            shown = ", ".join(f"{_number(count)} {code(value)}" for value, count in counts.items())
            lines.append(f"Statuses of {code(prefix)} in {code(split)}: {shown}.")
    return lines


def _columns(part: Dataset, history: History, row_format: RowFormat | None) -> list[tuple[str, str, str]]:
    meanings: dict[str, str] = {}
    for prefix in score_prefixes(part):
        meanings |= _score_meanings(ScoreColumns(prefix))
    read = set(row_format.names) if row_format else set()
    rows = []
    for name, feature in part.features.items():
        meaning = meanings.get(name)
        if meaning is None and name in read:
            meaning = "the trajectory, as the student read it"
        if meaning is None and name == history.teacher_column:
            meaning = "who wrote the trajectory"
        rows.append((name, _type_name(feature), meaning or "as in the source"))
    return rows


def _score_meanings(columns: ScoreColumns) -> dict[str, str]:
    return {
        columns.rsr: "Rank-Surprisal Ratio: sum of clipped ranks over sum of surprisals; lower is better",
        columns.avg_rank: "average rank of the scored tokens, each clipped",
        columns.avg_surprisal: "average surprisal, nats per token",
        columns.num_tokens: "tokens scored",
        columns.settings: "hash of the student and the settings, then the rank clip",
        columns.status: "`scored`, `truncated` (scored on what fitted), or why there is no score",
        columns.token_ids: "ids of the scored tokens",
        columns.token_ranks: "their ranks, exact",
        columns.token_surprisals: "their surprisals in nats",
        columns.token_entropies: "entropies of the student's distribution there, in nats",
    } | {
        columns.metric(name): f"{code(metric.formula)}; {metric.direction} is better"
        for name, metric in available_metrics().items()
        if name not in DEFAULT_METRICS
    }


def _type_name(feature: Any) -> str:
    return re.sub(r"Value\('(\w+)'\)", r"\1", str(feature))


def _row_format(splits: Splits, history: History) -> RowFormat | None:
    names = next(iter(splits.values())).column_names
    try:
        return find_format(names, history.input_columns)
    except ValueError:
        return None


def _license(splits: Splits) -> tuple[str | None, str | None]:
    texts = {part.info.license.strip() for part in splits.values() if part.info.license}
    found = _only(texts)
    if not found:
        return None, "; ".join(sorted(texts)) or None
    identifier = found.lower()
    if identifier in _LICENSES:
        return identifier, None
    logger.warning("license %.80r is no identifier of the Hub: it stands in the card's text, not in its header", found)
    return None, found


def _make_code(history: History, sources: Sequence[Any]) -> str:
    on_hub = [source for source in sources if _HUB_ID.fullmatch(str(source))]
    score = history.scores[0]
    steps = [record for _, record in history.steps if str(record.get("step")) in _SELECTIONS]
    names = sorted({"RSRScorer", *(record["step"] for record in steps)}, key=lambda name: (name.islower(), name))
    lines = ["from datasets import load_dataset", f"from rsr_datasets import {', '.join(names)}", ""]
    if len(on_hub) == 1:
        lines.append(f'dataset = load_dataset({python(on_hub[0])}, split="train")')
    else:
        lines.append("# the rows that were scored, in a file of yours")
        lines.append('dataset = load_dataset("json", data_files="trajectories.jsonl", split="train")')
    if score.settings.get("chat_template") is not None:
        wanted = ascii(str(score.settings["chat_template"]))[1:-1].replace("`", "")
        lines.append(f"chat_template = ...  # the one whose hash is {wanted}")
    lines += [f"add_rsr = RSRScorer({_call_arguments(_scorer_arguments(score))})"]
    lines.append("scored = dataset.map(add_rsr, batched=True, batch_size=1000)")
    chosen = "scored"
    for record in dict.fromkeys(json.dumps(record, sort_keys=True) for record in steps):
        step = json.loads(record)
        arguments = [f"{name}={python(value)}" for name, value in _selection_arguments(step).items()]
        lines.append(f"best = {step['step']}({_call_arguments([chosen, *arguments])})")
        chosen = "best" if not history.parallel else "scored"
    return "\n".join(lines)


def _scorer_arguments(score: Scoring) -> list[str]:
    settings = {name: value for name, value in score.settings.items() if name != "student"}
    settings["rank_clip"] = score.rank_clip
    arguments = {"revision": score.identity.get("revision"), **settings, **score.output}
    if isinstance(metrics := arguments.get("metrics"), Mapping):
        arguments["metrics"] = list(metrics)
    defaults = _defaults(RSRScorer)
    written = [python(score.student or "path/to/the/student")]
    for name, value in arguments.items():
        if name == "chat_template" and value is not None:
            written.append("chat_template=chat_template")
        elif name in defaults and name != "chat_template" and not _same(value, defaults[name]):
            shown = int(value) if name == "rank_clip" and str(value).isdigit() else value
            written.append(f"{name}={python(shown)}")
    return written


def _selection_arguments(record: Mapping[str, Any]) -> dict[str, Any]:
    rule = record.get("rule")
    defaults = _defaults(_SELECTIONS[record["step"]])
    if not isinstance(rule, Mapping):
        return {}
    prefix = rule.get("column_prefix")
    metric = _metric_of(rule)
    given = {name: value for name, value in rule.items() if name in defaults}
    given["metric"] = None if metric == prefix else metric
    if given.get("largest") is False:  # what it is for every column but those of metrics of which more is better
        metrics = available_metrics().items()
        higher = [ScoreColumns(str(prefix)).metric(name) for name, metric in metrics if metric.direction == "higher"]
        given["largest"] = False if metric in higher else None
    return {name: value for name, value in given.items() if not _same(value, defaults[name])}


_SELECTIONS: dict[str, Callable[..., Any]] = {
    "select_trajectories": select_trajectories,
    "select_subset": select_subset,
}


@cache
def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters}


def _same(value: Any, default: Any) -> bool:
    return str(value) == str(default) or (value in (None, {}, []) and default in (None, {}, []))


def _call_arguments(arguments: Sequence[str]) -> str:
    line = ", ".join(arguments)
    return line if len(line) <= 80 else "\n    " + ",\n    ".join(arguments) + ",\n"


def _train_code(repo_id: str, splits: Splits, history: History, row_format: RowFormat | None) -> str:
    split = "train" if "train" in splits else next(iter(splits))
    student = next((score.hub_student for score in history.scores if score.hub_student), "path/to/the/student")
    lines = [
        "from datasets import load_dataset",
        "from trl import SFTConfig, SFTTrainer",
        "",
        f"dataset = load_dataset({python(repo_id)}, split={python(split)})",
        *_training_columns(row_format),
        'args = SFTConfig(output_dir="trained")',
        f"trainer = SFTTrainer({python(student)}, args=args, train_dataset=dataset)",
        "trainer.train()",
    ]
    return "\n".join(lines)


def _training_columns(row_format: RowFormat | None) -> list[str]:
    """The one line that leaves what TRL trains on."""
    if row_format is None:
        return ["# keep a column messages, or prompt and completion, or text"]
    if row_format.kind == "alpaca":
        names = row_format.columns
        prompt = f"row[{python(names['instruction'])}]"
        if "input" in names:
            prompt += f' + "\\n" + row[{python(names["input"])}]'
        made = f'{{"prompt": {prompt}, "completion": row[{python(names["output"])}]}}'
        return [f"dataset = dataset.map(lambda row: {made}, remove_columns=dataset.column_names)"]
    untold = ("system", "chat_template_kwargs") if row_format.kind == "conversations" else ("chat_template_kwargs",)
    names = {standard: name for standard, name in row_format.columns.items() if standard not in untold}
    line = f"dataset = dataset.select_columns({python(list(names.values()))})"
    renamed = {name: standard for standard, name in names.items() if name != standard}
    return [line + (f".rename_columns({python(renamed)})" if renamed else "")]


def _llamafactory_entry(repo_id: str, splits: Splits, row_format: RowFormat | None) -> str | None:
    """An entry of LLaMA-Factory's ``dataset_info.json``; ``None`` for rows in a form that it does not read."""
    split = "train" if "train" in splits else next(iter(splits))
    if row_format is None:
        return None
    entry: dict[str, Any] = {"hf_hub_url": repo_id, "split": split}
    names = row_format.columns
    if row_format.kind in ("messages", "conversations"):
        entry["formatting"] = "sharegpt"
        read = {"messages": row_format.kind, "system": "system", "tools": "tools"}
    else:
        read = {
            "prompt_completion": {"prompt": "prompt", "response": "completion"},
            "alpaca": {"prompt": "instruction", "query": "input", "response": "output"},
            "text": {"prompt": "text"},
        }[row_format.kind]
        features = splits[split].features
        if any(getattr(features[names[name]], "dtype", None) != "string" for name in read.values() if name in names):
            return None
    entry["columns"] = {theirs: names[ours] for theirs, ours in read.items() if ours in names}
    if row_format.kind == "messages":
        entry["tags"] = _ROLE_TAGS
    return json.dumps({repo_id.split("/")[-1]: entry}, indent=2).replace("`", "\\u0060").replace("<", "\\u003c")


def _read_report(file: Path, secrets: Sequence[str]) -> bytes:
    if not file.is_file():
        raise FileNotFoundError(f"embed_report={str(file)!r}: no such file")
    content = file.read_bytes()
    if any(secret.encode() in content for secret in secrets):
        raise ValueError(f"embed_report={str(file)!r} holds your access token: it is not sent")
    return content


def _hider(secrets: Sequence[str]) -> Callable[[Any], Any]:
    """Takes out what must not be published: the caller's token, texts like one, and settings that are secrets."""

    def hide(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {
                key: _HIDDEN if isinstance(item, str) and _SECRETS.fullmatch(str(key)) else hide(item)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [hide(item) for item in value]
        if isinstance(value, str):
            for secret in secrets:
                value = value.replace(secret, _HIDDEN)
            return _TOKEN.sub(_HIDDEN, value)
        return value

    return hide


def _only(values: set[str]) -> str | None:
    return next(iter(values)) if len(values) == 1 else None


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def _rows_said(dataset_info: Any) -> int:
    """Rows of all configurations that a header speaks of."""
    splits = [
        split for info in _listed(dataset_info) if isinstance(info, Mapping) for split in info.get("splits") or []
    ]
    return sum(split.get("num_examples") or 0 for split in splits if isinstance(split, Mapping))


def _size_category(rows: int) -> str:
    return next((name for limit, name in (*_SIZES, *_MORE_SIZES) if rows < limit), "100B<n<1T")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "-" if value is None else text(value)
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"


def _ratio(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "-" if value is None else text(value)
    return f"{value:.3f}"


def _percent(value: Any) -> str:
    return "-" if value is None else f"{value:.1%}"


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    environment.filters |= {"text": text, "code": code, "number": _number, "ratio": _ratio, "percent": _percent}
    name = "dataset_card.md.jinja"
    try:
        source = (resources.files("rsr_datasets.cards") / name).read_text(encoding="utf-8")
    except ModuleNotFoundError:  # a clone that is not installed keeps them beside the package
        source = (Path(__file__).resolve().parents[2] / "cards" / name).read_text(encoding="utf-8")
    return environment.from_string(source)
