"""Contains the process that serves metrics, health and a page over HTTP, and its client in the supervisor.

It reads snapshots of the status, which the supervisor writes, and cannot command. It may import `process` and
`config`. Only `exposition` imports prometheus_client, and only this process and the command line import that.
"""
