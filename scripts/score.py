"""The `score` command as a file, for launchers that want one: accelerate launch scripts/score.py DATASET ..."""

import sys

from rsr_datasets.cli.commands import main

if __name__ == "__main__":
    sys.argv.insert(1, "score")
    main()
