"""The subcommands of the program `ecss-console`: one file per noun."""
