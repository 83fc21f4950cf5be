"""Keys of a service, or of a token behind one, in the shapes that other libraries know.

The one thing to know: :mod:`~manahsm.compat.eth_account` needs eth-account, which is installed with manahsm;
:mod:`~manahsm.compat.web3` needs web3.py, which is not (``pip install manahsm[web3]``).
"""
