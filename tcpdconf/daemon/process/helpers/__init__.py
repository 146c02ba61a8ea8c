"""Contains the helper processes of the supervisor: broker, cluster and HTTP process, each kept running.

`helper` and `child_channel` are the supervisor's side, `confinement` is the side of the process.
"""
