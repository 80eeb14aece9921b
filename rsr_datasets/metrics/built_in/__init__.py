"""The metrics that every process knows. A new metric is one new file here; the file registers the metric itself."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
