"""``dct-seg profile``: what things cost on this machine, each beside what it is compared with, in one run."""

from dct_seg.profile.command import add_arguments, main

__all__ = ["add_arguments", "main"]
