"""The command line: ``rsr-datasets``, one subcommand a step, thin: the flags are the Python functions' arguments."""

import inspect
import json
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import yaml

import rsr_datasets as rsr  # public functions are imported at their first use

from .help import GroupedCommand, examples
from .options import call, options_of, read_config, with_options
from .sources import check_output, find_files, folder_of, one_split, open_dataset, save_dataset, splits_of
from .texts import arms_table, counted, estimate_text, next_steps
from .wording import FlagsFormatter, in_flags, one_line

_MISTAKES = (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError, ImportError, ConnectionError)
_INTERRUPTED = 130  # what typer returns for Ctrl-C, and shells for a command that it ended

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def _check_names(names: list[str] | None) -> list[str] | None:
    if names:
        find_files(names)
    return names


_NAMES_HELP = "Hub ids, save_to_disk folders, files and globs."
Names = Annotated[list[str], typer.Argument(metavar="DATASET...", help=_NAMES_HELP, callback=_check_names)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Config = Annotated[
    Path | None,
    typer.Option(callback=read_config, is_eager=True, help="YAML file of options; flags on the command line win."),
]

SOURCE_OPTIONS = options_of("rsr_datasets.cli.sources.open_dataset", skip=["names"])
_BASE_URL = typer.Option(help="Where the server is, for --engine server; /v1 is its end. The key: VLLM_API_KEY.")
_URL_OPTION = inspect.Parameter(
    "base_url", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, _BASE_URL]
)
SCORER_OPTIONS = [*options_of("rsr_datasets.RSRScorer", skip=["student"]), _URL_OPTION]
STUDENT_HELP = "A Hub id, a local folder, or a .gguf file."
GROUP_BY_HELP = "Keep the best rows of each problem: the columns that tell problems apart."


@app.callback()
def about() -> None:
    """Score reasoning trajectories by how well they would teach a student model, and keep the best.

    The Rank-Surprisal Ratio (RSR, arXiv:2601.14249) of a trajectory under the student: lower is better.
    """


@app.command(
    cls=GroupedCommand,
    epilog=examples(
        "rsr-datasets score 'traces/*.jsonl' --student Qwen/Qwen2.5-7B --output-dir runs/qwen",
        "rsr-datasets score 'traces/*.jsonl' --student Qwen/Qwen2.5-7B --output-dir runs/qwen --dry-run",
        "accelerate launch -m rsr_datasets score ...",
    ),
)
@with_options(SOURCE_OPTIONS, options_of("rsr_datasets.score_dataset"), SCORER_OPTIONS)
def score(
    dataset: Names,
    student: Annotated[str, typer.Option(help=STUDENT_HELP)],
    output_dir: Annotated[Path, typer.Option(help="Run folder; one of the same run is resumed.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost, and score nothing.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 where a row has no score.")] = False,
    as_json: Json = False,
    config: Config = None,
    **options: Any,
) -> None:
    """Score a dataset, in checkpoints that a second call resumes; the result is in OUTPUT_DIR/scored."""
    from ..runs.same_run import refuse_other_arguments

    refuse_other_arguments(output_dir, options)  # before anything that takes long
    from ..runs.estimate import estimate_run
    from ..runs.folder import CONFIG_FILE
    from ..runs.score import process_state
    from ..scoring.settings import SECRETS
    from ..tables.arrays import read_categories
    from ..tables.columns import STATUSES_WITH_SCORE, STATUSES_WITHOUT_SCORE

    # A row that cannot be scored must not end the run here: its status is in the result, and in the exit code.
    scorer = _scorer(student, options, dataset, strict=False)
    source = call(open_dataset, options, dataset, scorer=scorer)
    if dry_run:
        parts = splits_of(source).items()
        unit_rows = options["unit_rows"]
        estimates = {name: estimate_run(part, scorer, output_dir / name, unit_rows) for name, part in parts}
        _show({"splits": estimates}, "\n".join(estimate_text(name, e) for name, e in estimates.items()), as_json)
        return
    from ..engines.transformers.memory import keep_freed_memory

    keep_freed_memory()
    scored = call(rsr.score_dataset, options, source, scorer, output_dir)
    found: dict[str, dict[str, Any]] = {}
    for name, part in splits_of(scored).items():
        statuses = dict(Counter(read_categories(part, scorer.score_columns.status).counts()).most_common())
        found[name] = {"path": str(output_dir / name / "scored"), "statuses": statuses}
    counts = sum((Counter(split["statuses"]) for split in found.values()), Counter[str]())
    has_scores, is_main = bool(counts.keys() & {*STATUSES_WITH_SCORE}), process_state().is_main_process
    if is_main:
        told = {k: v for k, v in (options["model_kwargs"] or {}).items() if k not in SECRETS} or None
        arguments = {"dataset": dataset, "student": student, "strict": strict, **options, "model_kwargs": told}
        content = yaml.safe_dump({name: value for name, value in arguments.items() if value is not None})
        (output_dir / CONFIG_FILE).write_text(content, encoding="utf-8")
        lines = [f"{split['path']}: {counted(split['statuses']) or 'no rows'}" for split in found.values()]
        _show({"splits": found}, "\n".join(lines), as_json)
        if not has_scores:
            _fail(f"no row has a score: {_reasons(source, scored, scorer, counts) or 'there are no rows'}", 1)
        if not as_json:
            columns = {name: part.column_names for name, part in splits_of(scored).items()}
            typer.echo(next_steps(output_dir, student, columns, options), err=True)
    if not has_scores or (strict and counts.keys() & {*STATUSES_WITHOUT_SCORE}):
        raise typer.Exit(1)


