"""``python -m dream_envs.baselines.frontier.validate``: coverage of the report's intervals, as the docs' table has it.

The study ``validate`` by another name, with its options; ``--grid simulated`` (the default), ``power`` or ``pair``.
"""

import sys

from dream_envs.baselines.studies.__main__ import main

if __name__ == "__main__":
    main(["validate", *sys.argv[1:]])
