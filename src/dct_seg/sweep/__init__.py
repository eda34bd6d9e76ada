"""``dct-seg sweep``: W&B sweep files run on this machine, without a server."""
