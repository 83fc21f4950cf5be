"""The signing path: router, signer workers and their limits."""
