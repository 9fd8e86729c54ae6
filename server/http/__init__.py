"""Metrics and probes over HTTP. Imported only when they are configured."""
