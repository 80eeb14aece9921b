"""Make it again: code that scores and selects the rows once more."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...curation.selections import select_subset, select_trajectories
from ...metrics import available_metrics
from ...scoring.scorer import RSRScorer
from ...tables.columns import ScoreColumns
from ..markdown import python
from ..provenance import Facts, Reading, Record, Scoring, as_mapping, read_rule

_SELECTIONS: dict[str, Callable[..., Any]] = {rule.__name__: rule for rule in (select_trajectories, select_subset)}


def make_again(facts: Facts) -> dict[str, Any]:
    """The calls: every student scores, then each split goes through its own selections."""
    records: dict[str, list[Record]] = {split: [] for split in facts.splits}
    for split, record in facts.steps:
        if str(record.get("step")) in _SELECTIONS:
            records[split].append(record)
    chains = {split: [_selection(record) for record in of_split] for split, of_split in records.items()}
    first, *others = records.values()
    # Equal records, counts among them: the rows were selected before they were split.
    is_one = not others or (bool(first) and all(other == first for other in others))
    is_alike = is_one or all(chain == chains[facts.main_split] for chain in chains.values())
    selections = []
    for split in [facts.main_split] if is_alike else chains:
        target, source = ("best", "scored") if is_alike else (f"best[{python(split)}]", f"scored[{python(split)}]")
        for step, *arguments in chains[split]:
            selections.append((target, _call(step, [source, *arguments])))
            source = source if facts.parallel else target
    by_prefix = {score.prefix: score for score in reversed(facts.scores)}
    return {
        "scorers": [
            (_scorer_calls(score, facts.readings), score.record["settings"].get("chat_template"))
            for score in reversed(by_prefix.values())
        ],
        "other_settings": len(by_prefix) < len(facts.scores),
        "selections": selections,
        "selectors": sorted({step for chain in chains.values() for step, *_ in chain}),
        "further_steps": sorted({str(record.get("step")) for _, record in facts.steps} - set(_SELECTIONS)),
        "files": None if is_one else {split: f"{split}.jsonl" for split in facts.splits},
        "by_split": not is_alike,
    }


def _scorer_calls(score: Scoring, readings: Sequence[Reading]) -> list[tuple[str, str]]:
    """The scorer, or one for each format with the condition of the rows that it reads."""
    if not readings:
        return [(_call("RSRScorer", _scorer_arguments(score, None)), "")]
    return [(_call("RSRScorer", _scorer_arguments(score, each.columns)), each.condition) for each in readings]


def _scorer_arguments(score: Scoring, columns: Mapping[str, str] | None) -> list[str]:
    output = {**as_mapping(score.record.get("output")), **({} if columns is None else {"columns": columns})}
    arguments = {"revision": score.identity.get("revision"), **score.record["settings"], **output}
    clip = int(score.rank_clip) if score.rank_clip.isdigit() else score.rank_clip
    arguments |= {"rank_clip": clip, "column_prefix": score.prefix}
    arguments.pop("student", None)
    if isinstance(metrics := arguments.get("metrics"), Mapping):
        arguments["metrics"] = list(metrics)
    template = [] if arguments.pop("chat_template", None) is None else ["chat_template=chat_template"]
    return [python(score.student or "path/to/the/student"), *template, *_changed(arguments, RSRScorer)]


def _selection(record: Record) -> list[str]:
    """The name of a selection, then its arguments."""
    rule = read_rule(record)
    columns = ScoreColumns(str(rule.get("column_prefix")))
    if rule.get("largest") is False:  # the default, except for columns of metrics of which more is better
        metrics = available_metrics().items()
        higher = [columns.metric(name) for name, metric in metrics if metric.direction == "higher"]
        rule["largest"] = False if rule.get("metric") in higher else None
    if rule.get("metric") == columns.rsr:
        rule["metric"] = None
    return [record["step"], *_changed(rule, _SELECTIONS[record["step"]])]


def _changed(arguments: Mapping[str, Any], function: Callable[..., Any]) -> list[str]:
    """The keyword arguments that a function has and that are not its defaults."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    empty: Any = (None, {}, [])
    return [
        f"{name}={python(value)}"
        for name, value in arguments.items()
        if name in defaults and str(value) != str(defaults[name]) and not (value in empty and defaults[name] in empty)
    ]


def _call(function: str, arguments: Sequence[str]) -> str:
    line = ", ".join(arguments)
    return f"{function}({line})" if len(line) <= 80 else f"{function}(\n    " + ",\n    ".join(arguments) + ",\n)"
