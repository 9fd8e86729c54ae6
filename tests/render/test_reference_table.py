"""The exact table of the reference document, from the same five rows."""

from __future__ import annotations

from pathlib import Path

from console import ConsoleServer, without_wildcards

from server.model.integrations import Integration, IntegrationType

WIDGET, SERVICE = IntegrationType.WIDGET, IntegrationType.SERVICE
ROWS = (
    (Integration("tester", WIDGET), "wSH6fVwcAM3qzA6SQYUHf6pbBwAbB3MihB3qtw3YQHSfwBTw0cQb3i3zqobcn3qS"),
    (Integration("svetlana", WIDGET), "qOPBaHCsS6WZpRB9U969bRSXwjSpRPBlUH9sXSXM2jSTOpOBP9WKHsSO6SJCV2uS"),
    (Integration("aleksandr", WIDGET), "tPS8pIKwO9ezzAtmP9qwnEFNwzO9gAWPtgIPq9wshnIw9s919zezvPZtpIISP09q"),
    (
        Integration("servint", SERVICE, ("240100", "240101")),
        "8bWJ8lHeqWI80pwo38JWC2pjYCqpW8C808p3p8ebWWJlsvWLqqpdgII88N6wophe",
    ),
    (Integration("amouser", WIDGET), "rTDNoZ9aF9tErDT9ZQEU04qgSt9brFd9Z9QEZGHa9tgtB9drr0dTNZ9ohzE0Ga4q"),
)


async def test_list_prints_the_table_of_the_reference(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    await console.seed("biysk.local", ROWS)
    console.start()
    printed = console.run("domain/biysk.local/integrations/list")
    expected = Path(__file__).with_name("reference-table.txt").read_text(encoding="utf-8")
    table, footer = printed.split("\n\n")
    assert table + "\n" == expected
    assert without_wildcards(footer) == "[exec at: TIME, nodes: ds1@ecss1 v.3.14.7.585]\n"
