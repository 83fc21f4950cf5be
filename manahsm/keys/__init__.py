"""Keys: the registry, the rules of roles, and software keystores."""
