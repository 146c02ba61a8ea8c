"""The process that tells the supervisor when files that it has read have changed, and its client."""
