"""The command line: ``rsr-datasets``, one subcommand a step, thin: the flags are the Python functions' arguments."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

import rsr_datasets as rsr  # public functions are imported at their first use

from .console import fail, show_json, show_table
from .options import arguments_for, options_of, read_config, with_options
from .sources import check_output, find_files, one_split, open_dataset, save_dataset, splits_of

if TYPE_CHECKING:
    from ..runs.estimate import RunEstimate

_INTERRUPTED = 130  # what typer returns for Ctrl-C, and shells for a command that it ended

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def _check_names(names: list[str] | None) -> list[str] | None:
    if names:
        find_files(names)
    return names


Names = Annotated[
    list[str],
    typer.Argument(
        metavar="DATASET...", help="A Hub id, a save_to_disk folder, or files and globs.", callback=_check_names
    ),
]
Split = Annotated[str | None, typer.Option(help="Which split; all without it.")]
ConfigName = Annotated[str | None, typer.Option(help="Which configuration of a Hub dataset that has several.")]
TeacherFromFile = Annotated[
    bool, typer.Option("--teacher-from-file", help="Add a column 'teacher': each row's is the name of its file.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Config = Annotated[
    Path | None,
    typer.Option(callback=read_config, is_eager=True, help="YAML file of options; flags on the command line win."),
]

SCORER_OPTIONS = options_of("rsr_datasets.RSRScorer", skip=["student"])
STUDENT_HELP = "A Hub id, a local folder, or a .gguf file."


@app.callback()
def about() -> None:
    """Score reasoning trajectories by how well they would teach a student model, and keep the best.

    The Rank-Surprisal Ratio (RSR, arXiv:2601.14249) of a trajectory under the student: lower is better.
    """


@app.command(
    epilog="Examples: rsr-datasets score 'traces/*.jsonl' --student Qwen/Qwen2.5-7B --output-dir runs/qwen. "
    "Several GPUs: accelerate launch -m rsr_datasets score ... "
    "What would it cost: rsr-datasets score 'traces/*.jsonl' --student Qwen/Qwen2.5-7B --output-dir x --dry-run"
)
@with_options(options_of("rsr_datasets.score_dataset"), SCORER_OPTIONS)
def score(
    dataset: Names,
    student: Annotated[str, typer.Option(help=STUDENT_HELP)],
    output_dir: Annotated[Path, typer.Option(help="Run folder; one of the same run is resumed.")],
    split: Split = None,
    config_name: ConfigName = None,
    teacher_from_file: TeacherFromFile = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost, and score nothing.")] = False,
    json: Json = False,
    config: Config = None,
    **options: Any,
) -> None:
    """Score a dataset, in checkpoints that a second call resumes; the result is in OUTPUT_DIR/scored."""
    from ..runs.estimate import estimate_run
    from ..runs.folder import CONFIG_FILE
    from ..runs.score import process_state
    from ..tables.columns import STATUSES_WITH_SCORE

    # A row that cannot be scored must not end the run here: its status is in the result, and in the exit code.
    scorer = rsr.RSRScorer(student, **arguments_for(rsr.RSRScorer, {**options, "strict": False}))
    source = open_dataset(dataset, split, config_name, teacher_from_file)
    if dry_run:
        parts = splits_of(source).items()
        estimates = {name: estimate_run(part, scorer, options["unit_rows"]) for name, part in parts}
        if json:
            show_json({"splits": {name: estimate.to_dict() for name, estimate in estimates.items()}})
        else:
            for name, estimate in estimates.items():
                _show_estimate(name, estimate)
        return
    scored = rsr.score_dataset(source, scorer, output_dir, **arguments_for(rsr.score_dataset, options))
    statuses = {}
    for name, part in splits_of(scored).items():
        counts = part.data.column(scorer.score_columns.status).value_counts().to_pylist()
        statuses[name] = {c["values"]: c["counts"] for c in sorted(counts, key=lambda c: -c["counts"])}
    if process_state().is_main_process:
        given = {"dataset": dataset, "student": student, "split": split, "config_name": config_name}
        given |= {"teacher_from_file": teacher_from_file, **options}
        (output_dir / CONFIG_FILE).write_text(yaml.safe_dump(_plain(given), sort_keys=True), encoding="utf-8")
        folders = {name: output_dir / name / "scored" for name in statuses}
        if json:
            show_json({"splits": {n: {"path": str(folders[n]), "statuses": statuses[n]} for n in statuses}})
        else:
            for name, counts in statuses.items():
                shown = ", ".join(f"{count:,} {status}" for status, count in counts.items()) or "no rows"
                typer.echo(f"{folders[name]}: {shown}")
    if options["strict"] and any(counts.keys() - {*STATUSES_WITH_SCORE} for counts in statuses.values()):
        raise typer.Exit(1)


@app.command(
    epilog="Examples: rsr-datasets teachers runs/qwen/scored --problem-column problem_id. "
    "Without scoring everything first: "
    "rsr-datasets teachers 'traces/*.jsonl' --student Qwen/Qwen2.5-7B --problem-column problem_id --adaptive"
)
@with_options(options_of("rsr_datasets.rank_teachers", skip=["dataset_or_datasets"]), SCORER_OPTIONS)
def teachers(
    dataset: Names,
    split: Split = None,
    config_name: ConfigName = None,
    student: Annotated[str | None, typer.Option(help=f"Score the sample for this student. {STUDENT_HELP}")] = None,
    teacher_from_file: TeacherFromFile = False,
    json: Json = False,
    config: Config = None,
    **options: Any,
) -> None:
    """Rank teachers by their dataset-level RSR, the most suitable for the student first."""
    scorer = rsr.RSRScorer(student, **arguments_for(rsr.RSRScorer, options)) if student else None
    source = one_split(open_dataset(dataset, split, config_name, teacher_from_file))
    ranking = rsr.rank_teachers(source, scorer=scorer, **arguments_for(rsr.rank_teachers, options))
    if json:
        show_json(ranking.to_dict())
        return
    first = ranking.teachers[0].score
    lines = [("teacher", first.label, f"{first.confidence:.0%} interval", "scored", "unscored", "before the next")]
    for ranked, confidence in itertools.zip_longest(ranking.teachers, ranking.order_confidence):
        found = ranked.score
        name = f"{ranked.teacher} (dropped early)" if ranked.dropped else ranked.teacher
        interval = "" if math.isnan(found.low) else f"{found.low:.3f} to {found.high:.3f}"
        counts = (f"{found.num_trajectories:,}", f"{found.num_unscored:,}")
        lines.append(
            (name, f"{found.value:.3f}", interval, *counts, "" if confidence is None else f"{confidence:.1%}")
        )
    show_table(lines)
    typer.echo(f"{ranking.trajectories_scored:,} trajectories and {ranking.tokens_scored:,} tokens were looked at")
    if ranking.stopped:
        typer.echo(f"stopped: {ranking.stopped}")


@app.command(
    epilog="Examples: rsr-datasets select runs/qwen/scored --group-by problem_id --output best. "
    "rsr-datasets select runs/qwen/scored --fraction 0.5 --balance-by teacher --output half.parquet"
)
@with_options(
    options_of("rsr_datasets.select_subset", skip=["return_report"]),
    options_of("rsr_datasets.select_trajectories", skip=["return_report"]),
)
def select(
    dataset: Names,
    output: Annotated[Path, typer.Option(help="A folder (save_to_disk), or a .parquet or .jsonl file.")],
    group_by: Annotated[
        list[str] | None,
        typer.Option(help="Keep the best rows of each problem: the column, or columns, that tell problems apart."),
    ] = None,
    split: Split = None,
    config_name: ConfigName = None,
    overwrite: Overwrite = False,
    json: Json = False,
    config: Config = None,
    **options: Any,
) -> None:
    """Keep the best trajectories of each problem (--group-by), or the best of all (--fraction, --n or --max-rsr)."""
    check_output(output, overwrite)
    given = [name for name in ("fraction", "n", "max_rsr", "balance_by") if options[name] is not None]
    if group_by and given:
        flag = given[0].replace("_", "-")
        raise ValueError(f"--group-by and --{flag} exclude each other: select twice, one after the other")
    if not group_by and not given:
        raise ValueError("give --group-by, or one of --fraction, --n and --max-rsr")
    for name, default in (("keep", 1), ("correct", None), ("turns", "all"), ("columns", None)):
        if not group_by and options[name] != default:
            raise ValueError(f"--{name} needs --group-by")
    source = open_dataset(dataset, split, config_name)
    function: Callable[..., Any] = rsr.select_subset
    if group_by:
        function, options["group_by"] = rsr.select_trajectories, group_by[0] if len(group_by) == 1 else group_by
    kept, reports = function(source, return_report=True, **arguments_for(function, options))
    by_split: dict[str, rsr.SelectionReport] = reports if isinstance(reports, dict) else {"": reports}
    empty = [name for name, part in splits_of(kept).items() if not len(part)]
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
        fail(f"no row is kept{f' of split {empty[0]}' if empty[0] else ''}: nothing is written", 1)
    typer.echo(f"written to {output}")


@app.command(epilog="Example: rsr-datasets report runs/qwen/scored --selected best --output report.html")
@with_options(options_of("rsr_datasets.report.build_report"))
def report(
    dataset: Names,
    output: Annotated[Path, typer.Option(help="The HTML file.")],
    selected: Annotated[
        list[str] | None, typer.Option(help="What was selected of it, to show beside it.", callback=_check_names)
    ] = None,
    split: Split = None,
    config_name: ConfigName = None,
    overwrite: Overwrite = False,
    json: Json = False,
    config: Config = None,
    **options: Any,
) -> None:
    """Write a page that shows scored trajectories: teachers, distributions, and every token's rank and surprisal."""
    check_output(output, overwrite)
    from ..report import build_report

    chosen = one_split(open_dataset(selected, split)) if selected else None
    source = one_split(open_dataset(dataset, split, config_name))
    file = build_report(source, output, selected=chosen, **arguments_for(build_report, options))
    if json:
        show_json({"output": str(file), "bytes": file.stat().st_size})
    else:
        typer.echo(f"written to {file}")


