"""The parts of `make bench` and `make scaling`: contenders, scenes, figures, tables, targets."""
