"""Files, signals and processes of this machine."""
