"""Small faults put into the product one at a time: does a test notice?  ``python tests/mutate.py [ID ...]``.

Each row of ``mutations.json`` says what it breaks, and which test file has to fail.  Works on a copy of the last
commit; the whole list takes some 10 minutes.  Exit status 1 where a fault was not noticed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


def main(wanted: list[str]) -> int:
    """Apply, test and take back every chosen row."""
    survived = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "clone", "-q", str(HERE.parent), str(tree)], check=True)
        environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        for row in json.loads((HERE / "mutations.json").read_text()):
            if wanted and row["id"] not in wanted:
                continue
            path = tree / row["file"]
            text = path.read_text()
            path.write_text(text.replace(row["before"], row["after"]))
            command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", row["test"]]
            status = subprocess.run(command, cwd=tree, env=environment, capture_output=True).returncode
            path.write_text(text)
            print(row["id"], "caught" if status == 1 else f"SURVIVED (status {status}): {row['says']}", flush=True)
            survived += [row["id"]] if status != 1 else []
    return bool(survived)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
