"""The domain model: frozen values and their rules. Pure, no I/O."""
