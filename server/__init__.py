"""ecss-console: the SSH admin console of the ECSS-10 telephone exchange."""

__version__ = "0.1.0"
