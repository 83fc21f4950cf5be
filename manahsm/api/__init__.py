"""The HTTP interface: JSON-RPC and REST for programs that know Web3Signer, Clef or op-signer.

The one thing to know: all of it runs on an asyncio loop, the service's own or, under trio, one in a thread beside it;
it reaches the service through a :class:`~manahsm.api.gateway.Gateway` alone.
"""
