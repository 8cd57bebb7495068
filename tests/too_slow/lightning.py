"""Stands before Lightning on the path of a test that is not marked slow (tests/conftest.py)."""

raise AssertionError("this test imports Lightning, which takes seconds: mark it with pytest.mark.slow")
