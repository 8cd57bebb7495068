"""Korean ASR on NVIDIA NeMo: the library that the scripts in recipes/, tokenizers/ and export/ share.

Two floors. The ground floor needs numpy (and PyYAML) only, because it also runs inside the Triton
server: ``hangul``, ``text``, ``frames``, ``ctc``, ``metrics``, ``contract``. Every other module may
import torch or NeMo, and does so inside the function that needs it, so that ``--help`` stays instant.
"""

import sys
import tarfile

__version__ = "0.1.0"

if not hasattr(tarfile, "data_filter"):
    # Python before 3.11.4, Debian 12's for one, where NeMo cannot extract a .nemo. Whatever is imported after
    # this package, NeMo above all, gets the later tarfile. (The server's Python lacks it and opens no tar.)
    try:
        from backports import tarfile as _later
    except ImportError:
        pass
    else:
        sys.modules["tarfile"] = _later
