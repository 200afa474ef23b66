"""Dream Envs: environments in which language models write, escalate, reward and consolidate their own practice."""

__version__ = "0.1.0"