@app.command(epilog='Example: rsr-datasets push best me/curated --private --card \'{"license": "mit"}\' --dry-run')
@with_options(options_of("rsr_datasets.push_curated"), SCORER_OPTIONS)
def push(
    dataset: Annotated[str, typer.Argument(help="A save_to_disk folder or a file, as select wrote it.")],
    repo_id: Annotated[str, typer.Argument(help="namespace/name on the Hub.")],
    student: Annotated[
        str | None, typer.Option(help="The student that gave the scores, where the data does not say it.")
    ] = None,
    split: Split = None,
    config_name: ConfigName = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the card, and send nothing.")] = False,
    json: Json = False,
    config: Config = None,
    **options: Any,
) -> None:
    """Push a curated dataset to the Hub, with a card that says how it was made."""
    find_files([dataset])
    scorer_options = arguments_for(rsr.RSRScorer, {**options, "revision": None})
    scorer = rsr.RSRScorer(student, **scorer_options) if student else None
    source = open_dataset([dataset], split, config_name)
    if not dry_run:
        published = rsr.push_curated(source, repo_id, scorer=scorer, **arguments_for(rsr.push_curated, options))
        show_json(vars(published)) if json else typer.echo(str(published))
        return
    card = str(rsr.preview_card(source, repo_id, scorer=scorer, **arguments_for(rsr.preview_card, options)))
    if json:
        show_json({"repo_id": repo_id, "card": card})
        return
    rows = sum(len(part) for part in splits_of(source).values())
    visibility = {None: "as the Hub has it by default", True: "private", False: "public"}[options["private"]]
    typer.echo(f"Would push {rows:,} rows to {repo_id}, {visibility}, with this card:", err=True)
    typer.echo(card)


