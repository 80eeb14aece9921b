"""The command line: ``rsr-datasets``, one subcommand a step, thin: the flags are the Python functions' arguments."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import typer
import yaml
from datasets import Dataset, DatasetDict

from ..curation.selection import SelectionReport, select_subset, select_trajectories
from ..hub.card import preview_card
from ..hub.push import HubError, push_curated
from ..report.page import build_report
from ..runs.estimate import RunEstimate, estimate_run
from ..runs.score import CONFIG_FILE, FolderInUseError, process_state, score_dataset
from ..scoring.scorer import RSRScorer
from ..tables.columns import STATUSES_WITH_SCORE
from ..teachers.ranking import TeacherRanking, rank_teachers
from .console import show_json, show_table
from .options import arguments_for, options_of, read_config, with_options
from .sources import check_output, open_dataset, save_dataset

# BadParameter < UsageError < ClickException: typer gives no public name to the last one, of click or its own copy.
_UsageMistake: type[Exception] = typer.BadParameter.__mro__[2]

_INTERRUPTED = 130  # what typer returns for Ctrl-C, and shells for a command that it ended

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

Names = Annotated[
    list[str], typer.Argument(metavar="DATASET...", help="A Hub id, a save_to_disk folder, or files and globs.")
]
Split = Annotated[str | None, typer.Option(help="Which split; all without it.")]
TeacherFromFile = Annotated[
    bool, typer.Option("--teacher-from-file", help="Add a column 'teacher': each row's is the name of its file.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Config = Annotated[
    Path | None,
    typer.Option(callback=read_config, is_eager=True, help="YAML file of options; flags on the command line win."),
]

SCORER_OPTIONS = options_of(RSRScorer, skip=["student"])
STUDENT_HELP = "A Hub id, a local folder, or a .gguf file."


@app.callback()
def rsr_datasets() -> None:
    """Score reasoning trajectories by how well they would teach a student model, and keep the best.

    The Rank-Surprisal Ratio (RSR, arXiv:2601.14249) of a trajectory under the student: lower is better.
    """


@app.command(
    epilog="Examples: rsr-datasets score 'traces/*.jsonl' --student Qwen/Qwen2.5-7B --output-dir runs/qwen. "
    "Several GPUs: accelerate launch -m rsr_datasets score ... "
    "What would it cost: rsr-datasets score 'traces/*.jsonl' --student Qwen/Qwen2.5-7B --output-dir x --dry-run"
)
@with_options(options_of(score_dataset, skip=["dataset", "scorer", "output_dir"]), SCORER_OPTIONS)
def score(
    dataset: Names,
    student: Annotated[str, typer.Option(help=STUDENT_HELP)],
    output_dir: Annotated[Path, typer.Option(help="Run folder; one of the same run is resumed.")],
    split: Split = None,
    teacher_from_file: TeacherFromFile = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost, and score nothing.")] = False,
    json: Json = False,
    config: Config = None,
    **options: Any,
) -> None:
    """Score a dataset, in checkpoints that a second call resumes; the result is in OUTPUT_DIR/scored."""
    given = {"dataset": dataset, "student": student, "split": split, "teacher_from_file": teacher_from_file}
    # A row that cannot be scored must not end the run here: its status is in the result, and in the exit code.
    scorer = RSRScorer(student, **arguments_for(RSRScorer, {**options, "strict": False}))
    source = open_dataset(dataset, split, teacher_from_file)
    if dry_run:
        _show_estimates(
            {name: estimate_run(part, scorer, options["unit_rows"]) for name, part in _splits(source).items()}, json
        )
        return
    scored = score_dataset(source, scorer, output_dir, **arguments_for(score_dataset, options))
    statuses = {name: _statuses(part, scorer) for name, part in _splits(scored).items()}
    unscored = sum(n for counts in statuses.values() for status, n in counts.items() if status != "scored")
    if process_state().is_main_process:
        (output_dir / CONFIG_FILE).write_text(
            yaml.safe_dump(_plain(given | options), sort_keys=True), encoding="utf-8"
        )
        folders = {name: output_dir / name / "scored" for name in statuses}
        if json:
            show_json({"splits": {n: {"path": str(folders[n]), "statuses": statuses[n]} for n in statuses}})
        else:
            for name, counts in statuses.items():
                shown = ", ".join(f"{count:,} {status}" for status, count in counts.items()) or "no rows"
                typer.echo(f"{folders[name]}: {shown}")
    if options["strict"] and unscored:
        raise typer.Exit(1)


@app.command(
    epilog="Examples: rsr-datasets teachers runs/qwen/scored --problem-column problem_id. "
    "Without scoring everything first: "
    "rsr-datasets teachers 'traces/*.jsonl' --student Qwen/Qwen2.5-7B --problem-column problem_id --adaptive"
)
@with_options(options_of(rank_teachers, skip=["dataset_or_datasets", "scorer"]), SCORER_OPTIONS)
def teachers(
    dataset: Names,
    split: Split = None,
    student: Annotated[str | None, typer.Option(help=f"Score the sample for this student. {STUDENT_HELP}")] = None,
    teacher_from_file: TeacherFromFile = False,
    json: Json = False,
    config: Config = None,
    **options: Any,
) -> None:
    """Rank teachers by their dataset-level RSR, the most suitable for the student first."""
    scorer = RSRScorer(student, **arguments_for(RSRScorer, options)) if student else None
    source = _one_split(open_dataset(dataset, split, teacher_from_file))
    ranking = rank_teachers(source, scorer=scorer, **arguments_for(rank_teachers, options))
    if json:
        show_json(ranking.to_dict())
    else:
        _show_ranking(ranking)


@app.command(
    epilog="Examples: rsr-datasets select runs/qwen/scored --group-by problem_id --output best. "
    "rsr-datasets select runs/qwen/scored --fraction 0.5 --balance-by teacher --output half.parquet"
)
@with_options(
    options_of(select_subset, skip=["dataset", "return_report"]),
    options_of(select_trajectories, skip=["dataset", "return_report", "group_by"]),
)
def select(
    dataset: Names,
    output: Annotated[Path, typer.Option(help="A folder (save_to_disk), or a .parquet or .jsonl file.")],
    group_by: Annotated[
        list[str] | None,
        typer.Option(help="Keep the best rows of each problem: the column, or columns, that tell problems apart."),
    ] = None,
    split: Split = None,
    overwrite: Overwrite = False,
    json: Json = False,
    config: Config = None,
    **options: Any,
) -> None:
    """Keep the best trajectories of each problem (--group-by), or the best of all (--fraction, --n or --max-rsr)."""
    check_output(output, overwrite)
    subset = {name: options.pop(name) for name in ("fraction", "n", "max_rsr", "balance_by")}
    given = [name for name, value in subset.items() if value is not None]
    if group_by and given:
        raise ValueError(
            f"--group-by and --{given[0].replace('_', '-')} exclude each other: select twice, one after the other"
        )
    if not group_by and not given:
        raise ValueError("give --group-by, or one of --fraction, --n and --max-rsr")
    source = open_dataset(dataset, split)
    if group_by:
        keys = group_by[0] if len(group_by) == 1 else group_by
        arguments = arguments_for(select_trajectories, options)
        kept, reports = select_trajectories(source, keys, return_report=True, **arguments)
    else:
        for name, default in (("keep", 1), ("correct", None), ("turns", "all"), ("columns", None)):
            if options[name] != default:
                raise ValueError(f"--{name} needs --group-by")
        kept, reports = select_subset(source, return_report=True, **subset, **arguments_for(select_subset, options))
    by_split: dict[str, SelectionReport] = reports if isinstance(reports, dict) else {"": reports}
    empty = [name for name, part in _splits(kept).items() if not len(part)]
    if not empty:
        save_dataset(kept, output, overwrite)
    if json and not empty:
        show_json({"output": str(output), "splits": {name: report.to_dict() for name, report in by_split.items()}})
        return
    for name, report in by_split.items():
        if name:
            typer.echo(f"split {name}")
        typer.echo(str(report))
    if empty:
        _fail(f"no row is kept{f' of split {empty[0]}' if empty[0] else ''}: nothing is written", 1)
    typer.echo(f"written to {output}")


@app.command(epilog="Example: rsr-datasets report runs/qwen/scored --selected best --output report.html")
@with_options(options_of(build_report, skip=["scored", "output", "selected"]))
def report(
    dataset: Names,
    output: Annotated[Path, typer.Option(help="The HTML file.")],
    selected: Annotated[list[str] | None, typer.Option(help="What was selected of it, to show beside it.")] = None,
    split: Split = None,
    overwrite: Overwrite = False,
    json: Json = False,
    config: Config = None,
    **options: Any,
) -> None:
    """Write a page that shows scored trajectories: teachers, distributions, and every token's rank and surprisal."""
    check_output(output, overwrite)
    chosen = _one_split(open_dataset(selected, split)) if selected else None
    source = _one_split(open_dataset(dataset, split))
    file = build_report(source, output, selected=chosen, **arguments_for(build_report, options))
    if json:
        show_json({"output": str(file), "bytes": file.stat().st_size})
    else:
        typer.echo(f"written to {file}")


