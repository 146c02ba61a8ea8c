/* The program that is served: writes a line and ends; for a client at 127.0.0.2 it waits until that one ends. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(void)
{
	const char *peer = getenv("TCPREMOTEIP");
	char byte;

	if (write(1, "hello\n", 6) != 6)
		return 1;
	if (peer && strstr(peer, "127.0.0.2"))
		while (read(0, &byte, 1) > 0)
			;
	return 0;
}
