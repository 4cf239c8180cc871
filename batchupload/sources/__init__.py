"""Photos that do not lie on this machine."""