def main() -> None:
    """Runs the command line; a caller's mistake is one line on stderr and exit code 2."""
    try:
        code: Any = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        code = _INTERRUPTED
    except (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError, ImportError, ConnectionError) as error:
        fail(str(error), 2)
    except Exception as error:
        fail(_refusal(error), 2)
    if code == _INTERRUPTED:
        fail("stopped; what score has done stays done, and the same command goes on from there", _INTERRUPTED)
    sys.exit(code or 0)


def _refusal(error: Exception) -> str:
    """What to say of a usage mistake, a folder in use, or a Hub that refuses; any other error is raised again."""
    if hasattr(error, "format_message"):  # all usage mistakes have this; typer has no public base class for them
        return str(error.format_message())
    from ..runs.workers import FolderInUseError

    if isinstance(error, rsr.HubError | FolderInUseError):
        return str(error)
    raise error


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a YAML file can hold, without what was not given, and without an access token."""
    given = {name: value for name, value in values.items() if value is not None}
    if "model_kwargs" in given:
        given["model_kwargs"] = {k: v for k, v in given["model_kwargs"].items() if k != "token"}
    return given


def _show_estimate(name: str, estimate: RunEstimate) -> None:
    from ..tables.columns import STATUSES_WITH_SCORE

    tried = sum(estimate.statuses.values())
    unscored = {s: n for s, n in estimate.statuses.items() if s not in STATUSES_WITH_SCORE}
    lines = {
        "estimate": name or "all",
        "rows": f"{estimate.rows:,}",
        "units": f"{estimate.units:,}",
        "tokens, about": f"{estimate.tokens:,}",
        "parameters of the student": f"{estimate.parameters:,}",
        "device memory, about": f"{estimate.memory_gib:.2f} GiB",
        "one process here, about": f"{60 * estimate.hours:,.1f} min",
        **{f"of {tried} rows tried: {status}": f"{count:,}" for status, count in unscored.items()},
    }
    show_table([*lines.items()])
