"""The grammar of the command line: pure, no I/O. One declaration per command feeds everything here."""
