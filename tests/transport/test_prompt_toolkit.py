"""The patched parts of prompt_toolkit still exist and leak nothing."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from inspect import signature
from itertools import pairwise

from prompt_toolkit.application import Application, application
from prompt_toolkit.buffer import Buffer

from server.shell.completion import Completion
from server.transport.terminal.bindings import shared_bindings
from server.transport.terminal.editor import LineEditor
from server.transport.terminal.prompt_toolkit_patches import REPLACED, BoundedBuffer, apply_patches
from server.transport.terminal.reader import LineReader
from server.transport.terminal.tty import Tty


def test_patched_attributes_of_prompt_toolkit_exist() -> None:
    apply_patches()
    used: set[str] = set()
    for function in (Application.run_async, Application.__init__):
        used.update(function.__code__.co_names)
        for code in _nested(function.__code__.co_consts):
            used.update(getattr(code, "co_names", ()))
    for name, replacement in REPLACED.items():
        assert getattr(application, name) is replacement
        assert name in used
    made: Application[None] = Application()
    assert made._default_bindings is shared_bindings()  # noqa: SLF001  the point of the test


def test_methods_overridden_by_the_bounded_buffer_exist() -> None:
    """Every text change goes through `set_document`, every search through `_search`."""
    assert "set_document" in Buffer.document.fset.__code__.co_names  # type: ignore[attr-defined]
    assert "document" in Buffer.insert_text.__code__.co_names
    assert "document" in Buffer.paste_clipboard_data.__code__.co_names
    assert "_undo_stack" in Buffer.save_to_undo_stack.__code__.co_names
    for function in (Buffer.document_for_search, Buffer.apply_search):
        assert "_search" in function.__code__.co_names
    assert list(signature(Buffer._search).parameters) == list(signature(BoundedBuffer._search).parameters)  # noqa: SLF001


def _nested(constants: tuple[object, ...]) -> Iterator[object]:
    for each in constants:
        yield each
        yield from _nested(getattr(each, "co_consts", ()))


class _Sink:
    """A channel to nowhere."""

    def write(self, data: bytes) -> None:
        """Take it."""

    def pause_reading(self) -> None:
        """Nothing is sent."""

    def resume_reading(self) -> None:
        """Nothing is sent."""


async def _one_session() -> None:
    async def complete(_text: str) -> Completion:
        return Completion("x", ())

    async def recall() -> list[str]:
        return ["one", "two"]

    tty = Tty(_Sink(), pty=True, interrupt=lambda: None)
    editor = LineEditor(tty, (80, 24), complete, recall)
    reader = LineReader(tty, editor)
    for keys in (b"a", b"b\tc\x7f", b"\x1b[A\x1b[D!"):
        reading = asyncio.create_task(reader.read_line("$ "))
        await asyncio.sleep(0)
        tty.feed(keys)
        await asyncio.sleep(0)
        tty.feed(b"\r")
        await asyncio.wait_for(reading, 5)


async def test_sessions_with_the_editor_leak_nothing() -> None:
    apply_patches()
    counts = []
    for _ in range(4):
        for _ in range(100):
            await _one_session()
        gc.collect()
        counts.append(len(gc.get_objects()))
    assert len(asyncio.all_tasks()) == 1
    # a leak grows with every hundred sessions; objects of the test runner appear once
    assert min(after - before for before, after in pairwise(counts)) < 100, counts
