"""Stands before NeMo on the path of a test that is not marked slow (tests/conftest.py)."""

raise AssertionError("this test imports NeMo, which takes ten seconds: mark it with pytest.mark.slow")
