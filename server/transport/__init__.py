"""SSH and terminals: the only home of asyncssh and of prompt_toolkit."""
