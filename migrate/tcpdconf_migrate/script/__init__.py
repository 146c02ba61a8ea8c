"""Shell text: its words, its commands, its variables and state, read without running it. Pure."""
