"""The sections of the dataset card: each module computes the values of one section of the template.

A new section is a module with a function from :class:`rsr_datasets.hub.facts.Facts` to values, a line in ``SECTIONS``,
and its text in ``cards/dataset_card.md.jinja``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..facts import Facts
from .columns import columns
from .how_it_was_made import how_it_was_made
from .make_again import make_again
from .statistics import statistics
from .teachers import teachers
from .training import training

SECTIONS: tuple[Callable[[Facts], dict[str, Any]], ...] = (
    how_it_was_made,
    teachers,
    statistics,
    columns,
    make_again,
    training,
)
