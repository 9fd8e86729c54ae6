"""The table compared with rich's table as the reference of its shape."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from server.render.reply import Column, Table
from server.render.table import table_rows

CELL = st.text("abcXYZ019 .@Жя漢字é", max_size=12).map(lambda text: text.strip() or "x")
CELLS = st.lists(CELL, min_size=1, max_size=3).map("\n".join)


def by_rich(table: Table) -> str:
    """Return rich's table with manually centred headers, as rich puts the odd blank left."""
    rich = RichTable(box=box.SQUARE, show_lines=True, padding=0, pad_edge=False)
    for column in table.columns:
        rich.add_column(column.title, no_wrap=True)
    for row in table.rows:
        rich.add_row(*(Text(cell) for cell in row))
    file = io.StringIO()
    Console(file=file, width=1000, color_system=None).print(rich)
    return file.getvalue()


@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.tuples(*[CELLS] * width), min_size=1, max_size=5)))
def test_the_table_matches_rich_except_for_centred_headers(rows: list[tuple[str, ...]]) -> None:
    columns = tuple(Column(f"c{index}", "W" * (2 * index + 3)) for index in range(len(rows[0])))
    table = Table(columns, rows)
    ours, theirs = "".join(table_rows(table)).splitlines(), by_rich(table).splitlines()
    assert ours[0] == theirs[0]
    assert ours[2:] == theirs[2:]
    assert ours[1].replace(" ", "") == theirs[1].replace(" ", "")


def test_headers_are_centred_and_the_odd_blank_goes_right() -> None:
    table = Table((Column("a", "Type"), Column("b", "Options")), [("service", "Numbers:"), ("漢字漢字", "")])
    assert "".join(table_rows(table)) == (
        "┌────────┬────────┐\n"
        "│  Type  │Options │\n"
        "├────────┼────────┤\n"
        "│service │Numbers:│\n"
        "├────────┼────────┤\n"
        "│漢字漢字│        │\n"
        "└────────┴────────┘\n"
    )


def test_an_empty_table_is_header_and_borders() -> None:
    assert "".join(table_rows(Table((Column("a", "A"), Column("b", "Bc")), []))) == "┌─┬──┐\n│A│Bc│\n└─┴──┘\n"
