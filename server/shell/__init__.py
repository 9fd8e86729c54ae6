"""Sessions, and the processing of every request."""
