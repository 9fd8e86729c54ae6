"""Authentication: passwords, public keys and certificates, checked against the users of the store."""
