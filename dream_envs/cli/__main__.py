"""``python -m dream_envs.cli``."""

import sys

from dream_envs.cli import main

sys.exit(main())
