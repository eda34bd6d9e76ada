"""Command ``python -m benchmarks``, run from the root of the repository."""

import sys

from benchmarks.command import main

sys.exit(main(sys.argv[1:]))
