"""Run reports as self-contained HTML."""
