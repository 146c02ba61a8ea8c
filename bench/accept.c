/* Accepts on 127.0.0.1:PORT, writes a line, closes: what the clients can do with a server that does nothing else. */
#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	here.sin_port = htons(argc > 1 ? atoi(argv[1]) : 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 1000))
		return 1;
	for (int client; (client = accept(listener, NULL, NULL)) >= 0; close(client))
		if (write(client, "hello\n", 6) != 6)
			return 1;
	return 1;
}
