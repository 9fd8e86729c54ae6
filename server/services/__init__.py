"""Use cases: the rules of each change and its audit record.

Commands, subcommands and other interfaces share them.
"""
