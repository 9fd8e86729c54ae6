"""The subcommands of the program `ecss-console`, one module per noun."""