@app.command(epilog='Example: rsr-datasets push best me/curated --private --card \'{"license": "mit"}\' --dry-run')
@with_options(options_of(push_curated, skip=["dataset", "repo_id", "scorer"]), SCORER_OPTIONS)
def push(
    dataset: Annotated[str, typer.Argument(help="A save_to_disk folder or a file, as select wrote it.")],
    repo_id: Annotated[str, typer.Argument(help="namespace/name on the Hub.")],
    student: Annotated[
        str | None, typer.Option(help="The student that gave the scores, where the data does not say it.")
    ] = None,
    split: Split = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the card, and send nothing.")] = False,
    json: Json = False,
    config: Config = None,
    **options: Any,
) -> None:
    """Push a curated dataset to the Hub, with a card that says how it was made."""
    scorer = RSRScorer(student, **arguments_for(RSRScorer, {**options, "revision": None})) if student else None
    source = open_dataset([dataset], split)
    if dry_run:
        card = str(preview_card(source, repo_id, scorer=scorer, **arguments_for(preview_card, options)))
        if json:
            show_json({"repo_id": repo_id, "card": card})
        else:
            rows = sum(len(part) for part in _splits(source).values())
            visibility = {None: "as the Hub has it by default", True: "private", False: "public"}[options["private"]]
            typer.echo(f"Would push {rows:,} rows to {repo_id}, {visibility}, with this card:", err=True)
            typer.echo(card)
        return
    published = push_curated(source, repo_id, scorer=scorer, **arguments_for(push_curated, options))
    if json:
        show_json(vars(published))
    else:
        typer.echo(str(published))


