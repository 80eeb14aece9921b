"""The sections of the dataset card that need more than the facts.

A new section is one module here and its text in ``cards/dataset_card.md.jinja``. The module's function of the same
name makes values for the text from ``Facts``.
"""

from importlib import import_module
from pkgutil import iter_modules

SECTIONS = [getattr(import_module(f"{__name__}.{module.name}"), module.name) for module in iter_modules(__path__)]
