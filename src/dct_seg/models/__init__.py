"""The network and its parts; no Lightning in here."""
