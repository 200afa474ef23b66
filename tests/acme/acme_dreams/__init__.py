"""A package of somebody else, for ``test_plugins``."""
