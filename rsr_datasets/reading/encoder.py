"""A row to token ids and the positions to score: the chain that encodes rows of one format for one student."""

import copy
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..tables.columns import BAD_ROW, NO_RESPONSE, TEMPLATE_DROPPED_TEXT
from ..utils.texts import shorten
from .calls import read_tools
from .formats import RowFormat, read_conversation
from .images import BadImage
from .marks import TextDroppedError
from .media import MediaOptions, is_video
from .messages import Conversation, Turns, is_written
from .pitfalls import find_pitfall
from .placeholders import TAG, led_by_images, take_images
from .processing import ImageReader
from .reasoning import Reasoning, place_reasoning
from .response import RenderedText, locate, locate_turn
from .rows import Outcome, Tokens, UnscorableRowError, bad, to_row
from .templates import DEFAULT_DATE, IMAGE, VIDEO, ChatTemplate, TemplateRefusedError, count_media
from .tokenizing import tokenize
from .values import read_kwargs
from .videos import Media

logger = logging.getLogger(__name__)

_LONGEST_REASON = 400


class ConversationEncoder:
    """Encodes rows of one format for one student.

    :mod:`.response` says which characters of a conversation count, :mod:`.tokenizing` which tokens hold those
    characters. A turn of nothing but white space does not count. ``turns`` are ``"all"`` or ``"last"`` assistant turns
    in one rendering, or ``"each"`` turn in the rendering that the student sees when it writes the turn. A row's own
    template arguments win over ``chat_template_kwargs``. :mod:`.reasoning` says what ``reasoning`` does. ``media``
    says where images are; ``load_processor``, called for the first row with images, gives the student's processor or
    ``None``; ``unread`` says by ``"image"`` and ``"video"`` why the engine is not shown these. For the rest see
    :class:`.templates.ChatTemplate`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        turns: Turns = "all",
        reasoning: Reasoning = "as_is",
        template_date: str = DEFAULT_DATE,
        media: MediaOptions | None = None,
        load_processor: Callable[[], Any] = lambda: None,
        unread: Mapping[str, str] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self.chat_template_kwargs = dict(chat_template_kwargs or {})
        self.turns = turns
        self.reasoning = reasoning
        self.template_date = template_date
        self.media = media or MediaOptions()
        self._load_processor = load_processor
        self._unread = unread or {}
        self._said_ways_out = False
        self._said_pitfalls: set[str] = set()

    def encode(self, rows: Sequence[Mapping[str, Any]], row_format: RowFormat) -> list[Outcome]:
        """Gives each row its encoding, or the reason why it has none.

        The first row whose template drops text says which arguments would keep it.

        Raises:
            ValueError: If a conversation needs a chat template and there is none, or the template is not valid Jinja.
        """
        outcomes: list[list[RenderedText] | UnscorableRowError] = []
        for row in rows:
            try:
                outcomes.append(self._read(row, row_format))
            except UnscorableRowError as error:
                if error.status == TEMPLATE_DROPPED_TEXT and not self._said_ways_out:
                    self._said_ways_out = True
                    error = UnscorableRowError(error.status, self._with_ways_out(str(error), row, row_format))
                outcomes.append(error)
            except RecursionError:
                outcomes.append(UnscorableRowError(BAD_ROW, "a value is nested too deeply"))
        texts = [text for outcome in outcomes if isinstance(outcome, list) for text in outcome if not text.images]
        tokens = iter(tokenize(self.tokenizer, texts) if texts else ())
        return [self._tokenized(outcome, tokens) if isinstance(outcome, list) else outcome for outcome in outcomes]

    def _tokenized(self, texts: list[RenderedText], tokens: Iterator[Tokens | None]) -> Outcome:
        """The encoding of a row; ``tokens`` are those of its texts without images, which come before the others."""
        found = [next(tokens) for text in texts if not text.images]
        try:
            if shown := [text for text in texts if text.images]:
                found += self._read_images(shown)
        except UnscorableRowError as error:
            return error
        return self._to_encoded_row(found)

    def _read_images(self, texts: list[RenderedText]) -> list[Tokens]:
        assert self._reader is not None
        try:
            tokens, more_frames = self._reader.tokenize(texts)
        except BadImage as error:
            bad(str(error))
        if more_frames:
            self._say("frames", "of an animated image only the first frame is read")
        return tokens

    @functools.cached_property
    def _reader(self) -> ImageReader | None:
        processor = self._load_processor()
        return None if processor is None else ImageReader(processor)

    def _read(self, row: Mapping[str, Any], row_format: RowFormat) -> list[RenderedText]:
        whole = {standard: row.get(actual) for standard, actual in row_format.columns.items()}
        found = take_images(whole, row_format, (IMAGE, VIDEO), self.media.drop_images)
        images = self._find_images(found.images)
        values = found.values
        conversation = read_conversation(values, row_format)
        self._warn(values, row_format, conversation)
        if found.tags:
            self._say("tag", f"{TAG!r} stands in a text and is read as text, since the row has no image for it")
        if isinstance(conversation, tuple):
            bos = self.tokenizer.bos_token
            begun = bool(bos and "".join(conversation).startswith(bos))
            rendered = [replace(RenderedText.after(*conversation, add_special_tokens=not begun), images=images)]
        else:
            if found.unplaced:
                self._say("unplaced", "images without a place in the texts stand before the first text of the user")
            conversation = led_by_images(conversation, found.unplaced)
            rendered = self._render_messages(place_reasoning(conversation, self.reasoning), values, images)
        try:
            for each in rendered:
                each.text.encode()
        except UnicodeEncodeError:
            bad("text with a lone surrogate is not valid Unicode")
        return rendered

    def _find_images(self, values: Sequence[Any]) -> tuple[Media, ...]:
        dropping = "drop_images=True scores the text alone"
        kinds = ["video" if is_video(value) else "image" for value in values]
        if values and not self._unread.keys() & {*kinds} and self._reader is None:
            bad(f"{len(values)} images, and the student reads text alone; {dropping}")
        try:
            found = tuple(self.media.find(value, f"{kinds[k]} {k}") for k, value in enumerate(values))
        except BadImage as error:
            bad(str(error))
        for kind, each in zip(kinds, found, strict=True):
            if kind in self._unread:
                bad(f"{kind} {shorten(each.name, 120)}: {self._unread[kind]}; {dropping}")
            if kind == "video" and self._reader and not self._reader.reads_videos:
                bad(f"video {shorten(each.name, 120)}: the student's processor reads images alone; {dropping}")
        return found

    def _warn(self, values: Mapping[str, Any], row_format: RowFormat, read: Conversation | tuple[str, str]) -> None:
        has_template = bool(self.chat_template or self.tokenizer.chat_template)
        if pitfall := find_pitfall(values, row_format, read, has_template):
            self._say(*pitfall)

    def _say(self, kind: str, message: str) -> None:
        if kind not in self._said_pitfalls:
            self._said_pitfalls.add(kind)
            logger.warning("%s (said once)", message)

    def _render_messages(
        self, row: Conversation, values: Mapping[str, Any], images: tuple[Media, ...]
    ) -> list[RenderedText]:
        counted = [i for i in row.counted(self.turns) if is_written(row.messages[i])]
        if not counted:
            raise UnscorableRowError(NO_RESPONSE, "every assistant turn is empty")
        tools = read_tools(values.get("tools"))
        kwargs = self.chat_template_kwargs | read_kwargs(values.get("chat_template_kwargs"))
        if images and (
            own := [i for i, m in enumerate(row.messages) if m["role"] == "assistant" and count_media(m["content"])]
        ):
            bad(f"message {own[0]}: an image in a turn of the assistant, whose text alone can be scored")
        source = self.chat_template
        if source is None and (images or not self.tokenizer.chat_template) and self._reader:
            source = self._reader.chat_template
        template = ChatTemplate(self.tokenizer, source, tools, kwargs, self.template_date, images=bool(images))

        def showing(text: RenderedText, last: int) -> RenderedText:
            count = sum(count_media(message["content"]) for message in row.messages[: last + 1])
            return replace(text, images=images[:count]) if images else text

        try:
            if self.turns == "each":
                return [showing(locate_turn(template, row.messages, i), i) for i in counted]
            return [showing(locate(template, row.messages, counted), len(row.messages))]
        except TemplateRefusedError as error:
            raise UnscorableRowError(BAD_ROW, str(error)) from error
        except TextDroppedError as error:
            raise UnscorableRowError(TEMPLATE_DROPPED_TEXT, str(error)) from error

    def _with_ways_out(self, reason: str, row: Mapping[str, Any], row_format: RowFormat) -> str:
        """Adds the template, and the arguments under which this row keeps its text: each of them is tried."""
        student = self.tokenizer.name_or_path or "the student"
        origin = "chat_template=" if self.chat_template else f"template of {student[-60:]!r}"
        each: dict[str, Any] = {"turns": "each"}
        places: list[dict[str, Any]] = [{"reasoning": "in_content"}, {"reasoning": "in_field"}]
        switches = ChatTemplate(self.tokenizer, self.chat_template).switches
        flips = [
            {"chat_template_kwargs": {**self.chat_template_kwargs, k: v}} for k in switches for v in (True, False)
        ]
        pairs = [{**place, **other} for other in [each, *flips] for place in places]
        keeps = functools.partial(self._keeps_text, row, row_format)
        ways = list(filter(keeps, [each, *places, *flips])) or list(filter(keeps, pairs))
        words = [
            *map(_in_words, [*ways[:3], *filter(keeps, [{"turns": "last"}])]),
            "chat_template= with one of your own",
        ]
        while (
            len(text := f"{reason} ({origin}). To keep the text: {'; '.join(words)}") >= _LONGEST_REASON and words[1:]
        ):
            words.pop(-2)
        return text

    def _keeps_text(self, row: Mapping[str, Any], row_format: RowFormat, arguments: Mapping[str, Any]) -> bool:
        other = copy.copy(self)
        vars(other).update(arguments)
        try:
            other._read(row, row_format)
        except (UnscorableRowError, RecursionError):
            return False
        return True

    def _to_encoded_row(self, sequences: Sequence[Tokens | None]) -> Outcome:
        found = [tokens for tokens in sequences if tokens is not None]
        if len(found) == len(sequences):
            return to_row(found, "no token of the text is a response token with context before it")
        return UnscorableRowError(
            BAD_ROW,
            f"{type(self.tokenizer).__name__}: no character offsets and its tokens do not spell the text, "
            "so that the response cannot be found; pass tokenizer= a fast one",
        )


def _in_words(arguments: Mapping[str, Any]) -> str:
    meaning = {"each": " (every turn as the student sees it)", "last": " (the last turn alone)"}
    words = []
    for name, value in arguments.items():
        pairs = [f'"{k}": {v!r}' for k, v in value.items()] if isinstance(value, dict) else []
        words.append(f"{name}={{{', '.join(pairs)}}}" if pairs else f'{name}="{value}"{meaning.get(value, "")}')
    return " with ".join(words)
