"""Courier's databases and access records: GDBM, Berkeley DB, text. Every byte is distrusted."""
