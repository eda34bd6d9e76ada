"""``python -m benchmarks``, in the root of the repository."""

import argparse
import sys

from benchmarks.command import add_arguments, main

parser = argparse.ArgumentParser(
    prog="python -m benchmarks", description="The figures of docs/speed.md, on this machine."
)
add_arguments(parser)
sys.exit(main(parser.parse_args()))
