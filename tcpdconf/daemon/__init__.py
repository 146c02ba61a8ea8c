"""Processes and sockets: all that touches the system. Imports `policy` and `config`, never the reverse."""
