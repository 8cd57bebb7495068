"""Korean ASR on NVIDIA NeMo: the library that the scripts in recipes/, tokenizers/ and export/ share.

Two floors. The ground floor needs numpy (and PyYAML) only, because it also runs inside the Triton
server: ``hangul``, ``text``, ``frames``, ``ctc``, ``metrics``, ``contract``. Every other module may
import torch or NeMo, and does so inside the function that needs it, so that ``--help`` stays instant.
"""

__version__ = "0.1.0"
