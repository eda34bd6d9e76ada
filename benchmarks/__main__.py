"""``python -m benchmarks``, in the root of the repository."""

import sys

from benchmarks.command import main

sys.exit(main(sys.argv[1:]))
