"""The configuration: its schema, its loading, and the values in force."""

from server.config.current import Current
from server.config.limits import Limits
from server.config.reading import load_config
from server.config.schema import Config

__all__ = ["Config", "Current", "Limits", "load_config"]
