"""The program's command line beside serving: one file per noun."""
