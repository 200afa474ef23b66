"""The command ``dream-envs``: ``app`` has the verbs, the files beside it what they do, a group of verbs a file."""

from dream_envs.cli.app import main as main
