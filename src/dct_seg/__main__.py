"""Entry point of ``python -m dct_seg``, the same as the command ``dct-seg``."""

import sys

from dct_seg.cli import main

sys.exit(main())
