"""Access rules: compiled for lookup, read from files of every format, found again in them. Pure."""
