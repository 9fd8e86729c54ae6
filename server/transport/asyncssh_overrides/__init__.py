"""Overrides of asyncssh: bounds in front of what it does with a client's bytes, and mercy for clients that it drops.

Everything here follows the internals of the version that pyproject.toml pins: `tests/test_asyncssh_overrides.py` fails
when a method that is replaced here changes. Each override says why it weakens nothing.
"""
