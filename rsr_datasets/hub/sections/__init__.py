"""The sections of the dataset card that need more than the facts: each module computes values for the template.

A new section is a module with a function from ``Facts`` to values, its name in ``SECTIONS``, and its text in
``cards/dataset_card.md.jinja``.
"""

from .columns import columns
from .make_again import make_again
from .statistics import statistics
from .teachers import teachers
from .training import training

SECTIONS = (teachers, statistics, columns, make_again, training)
