"""Contains the watcher, a process that reports changed files to the supervisor, and its client."""
