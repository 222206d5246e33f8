"""``python -m batchrec``."""

from batchrec.cli import main

main()
