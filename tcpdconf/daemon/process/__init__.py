"""Contains the parts that every process of the daemon uses: loop, signals, log, channel, rights.

Nothing here knows about services, connections or DNS.
"""
