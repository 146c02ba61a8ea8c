"""Measurements of tcpdconf, beside other programs where there is something to compare."""
