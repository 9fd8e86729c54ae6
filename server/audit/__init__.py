"""Who did what: changes are recorded in their own transaction, the rest in batches within a second."""
