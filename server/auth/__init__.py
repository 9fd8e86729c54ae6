"""Who is let in: passwords and public keys against the users of the store."""
