"""What the administrator wrote. Starts no process and opens no socket; knows neither policy nor daemon."""
