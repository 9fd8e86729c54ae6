"""Overrides of asyncssh: limits of input, and tolerance for clients that asyncssh would disconnect.

The overrides use internals of the version that pyproject.toml pins. `tests/transport/test_asyncssh_overrides.py` fails
when a replaced method changes. Each override explains why it does not weaken security.
"""
