"""The dataset card: how a dataset was made, said so that a stranger can check it and do it again.

The facts come from the provenance records in the data, from a scorer, or from a run folder, and are held against the
``rsr_settings`` column. The sections are in ``sections/``, their text in ``cards/dataset_card.md.jinja``.
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from datasets import Dataset, DatasetDict
from huggingface_hub import DatasetCard, DatasetCardData
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from ..scoring.scorer import RSRScorer
from ..tables.records import package_versions, read_records
from ..tables.splits import require_dataset
from .markdown import HUB_ID, code, fenced_json, finite, listed, number, percent, python, ratio, text
from .provenance import Splits, as_mapping, load_records, read_facts, read_rule, score_record
from .sections import SECTIONS

logger = logging.getLogger(__name__)

FIGURE_FILE = "rsr/teachers.png"
RECORDS_FILE = "rsr/provenance.json"
REPORT_FILE = "rsr/report.html"
TAGS = ("rsr", "rsr-datasets", "reasoning", "distillation", "data-selection")

_BEGIN = "<!-- rsr_datasets: what stands between these two comments is written anew by every push -->"
_END = "<!-- rsr_datasets: end -->"
_SECTION = re.compile(re.escape(_BEGIN) + r".*?" + re.escape(_END), re.DOTALL)
_HIDDEN = "(hidden)"
_TOKEN = re.compile(r"\bhf_\w{8,}|\bapi_org_\w{8,}")
_SECRETS = re.compile(r"(?:\w*_)?(?:token|password|secret|api_key)", re.IGNORECASE)
CONFIG_NAME = re.compile(r"[\w-]+", re.ASCII)
_LICENSE_ID = re.compile(r"[a-z0-9][a-z0-9.-]*")
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")

_PACKAGE = Path(__file__).resolve().parents[1]
_LOADER = jinja2.FileSystemLoader([_PACKAGE / "cards", _PACKAGE.parent / "cards"])  # as installed, and in a clone
_TEMPLATES = jinja2.Environment(loader=_LOADER, undefined=jinja2.StrictUndefined, autoescape=False)
_TEMPLATES.filters["to_json"] = partial(json.dumps, ensure_ascii=False, sort_keys=True, default=str)
for _filter in (text, code, python, number, ratio, percent, fenced_json, read_rule):
    _TEMPLATES.filters[_filter.__name__] = _filter


@dataclass(frozen=True)
class CuratedCard:
    """A card's title, header fields and section, and files beside it by path.

    The caller's fields, ``given``, win over those of an existing card; other ``fields`` do not.
    """

    title: str
    fields: Mapping[str, Any]
    given: Mapping[str, Any]
    section: str
    files: Mapping[str, bytes]

    def merged_into(self, existing: str | None) -> DatasetCard:
        """The card of a repository with this README: people's text stays, our section and known fields are renewed.

        It is a ``ValueError`` if the header cannot be read.
        """
        try:
            card = DatasetCard(existing if existing is not None else "---\n{}\n---\n")
        except Exception as error:
            message = f"the repository's README.md has no readable YAML header, mend it first: {error}"
            raise ValueError(message) from error
        header = card.data.to_dict()
        infos = map(as_mapping, listed({**header, **self.given}.get("dataset_info")))
        parts = [as_mapping(split) for info in infos for split in info.get("splits") or []]
        rows = sum(part.get("num_examples") or 0 for part in parts)
        size = [_size_category(rows)] if rows else self.fields["size_categories"]
        tags = [*dict.fromkeys([*listed(header.get("tags")), *self.fields["tags"]])]
        renewed = {"size_categories": size, "tags": tags, **self.given}
        card.data = DatasetCardData(**{**header, **self.fields, **header, **renewed})
        card.text, was_there = _SECTION.subn(lambda _: self.section, card.text, count=1)
        if not was_there:
            above = card.text.rstrip() or f"\n# {self.title}"
            card.text = f"{above}\n\n{self.section}\n"
        return card


def preview_card(
    dataset: Dataset | DatasetDict,
    repo_id: str = "username/dataset",
    *,
    scorer: RSRScorer | None = None,
    provenance: Any = None,
    card: Mapping[str, Any] | DatasetCardData | None = None,
    embed_report: str | Path | None = None,
    controls: Mapping[str, Dataset] | None = None,
) -> DatasetCard:
    """The card that :func:`rsr_datasets.push_curated` would write to a new repository; nothing is sent.

    Args:
        dataset: Scored, and mostly selected, rows.
        repo_id: The repository that the card is for: its name is the title and stands in the examples. Of a name
            without a namespace a push takes the namespace of the token's owner; the card shows ``username`` there.
        scorer: As in :func:`rsr_datasets.push_curated`.
        provenance: As there.
        card: As there, but not checked by the Hub.
        embed_report: As there.
        controls: As there.

    Returns:
        The card; ``str(card)`` is the README. The fields ``configs`` and ``dataset_info``, which
        ``Dataset.push_to_hub`` adds, are not in it.

    Raises:
        ValueError: As :func:`rsr_datasets.push_curated` before it sends anything.
        TypeError: If ``dataset`` is neither a ``Dataset`` nor a ``DatasetDict``.
    """
    validate_repo_id(repo_id)
    if "/" not in repo_id:
        message = "%r has no namespace: a push takes that of the token's owner; 'username' stands for it in the card"
        logger.warning(message, repo_id)
        repo_id = f"username/{repo_id}"
    return build_card(dataset, repo_id, scorer, provenance, card, embed_report, controls).merged_into(None)


def build_card(
    dataset: Dataset | DatasetDict,
    repo_id: str,
    scorer: RSRScorer | None = None,
    provenance: Any = None,
    card: Mapping[str, Any] | DatasetCardData | None = None,
    embed_report: str | Path | None = None,
    controls: Mapping[str, Dataset] | None = None,
    secrets: Sequence[str] = (),
) -> CuratedCard:
    """Makes the card's section and the files beside it, from the arguments of :func:`rsr_datasets.push_curated`.

    Raises what that function raises before it sends anything. ``secrets`` are kept out of all that is made.
    """
    splits = _as_splits(dataset)
    files = {} if embed_report is None else {REPORT_FILE: _read_report(Path(embed_report), secrets)}
    hide = partial(_hide, secrets=secrets)
    given = [score_record(scorer)] if scorer else []
    given += load_records(provenance) if provenance is not None else []
    facts = read_facts(splits, given, hide)
    header = dict(card.to_dict() if isinstance(card, DatasetCardData) else card or {})
    sources = [name for name in listed(header.get("source_datasets")) if HUB_ID.fullmatch(str(name))]
    values = {name: value for section in SECTIONS for name, value in section(facts).items()}
    if values["teachers"] and (figure := values["teachers"]["figure"]):
        files[FIGURE_FILE] = figure
    records = [*(score.record for score in facts.scores), *(record for _, record in facts.steps)]
    unique = [record for i, record in enumerate(records) if record not in records[:i]]
    content = json.dumps(unique, indent=1, ensure_ascii=False) + "\n"
    files[RECORDS_FILE] = content.encode(errors="backslashreplace")
    licenses = "; ".join(sorted({part.info.license.strip() for part in splits.values() if part.info.license}))
    fields = {
        "license": licenses.lower() if _LICENSE_ID.fullmatch(licenses.lower()) else None,
        "task_categories": ["text-generation"],
        "size_categories": [_size_category(sum(map(len, splits.values())))],
        "tags": [*TAGS],
    }
    section = _TEMPLATES.get_template("dataset_card.md.jinja").render(
        facts=facts,
        versions=package_versions(),
        repo_id=repo_id,
        source=sources[0] if len(sources) == 1 else None,
        license_text=None if fields["license"] else licenses,
        hub_id=HUB_ID,
        beside=files,
        controls=_describe_controls(controls or {}),
        **values,
    )
    section = f"{_BEGIN}\n\n{hide(section).strip()}\n\n{_END}"
    return CuratedCard(text(repo_id.split("/")[-1]), fields, hide(header), section, files)


def _as_splits(dataset: Dataset | DatasetDict) -> Splits:
    is_split = isinstance(dataset, DatasetDict)
    splits = dict(dataset) if is_split else {str(require_dataset(dataset).split or "train"): dataset}
    if not any(map(len, splits.values())):
        raise ValueError("the dataset has no rows: there is nothing to publish")
    return splits


def _describe_controls(controls: Mapping[str, Dataset]) -> list[dict[str, Any]]:
    """Name, rows, and the account in the provenance record of each arm."""
    arms = []
    for name, rows in controls.items():
        if not CONFIG_NAME.fullmatch(name) or name == "default":
            raise ValueError(f"controls: {name!r} is no name for a configuration: take letters, digits, - and _")
        if not len(rows):
            raise ValueError(f"controls: the arm {name!r} has no rows: there is nothing to publish")
        account = next((as_mapping(r.get("report")) for r in reversed(read_records(rows)) if "report" in r), {})
        ratio_of_tokens = finite(account.get("tokens_ratio"))
        unmatched = listed(account.get("unmatched"))
        arms.append({"name": name, "rows": len(rows), "tokens_ratio": ratio_of_tokens, "unmatched": unmatched})
    return arms


def _read_report(file: Path, secrets: Sequence[str]) -> bytes:
    if not file.is_file():
        raise FileNotFoundError(f"embed_report={str(file)!r}: no such file")
    content = file.read_bytes()
    if any(secret.encode() in content for secret in secrets):
        raise ValueError(f"embed_report={str(file)!r} holds your access token: it is not sent")
    return content


def _hide(value: Any, secrets: Sequence[str]) -> Any:
    """Takes out the caller's token, texts that look like tokens, and settings that are secrets."""
    if isinstance(value, Mapping):
        named = {key for key, item in value.items() if isinstance(item, str) and _SECRETS.fullmatch(str(key))}
        return {key: _HIDDEN if key in named else _hide(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_hide(item, secrets) for item in value]
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, _HIDDEN)
        return _TOKEN.sub(_HIDDEN, value)
    return value


def _size_category(rows: int) -> str:
    place = min(max(len(str(rows)) - 3, 0), len(_SIZES) - 1)
    return f"{_SIZES[place - 1]}<n<{_SIZES[place]}" if place else "n<1K"
