"""Flags made from the signatures and docstrings of the Python functions that the commands call.

So a flag has its argument's name, default and meaning, and no argument is without one. The source files are parsed,
since importing the functions would import torch, datasets and transformers.
"""

import ast
import inspect
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import resolve_name
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
import yaml

from ..utils.texts import did_you_mean

Command = TypeVar("Command", bound=Callable[..., None])

_PACKAGES = Path(__file__).resolve().parents[2]
_FROM_A_SHELL = {"bool", "int", "float", "str", "Any", "Mapping", "Sequence"}


def options_of(path: str, skip: Sequence[str] = ()) -> list[inspect.Parameter]:
    """Makes a keyword parameter with a typer option of each argument of a function or class that a shell can give.

    ``path`` is where it can be imported from, such as ``"rsr_datasets.RSRScorer"``.
    """
    module, node = _find(*path.rsplit(".", 1))
    texts = _argument_docs(ast.get_docstring(node) or "")
    options = []
    for name, annotation, default in _arguments(node):
        if name == "self" or name in skip:
            continue
        if name == "options":  # as in a selection rule, whose public function takes each of its fields by name
            options += options_of(f"{module}.{annotation.id}", skip)
            continue
        kinds = set(re.findall(r"\w+", re.sub(r"\[.*?\]", "", ast.unparse(annotation))))
        choices = () if kinds & _FROM_A_SHELL else _choices(module, kinds)
        if not choices and not kinds & _FROM_A_SHELL:
            continue
        value = inspect.Parameter.empty if default is None else _value(module, default)
        option = _option(name, kinds, choices, value, texts.get(name, ""))
        options.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=option))
    return options


