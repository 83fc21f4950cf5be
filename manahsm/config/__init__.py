"""Configuration: what users write becomes one frozen, checked :class:`manahsm.config.model.Config`.

A reader starts with ``tables.py`` (every option) and ``load.py`` (where they come from). Nothing is imported
here, so that a host process, which needs nothing but :mod:`manahsm.config.secret`, does not load all of it.
"""
