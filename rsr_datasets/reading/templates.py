"""Chat templates: where their Jinja text comes from, and rendering. transformers is imported when one is rendered."""

import datetime
import functools
import importlib.util
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import jinja2.meta

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PRESETS = ("chatml", "llama3", "plain")
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")

DEFAULT_DATE = "2025-01-01"
_TODAY = "strftime_now"
_DIRECTIVES = ("-d", "-m", "-H", "-I", "-M", "-S", "-j", "-y", *"aAbBcdDeFgGhHIjklmMpRSTuUVwWxXyYZzs")

IMAGE, VIDEO = "\U000ffffd", "\U000ffffb"
"""The characters that stand for an image and a video in the content of a message; a template gets these as blocks."""
_BLOCKS = {IMAGE: {"type": "image"}, VIDEO: {"type": "video"}}
_MEDIA = re.compile(f"([{IMAGE}{VIDEO}])")

Messages = list[dict[str, Any]]


class TemplateRefusedError(Exception):
    """The template raised an error for this row."""


def resolve_chat_template(spec: str | None) -> str | None:
    """Turns the ``chat_template`` argument into Jinja text.

    The argument is ``None`` (the tokenizer's own), a preset's name, ``"trl:NAME"`` for ``NAME.jinja`` of the installed
    trl package, a path to a file, or Jinja text.

    Raises:
        ValueError: If it is none of these.
    """
    if spec is None:
        return None
    if spec in PRESETS:
        return (resources.files(__package__) / "chat_templates" / f"{spec}.jinja").read_text(encoding="utf-8")
    if spec.startswith("trl:"):
        package = importlib.util.find_spec("trl")
        folders = (package.submodule_search_locations if package else None) or ()
        templates = {
            f"trl:{file.stem}": file for each in folders for file in Path(each, "chat_templates").glob("*.jinja")
        }
        if not templates:
            raise ValueError(f'chat_template="{spec}" needs the package trl: pip install trl')
        if spec not in templates:
            known = sorted(name.removeprefix("trl:") for name in templates)
            raise ValueError(f'chat_template="{spec}": the installed trl has no such template; it has {known}')
        return templates[spec].read_text(encoding="utf-8")
    if "{" in spec:
        return spec
    path = Path(spec).expanduser()
    if path.is_file():
        return path.read_text(encoding="utf-8")
    raise ValueError(
        f"chat_template={spec!r}: neither Jinja text, nor a file, nor one of {[*PRESETS, 'trl:NAME']} "
        "(a template file of the installed trl package)"
    )


