"""Lines for the fuzzer: valid ones from the grammar, and ones that no operator should type."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from server.commands import command_tree
from server.grammar.declare import Command, Kind
from server.grammar.filters import FILTERS
from server.grammar.tokens import MOST_CHARACTERS
from server.grammar.tree import Directory, Location, commands_below

#: Current directories of the lines. The last two exist in no store, and some of their names never can.
PLACES: tuple[Location, ...] = (
    (),
    ("domain",),
    ("domain", "biysk.local"),
    ("domain", "biysk.local", "integrations"),
    ("domain", "calendar"),
    ("domain", "list", "integrations"),
)
_DOMAINS = (
    *("biysk.local", "x", "moscow") * 4,
    *("BIYSK.local", "list", "calendar", ".x", "a" * 253, "a" * 254, "..", "İ", "К", ""),
)
_NUMBERS = (
    *("240100", "24010{0-1}", "24010{0-1},240200", "{1,3,5-7}", "{01-20}", "20{01-20}{1-3}", "{00-99}{00-99}"),
    *("{000-999}{00-99}", "{", "}", "{}", "{-}", "{9-1}", "{1-", "1,,2", ",", "{01-5}", "٢٤٠{٠-١}", "1" * 32),
    *("1" * 33, "{0-99999999999999999999999999999999}" * 3, "{1,{2}}", "1-2", "0", "{a-b}", "²"),
)
_WORDS = (
    *("tester", "servint", "a.b_c@d-e", "-x", "x" * 64, "x" * 65, "", "a b", "ж", "e\u0301"),
    *("👩\u200d👩\u200d👧", "0.5", "-1"),
)
_COUNTS = ("0", "1", "5", "10000000", "10000001", "9" * 40, "-1", "²", "٣", "1e3")
_EXPRESSIONS = (
    *("a|b", "(a+)+$", "(", "[", "\\", "(?i)x", "((a{1000}){1000})", "\\p{Greek}", "(?P<n>a)(?P=n)", "", "a{0,1000}"),
    *("\\pL{40}", "\\pL|" * 100, "[^a]{999}"),
)
_SPLICES = (
    *(" ", "  ", "\t", "|", " | ", '"', "'", '"" ', "''", "/", "//", "..", "./", "-", "--", "--=", "=", "?", "\\"),
    *(",", "$(x)", "`", ";", "&&", "\x00", "\x03", "\x07", "\x1b[A", "\x7f", "\x85", "\x9b", "\r", "\n", "{", "}"),
    *("\ufeff", "\ufffd", "\u2028", "\u00a0", "\u3000", "\u202e", "\u0301", "İ", "ſ", "K", "ß", "١", "１", "😀"),
    *("\U0010ffff", " --help", " --check", " | count", " | json", " | first 1", " | regex (", "-- ", " -- --help"),
)
_HUGE = (
    *("x", " ", "x ", "/", "a/", "../", "| ", "| count ", "| regex (a{30}){30} ", "| match x ", "'", '"a" ', "''"),
    *("-", "--", "--x ", "--service ", "1,", "{1}", "{0-1}", "{1,2},", "domain/", "é", "😀", "\t", "="),
    *("--numbers=1 ", "| regex \\pL{40} ", "\\pL|"),
)


@dataclass
class LineMaker:
    """Makes lines from a seed: whole ones, mutated ones, noise, and now and then one near the limit of length."""

    seed: int
    root: Directory = field(default_factory=command_tree)

    def __post_init__(self) -> None:
        """Read the commands from the tree."""
        self._random = Random(self.seed)
        self._commands = commands_below(self.root)

    def place(self) -> Location:
        """Return a directory to type in."""
        return self._random.choice(PLACES)

    def line(self) -> str:
        """Return the next line."""
        random, dice = self._random, self._random.random()
        if dice < 0.0002:
            return self._huge()
        if dice < 0.05:
            length = random.randrange(40)
            return "".join(chr(random.choice((random.randrange(128), random.randrange(0xD800)))) for _ in range(length))
        line = self._whole()
        if dice < 0.35:
            return line
        for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
            line = self._mutated(line)
        return line

    def _whole(self) -> str:
        random = self._random
        command = random.choice(self._commands)
        words = [self._path(command)]
        words += [self._value(argument.kind) for argument in command.arguments if random.random() < 0.85]
        for option in command.options:
            if random.random() < 0.4:
                value = "" if option.kind is None else random.choice("= ") + self._value(option.kind)
                words.append(option.word + value)
        if random.random() < 0.03:
            words.append("--help")
        while random.random() < 0.2:
            words += ["|", self._filter()]
        return " ".join(words) + random.choice(("", "", " "))

    def _path(self, command: Command) -> str:
        random = self._random
        segments = [random.choice(_DOMAINS) if name.startswith("{") else name for name in command.directory]
        name = random.choice((command.name, command.name, *command.also))
        keep = random.randrange(len(segments) + 1) if random.random() < 0.2 else 0
        return random.choice(("", "", "", "", "", "", "/", "./", "../")) + "/".join((*segments[keep:], name))

    def _value(self, kind: Kind) -> str:
        random = self._random
        if kind.path_to is not None:
            return self._path(random.choice(self._commands))
        likely = _NUMBERS if kind.metavar == "<NumberRange>" else _DOMAINS if kind.metavar == "<DOMAIN>" else _WORDS
        text = random.choice(likely)
        quote = random.choice(("", "", "", '"', "'"))
        return quote + text + quote

    def _filter(self) -> str:
        each = self._random.choice(FILTERS)
        if each.kind is None:
            return each.name
        values = {"<N>": _COUNTS, "<RE>": _EXPRESSIONS}.get(each.kind.metavar, _WORDS)
        return f"{each.name} {self._random.choice(values)}"

    def _mutated(self, line: str) -> str:
        random = self._random
        start, end = sorted((random.randrange(len(line) + 1), random.randrange(len(line) + 1)))
        splice = random.choice(_SPLICES)
        words = line.split(" ")
        random.shuffle(words)
        mutants = (
            line[:start] + line[end:],
            line[:end] + line[start:],
            line[:start] + splice + line[start:],
            line[:start] + splice + line[end:],
            line[:start],
            line[:start] + self._whole(),
            line[:start] + line[start:end].swapcase() + line[end:],
            " ".join(words),
        )
        return random.choice(mutants)

    def _huge(self) -> str:
        random = self._random
        size = random.choice((MOST_CHARACTERS, MOST_CHARACTERS + 1, random.randrange(1, MOST_CHARACTERS)))
        unit = random.choice(_HUGE)
        beginning = random.choice(
            ("", "echo ", self._whole() + " ", "domain/x/integrations/add a --service --numbers ")
        )
        return (beginning + unit * (size // len(unit) + 1))[:size]
