"""The part of the library that also runs inside Triton's Python models, which export copies whole into them.

Needs numpy and `ko_asr.errors` only.
"""
