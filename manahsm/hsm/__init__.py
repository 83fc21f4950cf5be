"""PKCS#11 tokens, reached through host processes that own the vendor library."""
