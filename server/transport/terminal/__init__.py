"""The line editors and the terminal of a session. Only this package imports prompt_toolkit."""
