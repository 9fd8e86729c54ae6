"""The configuration: its schema, how it is read, and what of it is in force."""

from server.config.current import Current
from server.config.limits import Limits
from server.config.reading import load_config
from server.config.schema import Config

__all__ = ["Config", "Current", "Limits", "load_config"]
