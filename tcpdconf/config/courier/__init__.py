"""Reads Courier's databases and access records: GDBM, Berkeley DB, text. No byte is trusted."""
