"""The ``--help`` of a command: its flags under titles, each said in words of other flags."""

from typing import Any

from typer.core import TyperCommand

from .wording import help_in_flags

_ROWS, _STUDENT, _SPEED, _SCORING, _OUTPUT = "Rows", "Student", "Speed", "Scoring, with --student", "Output"
_MAIN = {
    "score": "Scoring",
    "teachers": "Ranking",
    "diagnose": "Diagnosis",
    "select": "Selection",
    "report": "Page",
    "push": "Hub",
}
_EVERYWHERE = {
    _ROWS: "dataset split config_name teacher_from_file",
    _OUTPUT: "output output_dir overwrite dry_run as_json config help",
}
_OF_SCORER = {
    _STUDENT: "student revision tokenizer chat_template chat_template_kwargs template_date dtype device "
    "attn_implementation model_kwargs trust_remote_code engine base_url",
    _SPEED: "tokens_per_batch share_prefixes unit_rows heartbeat_timeout",
    "": "reasoning max_length on_overflow rank_clip logits_dtype metrics token_columns strict media_root allow_urls "
    "drop_images",
}
_EXCEPTIONS = {
    "score": {_ROWS: "columns media_root allow_urls drop_images", _OUTPUT: "token_columns column_prefix strict"},
    "teachers": {_SCORING: "turns columns"},
    "select": {
        "Control arms": "controls match",
        "Reading in stages": "prune student regret confidence calibration output_dir",
    },
    "push": {"Hub": "revision", _SCORING: "turns columns column_prefix"},
}


def examples(*lines: str) -> str:
    """An epilog of commands, each on a line of its own."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


class GroupedCommand(TyperCommand):
    """A command whose help has titles: rows first, then what the command does, its student, speed, and output."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes flags and their meaning, title by title."""
        names = {parameter.name for parameter in self.params if parameter.name}
        first = [_ROWS, _STUDENT] if self.name == "score" else [_ROWS]
        found: dict[str, list[tuple[str, str]]] = {title: [] for title in [*first, _MAIN[self.name or ""]]}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                flag, text = record
                found.setdefault(self._title(str(parameter.name)), []).append((flag, help_in_flags(text, names)))
        output = found.pop(_OUTPUT)
        for title, flags in [*found.items(), (_OUTPUT, output)]:
            with formatter.section(title):
                formatter.write_dl(flags)

    def _title(self, option: str) -> str:
        command = self.name or ""
        titles = dict(_EVERYWHERE)
        if command == "score":
            titles |= {title or _MAIN["score"]: names for title, names in _OF_SCORER.items()}
        elif any(parameter.name == "student" for parameter in self.params):
            titles[_SCORING] = " ".join(_OF_SCORER.values())
        for place in (_EXCEPTIONS.get(command, {}), titles):
            for title, names in place.items():
                if option in names.split():
                    return title
        return _MAIN[command]
