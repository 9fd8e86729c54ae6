"""SSH and terminals. Only this package imports asyncssh and prompt_toolkit."""
