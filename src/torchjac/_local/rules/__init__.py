"""The rules, one family of operations a file; importing this package registers them all."""

from importlib import import_module
from pkgutil import iter_modules

from torchjac._local.registry import terms_of

__all__ = ["terms_of"]

for _family in iter_modules(__path__):
    import_module(f"{__name__}.{_family.name}")
