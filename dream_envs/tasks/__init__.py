"""Verifiable problem families: ``generate``, ``parse``, ``verify``, ``chance``, ``gold``; one family a file."""
