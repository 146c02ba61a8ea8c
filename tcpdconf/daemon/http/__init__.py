"""Contains the process that serves metrics, health and a page over HTTP, and its client in the supervisor.

The process reads snapshots of the status, which the supervisor writes, and cannot send commands. This package
may import `process` and `config`. Only `exposition` imports prometheus_client, and only the HTTP process and
the command line import `exposition`.
"""
