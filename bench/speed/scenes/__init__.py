"""One scene per file: each plays its part on every contender in turn and notes its figures."""