class ChatTemplate:
    """A chat template with all that the renderings of one row have in common.

    The template sees the tokenizer's special tokens, the JSON schemas of ``tools``, the variables ``kwargs``, and
    where it asks for a date ``date`` (``YYYY-MM-DD``). ``chat_template`` is Jinja; ``None`` for the tokenizer's own.
    With ``images`` each :data:`IMAGE` and :data:`VIDEO` in a content is a block for the template.

    Raises:
        ValueError: If there is no template, or it is not valid Jinja.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        chat_template: str | None = None,
        tools: list[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        date: str = DEFAULT_DATE,
        images: bool = False,
    ) -> None:
        try:
            source: str = tokenizer.get_chat_template(chat_template, tools)
        except ValueError as error:
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path or 'the student'!r} has no chat template, and the rows are "
                f"conversations: give one with chat_template= (Jinja text, a file, one of {list(PRESETS)}, or "
                '"trl:NAME")'
            ) from error
        special_tokens = {k: v for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)}
        self._given = {*special_tokens, "messages", "tools", "documents", "add_generation_prompt"}
        self._tools = tools
        self._kwargs = {**special_tokens, **(kwargs or {})}
        self._source = _date_macro(date) + source if _TODAY in source else source
        self.literals = _constants(source, tuple(special_tokens.values())) + (IMAGE, VIDEO) * images
        self._wants_blocks = _wants_blocks(source, tuple(special_tokens.items()))

    @property
    def switches(self) -> list[str]:
        """Names of the variables of its own that a template reads and a caller may set."""
        environment = _environment(self._source)
        if environment is None:
            return []
        read = jinja2.meta.find_undeclared_variables(environment.parse(self._source))
        return sorted(read - self._given - {*environment.globals})

    def render(self, messages: Messages, add_generation_prompt: bool = False) -> str:
        """Renders one conversation whose contents are texts, with the prompt for the assistant's next turn if asked.

        Raises:
            ValueError: If the template is not valid Jinja.
            TemplateRefusedError: If the template raises an error.
        """
        if self._wants_blocks or IMAGE in self.literals:
            messages = [_in_blocks(m, IMAGE in self.literals, self._wants_blocks) for m in messages]
        return _render(self._source, messages, self._tools, add_generation_prompt, self._kwargs)


@functools.cache
def _date_macro(date: str) -> str:
    """A macro that gives the date; a template calls its own macro before the function of transformers."""
    day = datetime.datetime.combine(datetime.date.fromisoformat(date), datetime.time())
    parts = "".join(f" | replace('%{each}', '{day.strftime(f'%{each}')}')" for each in _DIRECTIVES)
    return f"{{%- macro {_TODAY}(form) -%}}{{{{ form{parts} }}}}{{%- endmacro %}}\n"


def _render(
    source: str, messages: Messages, tools: list[Any] | None, add_generation_prompt: bool, kwargs: Mapping[str, Any]
) -> str:
    from transformers.utils import chat_template_utils

    try:
        _environment(source)
        texts, _ = chat_template_utils.render_jinja_template(
            conversations=[[_with_reasoning(message) for message in messages]],
            tools=tools,
            chat_template=source,
            add_generation_prompt=add_generation_prompt,
            **kwargs,
        )
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"the chat template is not valid Jinja, line {error.lineno}: {error.message}") from error
    except Exception as error:  # a template is a program of its own: whatever it raises concerns this row
        raise TemplateRefusedError(f"the chat template refused the row: {error}") from error
    return str(texts[0])


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """The reasoning under the names that templates read, as transformers from 5.21 on gives it."""
    names = ("reasoning_content", "thinking", "reasoning")
    reasoning = next((message[name] for name in names if message.get(name) is not None), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


@functools.lru_cache(maxsize=64)
def _environment(source: str) -> Any | None:
    """The sandbox in which transformers renders a template; ``None`` where transformers keeps it elsewhere.

    The sandbox decides at each access to an attribute whether the access is safe, which takes most of the time of a
    rendering. The decision depends on nothing but the type and the name, and is made once for each.
    """
    from transformers.utils import chat_template_utils

    compiled = getattr(chat_template_utils, "_compile_jinja_template", None)
    if compiled is None:
        return None
    environment = compiled(source).environment
    decide = environment.is_safe_attribute
    known: dict[tuple[type, str], bool] = {}

    def is_safe_attribute(obj: Any, attribute: str, value: Any) -> bool:
        key = type(obj), attribute
        if key not in known:
            known[key] = decide(obj, attribute, value)
        return known[key]

    environment.is_safe_attribute = is_safe_attribute
    return environment


@functools.lru_cache(maxsize=64)
def _constants(source: str, tokens: tuple[str, ...]) -> tuple[str, ...]:
    """Texts that a template could look for in a message: its string constants and special tokens."""
    found = set(tokens)
    try:
        for _, kind, value in jinja2.Environment().lex(source):
            if kind == "string":
                found.add(value[1:-1].encode("ascii", "backslashreplace").decode("unicode-escape"))
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"the chat template is not valid Jinja, line {error.lineno}: {error.message}") from error
    return tuple(sorted(literal for literal in found if literal.strip()))


@functools.lru_cache(maxsize=64)
def _wants_blocks(source: str, special_tokens: tuple[tuple[str, str], ...]) -> bool:
    """Whether a template renders content only where it is a list of blocks, as those of vision models do."""
    question, answer = chr(0xF0100), chr(0xF0101)
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    def shows_all(messages: Messages) -> bool:
        try:
            text = _render(source, messages, None, False, dict(special_tokens))
        except TemplateRefusedError:
            return False
        return question in text and answer in text

    return not shows_all(messages) and shows_all([_in_blocks(message) for message in messages])


def count_media(text: str) -> int:
    """How many images and videos stand in a text."""
    return len(_MEDIA.findall(text))


def _in_blocks(message: dict[str, Any], images: bool = False, always: bool = True) -> dict[str, Any]:
    """A message whose content is a list of blocks, unless it is text without images and need not be one."""
    content = message["content"]
    if not isinstance(content, str) or not (always or count_media(content)):
        return message
    parts = _MEDIA.split(content) if images else [content]
    blocks = [_BLOCKS[part] if i % 2 else {"type": "text", "text": part} for i, part in enumerate(parts)]
    shown = [block for block in blocks if block.get("text") != ""]
    return {**message, "content": shown or blocks}
