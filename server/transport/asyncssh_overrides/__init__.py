"""Overrides of asyncssh: limits for input, and tolerance for clients that asyncssh drops.

The overrides depend on internals of the version that pyproject.toml pins: `tests/transport/test_asyncssh_overrides.py`
fails when a replaced method changes. Each override says why it weakens nothing.
"""
