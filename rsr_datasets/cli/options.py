"""Command-line options made from the signatures and docstrings of the Python functions that they call.

So a flag has its argument's name, default and meaning, and no argument is without one.
"""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
import yaml


def options_of(function: Callable[..., Any], skip: Sequence[str] = ()) -> list[inspect.Parameter]:
    """Makes a keyword parameter with a typer option of each argument that a shell can give.

    Args:
        function: Its arguments, their defaults and the first sentences of its docstring on them are read.
        skip: Arguments that get no option.
    """
    helps = _argument_docs(function)
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=parameter.default,
            annotation=_option(parameter, helps.get(name, "")),
        )
        for name, parameter in inspect.signature(function, eval_str=True).parameters.items()
        if name not in ("self", *skip)
    ]


def with_options(*options: Sequence[inspect.Parameter]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds options to a command; it gets their values as keyword arguments.

    Args:
        options: What :func:`options_of` gave; of several of one name the first counts.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters.values()
        parameters = {p.name: p for p in own if p.kind is not inspect.Parameter.VAR_KEYWORD}
        for parameter in (parameter for group in options for parameter in group):
            parameters.setdefault(parameter.name, parameter)

        def run(**values: Any) -> None:
            command(**values)

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        keywords = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters.values()]
        run.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in keywords}
        return run

    return decorate


def arguments_for(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a command's values that are arguments of a function; empty lists count as not given."""
    names = inspect.signature(function).parameters
    return {name: None if value == [] else value for name, value in values.items() if name in names}


def read_config(context: typer.Context, file: Path | None) -> Path | None:
    """Makes a YAML file's values the defaults of a command; flags on the command line win.

    Raises:
        typer.BadParameter: If the file is no YAML mapping of the command's option names to values.
    """
    if file is None:
        return None
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise typer.BadParameter(f"cannot read {file}: {error}") from error
    if not isinstance(values, dict):
        raise typer.BadParameter(f"{file} must hold a mapping of option names to values")
    values = {str(name).replace("-", "_"): value for name, value in values.items()}
    lists = {p.name for p in context.command.params if getattr(p, "multiple", False) or p.nargs == -1}
    values = {name: [value] if name in lists and isinstance(value, str) else value for name, value in values.items()}
    known = {parameter.name for parameter in context.command.params} - {"config", "help"}
    if unknown := sorted(values.keys() - known):
        raise typer.BadParameter(f"{file}: no option {unknown[0]!r}; there are {sorted(map(str, known))}")
    context.default_map = {**(context.default_map or {}), **values}
    return file


def _option(parameter: inspect.Parameter, text: str) -> Any:
    annotation = parameter.annotation
    flag = f"--{parameter.name.replace('_', '-')}"
    kinds = set(get_args(annotation)) if get_origin(annotation) in (Union, types.UnionType) else {annotation}
    optional = types.NoneType in kinds
    kinds.discard(types.NoneType)
    origins = {get_origin(kind) or kind for kind in kinds}
    if origins == {bool}:
        can_be_turned_off = optional or parameter.default is True
        names = f"{flag}/--no-{flag[2:]}" if can_be_turned_off else flag
        return Annotated[bool | None if optional else bool, typer.Option(names, help=text)]
    if Literal in origins:
        return Annotated[annotation, typer.Option(flag, help=text)]
    if Mapping in origins:
        return Annotated[Any, typer.Option(flag, parser=_json_object, metavar="JSON", help=text)]
    if Sequence in origins:
        return Annotated[list[str], typer.Option(flag, help=f"{text} Repeat it for several.")]
    plain = next((kind for kind in (int, float) if kind in kinds and str not in kinds), str)
    return Annotated[plain | None if optional else plain, typer.Option(flag, help=text)]


def _json_object(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise typer.BadParameter(f"{value!r} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{value!r} is not a JSON object")
    return value


def _argument_docs(function: Callable[..., Any]) -> dict[str, str]:
    """The first sentence on each argument in a Google-style docstring."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", inspect.getdoc(function) or "", re.DOTALL | re.MULTILINE)
    entries = re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w|\Z)", section[1] if section else "", re.DOTALL | re.MULTILINE)
    return {name: _first_sentence(_without_markup(" ".join(text.split()))) for name, text in entries}


def _without_markup(text: str) -> str:
    return re.sub(r":\w+:`([^`]*)`", r"\1", text).replace("``", "")


def _first_sentence(text: str) -> str:
    sentence = re.split(r"(?<=[.!?]) (?=[A-Z])", text)[0].strip()
    return sentence if sentence.endswith(".") else f"{sentence}."
