"""From reply data to what the client reads."""