@app.command(
    cls=GroupedCommand,
    epilog=examples(
        "rsr-datasets teachers runs/qwen --problem-column problem_id",
        "rsr-datasets teachers 'traces/*.jsonl' --student Qwen/Qwen2.5-7B --problem-column problem_id --adaptive",
    ),
)
@with_options(SOURCE_OPTIONS, options_of("rsr_datasets.rank_teachers", skip=["dataset_or_datasets"]), SCORER_OPTIONS)
def teachers(
    dataset: Names,
    student: Annotated[str | None, typer.Option(help=f"Score the sample for this student. {STUDENT_HELP}")] = None,
    as_json: Json = False,
    config: Config = None,
    **options: Any,
) -> None:
    """Rank teachers by their dataset-level RSR, the most suitable for the student first."""
    scorer = _scorer(student, options, dataset) if student else None
    source = one_split(call(open_dataset, options, dataset, scorer=scorer))
    ranking = call(rsr.rank_teachers, options, source, scorer=scorer)
    _show(ranking.to_dict(), str(ranking), as_json)


@app.command(
    cls=GroupedCommand,
    epilog=examples("rsr-datasets diagnose runs/qwen --group-by problem_id --correct is_correct"),
)
@with_options(SOURCE_OPTIONS, options_of("rsr_datasets.diagnose", skip=["scored"]))
def diagnose(dataset: Names, as_json: Json = False, config: Config = None, **options: Any) -> None:
    """Say what the scores go along with: length, surprisal, correctness, teachers, and rows without a score."""
    found = call(rsr.diagnose, options, one_split(call(open_dataset, options, dataset)))
    _show(found.to_dict(), str(found), as_json)


