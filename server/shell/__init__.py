"""Sessions, and the one path of every request."""
