"""What `make bench` and `make scaling` are made of: contenders, scenes, figures, tables, targets."""