def with_options(*options: Sequence[inspect.Parameter]) -> Callable[[Command], Command]:
    """Adds what :func:`options_of` gave to a command; the first option of a name counts, the command's own first."""

    def decorate(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True).parameters.values()
        parameters: dict[str, inspect.Parameter] = {}
        for parameter in (parameter for group in (own, *options) for parameter in group):
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                parameters.setdefault(parameter.name, parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        command.__signature__ = inspect.Signature([*parameters.values()])  # type: ignore[attr-defined]
        command.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
        return command

    return decorate


def call(function: Callable[..., Any], options: Mapping[str, Any], *arguments: Any, **keywords: Any) -> Any:
    """Calls a function with those of a command's options that it takes; empty lists count as not given."""
    names = inspect.signature(function).parameters
    taken = {name: None if value == [] else value for name, value in options.items() if name in names}
    return function(*arguments, **taken, **keywords)


def read_config(context: typer.Context, file: Path | None) -> Path | None:
    """Makes a YAML file's values, by option name, the defaults of a command; flags on the command line win."""
    if file is None:
        return None
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise typer.BadParameter(f"cannot read {file}: {error}") from error
    if not isinstance(values, dict):
        raise typer.BadParameter(f"{file} must hold a mapping of option names to values")
    lists = {p.name for p in context.command.params if getattr(p, "multiple", False) or p.nargs == -1}
    values = {str(name).replace("-", "_"): value for name, value in values.items()}
    values |= {name: [value] for name, value in values.items() if name in lists and isinstance(value, str)}
    known = {str(parameter.name) for parameter in context.command.params} - {"config", "help"}
    if unknown := sorted(values.keys() - known):
        like = did_you_mean(unknown[0], known)
        raise typer.BadParameter(f"{file}: no option {unknown[0]!r}{like}; there are {sorted(known)}")
    context.default_map = {**(context.default_map or {}), **values}
    return file


def _option(name: str, kinds: set[str], choices: tuple[str, ...], default: Any, text: str) -> Any:
    flag, optional = f"--{name.replace('_', '-')}", "None" in kinds
    if kinds <= {"bool", "None"}:
        names = f"{flag}/--no-{flag[2:]}" if optional or default is True else flag
        return Annotated[bool | None if optional else bool, typer.Option(names, help=text)]
    if "Mapping" in kinds:
        return Annotated[Any, typer.Option(flag, parser=_json_object, metavar="JSON", help=text)]
    if "Sequence" in kinds:
        return Annotated[list[str], typer.Option(flag, help=f"{text} Repeat it for several.")]
    kind: Any = str if "str" in kinds else int if "int" in kinds else float if "float" in kinds else str
    kind = Literal[choices] if choices else kind
    return Annotated[kind | None if optional else kind, typer.Option(flag, help=text)]


def _json_object(value: Any) -> dict[str, Any]:
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise typer.BadParameter(f"{value!r} is not JSON ({error}); type {_as_json_object(value)}") from error
    if not isinstance(found, dict):
        raise typer.BadParameter(f"{value!r} is not a JSON object; type {_as_json_object(str(value))}")
    return found


def _as_json_object(text: str) -> str:
    """The JSON to type in place of ``user=problem``, or of JSON that lost its quotes; else an example."""
    pairs = re.sub(r"(\w)[=:]\s*", r"\1: ", text.strip().removeprefix("{").removesuffix("}"))
    try:
        found = yaml.safe_load(f"{{{pairs}}}")
    except yaml.YAMLError:
        found = {}
    is_clear = bool(found) and None not in found.values()
    return shlex.quote(json.dumps(found if is_clear else {"name": "value"}, ensure_ascii=False, default=str))


@cache
def _statements(module: str) -> tuple[bool, list[ast.stmt]]:
    """Whether a module is a package, and its statements, the last one first, with those under ``TYPE_CHECKING``."""
    path = _PACKAGES.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return path.is_dir(), [*body, *(node for block in body if isinstance(block, ast.If) for node in block.body)][::-1]


def _find(module: str, name: str) -> tuple[str, Any]:
    """The definition of a name, and its module; relative imports are followed. ``None`` where there is none."""
    is_package, statements = _statements(module)
    for node in statements:
        match node:
            case ast.FunctionDef(name=defined) | ast.ClassDef(name=defined) if defined == name:
                return module, node
            case ast.Assign(targets=[ast.Name(id=defined)], value=value) if defined == name:
                return module, value
            case ast.ImportFrom(level=level) if level and name in [alias.name for alias in node.names]:
                package = module if is_package else module.rpartition(".")[0]
                return _find(resolve_name("." * level + (node.module or ""), package), name)
    return module, None


def _arguments(node: Any) -> list[tuple[str, Any, ast.expr | None]]:
    """Name, annotation and default of each argument of a function or a class; those of a dataclass are its fields."""
    function = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), node)
    if isinstance(function, ast.ClassDef):
        return [(ast.unparse(n.target), n.annotation, n.value) for n in node.body if isinstance(n, ast.AnnAssign)]
    given = function.args
    defaults = [*[None] * (len(given.args) - len(given.defaults)), *given.defaults, *given.kw_defaults]
    arguments = [*given.args, *given.kwonlyargs]
    return [(each.arg, each.annotation, default) for each, default in zip(arguments, defaults, strict=True)]


def _value(module: str, node: ast.expr) -> Any:
    return ast.literal_eval(_find(module, node.id)[1] if isinstance(node, ast.Name) else node)


def _choices(module: str, kinds: set[str]) -> tuple[str, ...]:
    """The values of the ``Literal`` that an annotation names."""
    definitions = [_find(module, name)[1] for name in kinds]
    return next((tuple(ast.literal_eval(d.slice)) for d in definitions if isinstance(d, ast.Subscript)), ())


def _argument_docs(docstring: str) -> dict[str, str]:
    """The first sentence on each argument in a Google-style docstring, without markup."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", docstring, re.DOTALL | re.MULTILINE)
    entries = re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w|\Z)", section[1] if section else "", re.DOTALL | re.MULTILINE)
    texts = {name: re.sub(r":\w+:`([^`]*)`|``", r"\1", " ".join(text.split())) for name, text in entries}
    return {name: re.split(r"(?<=[.!?]) (?=[A-Z])", text)[0].rstrip(". ") + "." for name, text in texts.items()}
