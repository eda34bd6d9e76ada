"""``dct-seg sweep``: a W&B sweep file run on this machine, without a server."""
