"""Compiles access rules for lookup, reads them from files of every format, and locates them there. Pure."""
