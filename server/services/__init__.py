"""Use cases: the rules of a change and its audit record, once for commands, subcommands and other interfaces."""