def main() -> None:
    """Runs the command line; a caller's mistake is one line on stderr and exit code 2."""
    try:
        code = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
    except _UsageMistake as error:
        _fail(cast(Any, error).format_message(), 2)
    except (typer.Abort, KeyboardInterrupt):
        _fail("stopped; what score has done stays done, and the same command goes on from there", _INTERRUPTED)
    except (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError, ImportError) as error:
        _fail(str(error), 2)
    except (ConnectionError, FolderInUseError, HubError) as error:
        _fail(str(error), 2)
    sys.exit(code or 0)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"rsr-datasets: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _splits(dataset: Dataset | DatasetDict) -> Mapping[str, Dataset]:
    return dataset if isinstance(dataset, DatasetDict) else {"": dataset}


def _one_split(dataset: Dataset | DatasetDict) -> Dataset:
    if isinstance(dataset, Dataset):
        return dataset
    if len(dataset) > 1:
        raise ValueError(f"the dataset has the splits {list(dataset)}: name one with --split")
    return next(iter(dataset.values()))


def _statuses(part: Dataset, scorer: RSRScorer) -> dict[str, int]:
    counts = part.data.column(scorer.score_columns.status).value_counts().to_pylist()
    return {c["values"]: c["counts"] for c in sorted(counts, key=lambda c: -c["counts"])}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a YAML file can hold, without what was not given, and without an access token."""
    given = {name: value for name, value in values.items() if value is not None}
    if "model_kwargs" in given:
        given["model_kwargs"] = {k: v for k, v in given["model_kwargs"].items() if k != "token"}
    return given


def _show_estimates(estimates: Mapping[str, RunEstimate], json: bool) -> None:
    if json:
        show_json({"splits": {name: estimate.to_dict() for name, estimate in estimates.items()}})
        return
    for name, estimate in estimates.items():
        unscored = {s: n for s, n in estimate.statuses.items() if s not in STATUSES_WITH_SCORE}
        rows = [
            ("rows", f"{estimate.rows:,}"),
            ("units", f"{estimate.units:,}"),
            ("tokens, about", f"{estimate.tokens:,}"),
            ("parameters of the student", f"{estimate.parameters:,}"),
            ("device memory, about", f"{estimate.memory_gib:.2f} GiB"),
            ("one process here, about", f"{60 * estimate.hours:,.1f} min"),
            *((f"of {sum(estimate.statuses.values())} rows tried: {s}", f"{n:,}") for s, n in unscored.items()),
        ]
        show_table(("estimate", name or "all"), rows)


def _show_ranking(ranking: TeacherRanking) -> None:
    rows = []
    for place, ranked in enumerate(ranking.teachers):
        found = ranked.score
        sure = f"{ranking.order_confidence[place]:.1%}" if place < len(ranking.order_confidence) else ""
        interval = "" if math.isnan(found.low) else f"{found.low:.3f} to {found.high:.3f}"
        name = f"{ranked.teacher} (dropped early)" if ranked.dropped else ranked.teacher
        rows.append(
            (name, f"{found.rsr:.3f}", interval, f"{found.num_trajectories:,}", f"{found.num_unscored:,}", sure)
        )
    show_table(
        (
            "teacher",
            ranking.teachers[0].score.label,
            f"{ranking.teachers[0].score.confidence:.0%} interval",
            "scored",
            "unscored",
            "before the next",
        ),
        rows,
    )
    typer.echo(f"{ranking.trajectories_scored:,} trajectories and {ranking.tokens_scored:,} tokens were looked at")
    if ranking.stopped:
        typer.echo(f"stopped: {ranking.stopped}")
