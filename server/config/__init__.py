"""The configuration: its schema, and how it is read."""

from server.config.reading import load_config
from server.config.schema import Config, Limits

__all__ = ["Config", "Limits", "load_config"]
