"""Metrics and probes over HTTP. The program imports this package only when they are configured."""
