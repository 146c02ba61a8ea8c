"""DNS lists and host names as values: which questions, what the answers mean, whom to believe. Pure."""
