"""The audit: changes are recorded in their own transaction, other events in batches within a second."""
