"""Contains the parts of the log: the forms of its lines, the journal's socket, the file that is rotated.

Processes log through `process.log`. Nothing here decides whether a line is written.
"""
