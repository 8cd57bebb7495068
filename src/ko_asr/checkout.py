"""Keep the folder triton/ of a checkout from being taken for the Python package triton.

Where the checkout is on sys.path (``python -c``, notebooks, ``python -m pytest``) and the package is not
installed (CPU builds of PyTorch), ``import triton`` finds the model repository as a namespace package, and
NeMo cannot be imported: "module 'triton' has no attribute 'language'". `install`, which `make setup` calls,
leaves a .pth file in the environment: from then on its Python looks for that package elsewhere only.
"""

import os
import sys
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
_LOADERS = (ExtensionFileLoader, EXTENSION_SUFFIXES), (SourceFileLoader, SOURCE_SUFFIXES)
# A checkout that is gone must not put an error before everything that this Python prints.
_START = "with contextlib.suppress(ImportError): from ko_asr import checkout; checkout.hide()"
_LINE = f"import contextlib; exec({_START!r})\n"


class CheckoutFinder(FileFinder):
    """Finds modules in the checkout's root as Python does, and never ``triton``."""

    def find_spec(self, fullname: str, target: object = None) -> ModuleSpec | None:
        """Return no specification of ``triton``, so that the search goes on along sys.path."""
        return None if fullname == "triton" else super().find_spec(fullname)


def _finder(path: str) -> CheckoutFinder:
    if os.path.realpath(path) != ROOT:
        raise ImportError(f"{path} is not the checkout", path=path)
    return CheckoutFinder(path, *_LOADERS)


def hide() -> None:
    """Have this process look for modules in the checkout with `CheckoutFinder`."""
    sys.path_hooks.insert(0, _finder)
    sys.path_importer_cache.clear()


def install() -> None:
    """Write the .pth file that hides the folder from now on. OSError as ``open`` does."""
    import sysconfig
    from pathlib import Path

    path = Path(sysconfig.get_path("purelib"), "ko_asr_checkout.pth")
    path.write_text(_LINE, encoding="utf-8")
