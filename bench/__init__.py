"""Measures tcpdconf, and compares it with other programs where they have the same function."""
