"""The terminal of a session and its line editors. Only this package imports prompt_toolkit."""