@app.command(
    cls=GroupedCommand,
    epilog=examples(
        "rsr-datasets select runs/qwen --group-by problem_id --output best",
        "rsr-datasets select runs/qwen --group-by problem_id --output best --controls arms --match tokens",
        "rsr-datasets select runs/qwen --fraction 0.5 --balance-by teacher --output half.parquet",
        "rsr-datasets select 'traces/*.jsonl' --student Qwen/Qwen2.5-7B --prune --group-by problem_id --output best",
    ),
)
@with_options(
    SOURCE_OPTIONS,
    options_of("rsr_datasets.select_subset", skip=["return_report"]),
    options_of("rsr_datasets.select_trajectories", skip=["return_report"]),
    options_of("rsr_datasets.control_subsets", skip=["scored", "selected", "return_report"]),
    SCORER_OPTIONS,
)
def select(
    dataset: Names,
    output: Annotated[Path, typer.Option(help="A folder (save_to_disk), or a .parquet or .jsonl file.")],
    group_by: Annotated[list[str] | None, typer.Option(help=GROUP_BY_HELP)] = None,
    controls: Annotated[
        Path | None, typer.Option(help="Folder for control arms: as many rows of each problem.")
    ] = None,
    student: Annotated[str | None, typer.Option(help=f"With --prune: who reads the rows. {STUDENT_HELP}")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    config: Config = None,
    **options: Any,
) -> None:
    """Keep the best trajectories of each problem (--group-by), or the best of all (--fraction, --n or --max-rsr)."""
    for place in (output, *([controls] if controls else [])):
        check_output(place, overwrite)
    given = [name for name in ("fraction", "n", "max_rsr", "balance_by") if options[name] is not None]
    if group_by and given:
        flag = given[0].replace("_", "-")
        raise ValueError(f"--group-by and --{flag} exclude each other: select twice, one after the other")
    if not group_by and not given:
        raise ValueError("give --group-by, or one of --fraction, --n and --max-rsr")
    for name, default in (("keep", 1), ("correct", None), ("turns", "all"), ("columns", None), ("prune", False)):
        if not group_by and options[name] != default:
            raise ValueError(f"--{name} needs --group-by")
    if controls and controls.resolve() == output.resolve():
        raise ValueError(f"--output and --controls are both {output}: give two names")
    if controls and not group_by:
        raise ValueError("--controls needs --group-by: arms have as many rows of each problem")
    if options["match"] and not controls:
        raise ValueError("--match needs --controls")
    if (student is not None) != options["prune"]:
        raise ValueError("--student and --prune go together: rows that are scored need neither")
    if controls and student:
        raise ValueError("--controls and --prune exclude each other: arms are drawn from rows with scores")
    scorer = _scorer(student, options, dataset) if student else None
    source = call(open_dataset, options, dataset, scorer=scorer)
    if controls:
        source = one_split(source)
    if group_by:
        keys = group_by[0] if len(group_by) == 1 else group_by
        kept, reports = call(rsr.select_trajectories, options, source, keys, scorer=scorer, return_report=True)
    else:
        kept, reports = call(rsr.select_subset, options, source, return_report=True)
    by_split = reports if isinstance(reports, dict) else {"": reports}
    text = "\n".join(f"split {name}\n{report}" if name else str(report) for name, report in by_split.items())
    if empty := [name for name, part in splits_of(kept).items() if not len(part)]:
        _show({}, text)
        _fail(f"no row is kept{f' of split {empty[0]}' if empty[0] else ''}: nothing is written", 1)
    if scorer is not None:
        from ..runs.score import process_state

        if not process_state().is_main_process:
            return
    arms, accounts = {}, {}
    if controls:
        arms, accounts = call(rsr.control_subsets, options, source, kept, keys, return_report=True)
        save_dataset(arms, controls, overwrite)
    save_dataset(kept, output, overwrite)
    content = {"output": str(output), "splits": {name: report.to_dict() for name, report in by_split.items()}}
    text += f"\nwritten to {output}"
    if controls:
        content["controls"] = {"output": str(controls), "arms": {arm: vars(each) for arm, each in accounts.items()}}
        text += f"\n{arms_table(accounts)}\nwritten to {controls}"  # what is not matched is warned of
    _show(content, text, as_json)


@app.command(
    cls=GroupedCommand,
    epilog=examples("rsr-datasets report runs/qwen --selected best --output report.html"),
)
@with_options(SOURCE_OPTIONS, options_of("rsr_datasets.report.build_report"))
def report(
    dataset: Names,
    output: Annotated[Path, typer.Option(help="The HTML file.")],
    selected: Annotated[
        list[str] | None,
        typer.Option(help="The selected rows, to show beside all.", callback=_check_names),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    config: Config = None,
    **options: Any,
) -> None:
    """Write a page that shows scored trajectories: teachers, distributions, and every token's rank and surprisal."""
    check_output(output, overwrite)
    from ..report import build_report

    chosen = one_split(open_dataset(selected, options["split"])) if selected else None
    source = one_split(call(open_dataset, options, dataset))
    file = call(build_report, options, source, output, selected=chosen)
    _show({"output": str(file), "bytes": file.stat().st_size}, f"written to {file}", as_json)


@app.command(
    cls=GroupedCommand,
    epilog=examples("""rsr-datasets push best me/curated --private --card '{"license": "mit"}' --dry-run"""),
)
@with_options(SOURCE_OPTIONS, options_of("rsr_datasets.push_curated"), SCORER_OPTIONS)
def push(
    dataset: Annotated[str, typer.Argument(help="A save_to_disk folder or a file, as select wrote it.")],
    repo_id: Annotated[str, typer.Argument(help="namespace/name on the Hub; a name alone goes to the token's owner.")],
    student: Annotated[str | None, typer.Option(help="Who gave the scores, where the data does not say it.")] = None,
    controls: Annotated[
        str | None,
        typer.Option(help="The folder of control arms, as select wrote it: each becomes a configuration."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the card, and send nothing.")] = False,
    as_json: Json = False,
    config: Config = None,
    **options: Any,
) -> None:
    """Push a curated dataset to the Hub, with a card that says how it was made."""
    find_files([dataset])
    scorer = _scorer(student, options, [dataset], revision=None) if student else None
    arms = splits_of(open_dataset([controls])) if controls else None
    source = call(open_dataset, options, [dataset])
    if not dry_run:
        published = call(rsr.push_curated, options, source, repo_id, scorer=scorer, controls=arms)
        _show(vars(published), str(published), as_json)
        return
    card = str(call(rsr.preview_card, options, source, repo_id, scorer=scorer, controls=arms))
    if not as_json:
        rows = sum(len(part) for part in splits_of(source).values())
        visibility = {None: "as the Hub has it by default", True: "private", False: "public"}[options["private"]]
        place = repo_id if "/" in repo_id else f"{repo_id} of the token's owner"
        typer.echo(f"Would push {rows:,} rows to {place}, {visibility}, with this card:", err=True)
    _show({"repo_id": repo_id, "card": card}, card, as_json)


def main() -> None:
    """Runs the command line; a caller's mistake is one line on stderr and exit code 2."""
    os.environ.setdefault("TQDM_DELAY", "2")  # seconds: no bars for what takes less
    logging.getLogger("datasets.arrow_dataset").addFilter(lambda record: "num_proc from 1" not in record.getMessage())
    logger = logging.getLogger(rsr.__name__)
    logger.addHandler(handler := logging.StreamHandler())
    handler.setFormatter(FlagsFormatter(_flags()))
    if os.environ.get("RANK", "0") == "0":
        logging.getLogger(f"{rsr.__name__}.engines").setLevel(logging.INFO)  # loading a student is said
    try:
        code: Any = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        code = _INTERRUPTED
    except Exception as error:
        if not _is_mistake(error):
            raise
        # All usage mistakes format themselves; typer has no public base class for them.
        _fail(error.format_message() if hasattr(error, "format_message") else str(error), 2)
    if code == _INTERRUPTED:
        _fail("stopped; what score has done stays done, and the same command goes on from there", _INTERRUPTED)
    sys.exit(code or 0)


def _scorer(student: str, options: Mapping[str, Any], names: Sequence[str], **changed: Any) -> Any:
    """The scorer of a command's options, for the datasets of these names."""
    if (url := options["base_url"]) and options["engine"] != "server":
        raise ValueError(f"--base-url {url}: has an effect only with --engine server")
    given = {"model_kwargs": {**(options["model_kwargs"] or {}), "base_url": url}} if url else {}
    scorer = call(rsr.RSRScorer, {**options, **given, **changed}, student)
    scorer.find_images_below(folder_of(names))
    return scorer


def _flags() -> set[str]:
    """The names of the options of all commands."""
    commands: Any = typer.main.get_command(app)
    options = (option for command in commands.commands.values() for option in command.params)
    return {option.name for option in options if option.opts[0].startswith("--")}


def _is_mistake(error: Exception) -> bool:
    """Whether it is a mistake of the caller, a folder in use, or a Hub that refuses."""
    if hasattr(error, "format_message") or isinstance(error, _MISTAKES):
        return True
    from ..runs.workers import FolderInUseError

    return isinstance(error, rsr.HubError | FolderInUseError)


def _show(content: Mapping[str, Any], text: str, as_json: bool = False) -> None:
    """Prints a text, or one JSON object; a terminal would obey control characters, so text has none."""
    if as_json:
        typer.echo(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))  # NaN has become null before
    else:
        typer.echo(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text))


def _fail(message: str, code: int) -> NoReturn:
    """Ends the command with an exit code, and one line on stderr that says why."""
    typer.echo(one_line(f"rsr-datasets: {in_flags(message, _flags())}"), err=True)
    sys.exit(code)


def _reasons(source: Any, scored: Any, scorer: Any, counts: Counter[str]) -> str:
    """How many rows have each status, and the reason of the first row of each."""
    from ..tables.arrays import read_categories, read_rows

    reasons: dict[str, str] = {}
    for name, part in splits_of(source).items():
        status = read_categories(splits_of(scored)[name], scorer.score_columns.status)
        first = {value: int((status.codes == code).argmax()) for code, value in enumerate(status.values)}
        row_format = scorer.find_format(part.column_names)
        rows = part.select([*first.values()]).select_columns(row_format.names).with_format("arrow")
        encoded = scorer.encode(read_rows(rows[:], part.features), row_format, [*first.values()]) if first else []
        for (value, number), row in zip(first.items(), encoded, strict=True):
            reasons.setdefault(value, f" (row {number}: {row})" if isinstance(row, ValueError) else "")
    return "; ".join(f"{count:,} {status}{reasons[status]}" for status, count in counts.most_common())
