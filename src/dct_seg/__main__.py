"""``python -m dct_seg``: the command ``dct-seg``."""

import sys

from dct_seg.cli import main

sys.exit(main())
