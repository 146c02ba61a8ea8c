/* Connects, reads to the end, closes, again and again: clients that cost as little as clients can.
 *
 *     load PORT CLIENTS AT_ONCE SOURCE NEXT
 *
 * CLIENTS connections to 127.0.0.1:PORT, AT_ONCE of them at a time, the first from the address SOURCE (a number),
 * each of the others from the one that is NEXT (0 or 1) higher. Prints the seconds that all of it took.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_in end(in_addr_t address, int port)
{
	struct sockaddr_in made = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(address)}};
	return made;
}

static void connect_to_eof(in_addr_t source, int port)
{
	static char said[65536];
	struct sockaddr_in from = end(source, 0), to = end(INADDR_LOOPBACK, port);
	int client = socket(AF_INET, SOCK_STREAM, 0);

	if (bind(client, (struct sockaddr *)&from, sizeof from) || connect(client, (struct sockaddr *)&to, sizeof to)
	    || recv(client, said, sizeof said, MSG_WAITALL) <= 0)
	{
		perror("load");
		_exit(1);
	}
	close(client);
}

int main(int argc, char **argv)
{
	int failed = 0, port = atoi(argv[1]), clients = atoi(argv[2]), at_once = atoi(argv[3]), next = atoi(argv[5]);
	in_addr_t source = strtoul(argv[4], NULL, 0);
	struct timespec began, ended;

	clock_gettime(CLOCK_MONOTONIC, &began);
	for (int number = 0; number < at_once; number++)
		if (fork() == 0)
		{
			for (int client = number; client < clients; client += at_once)
				connect_to_eof(source + client * next, port);
			_exit(0);
		}
	for (int status; wait(&status) > 0;)
		failed |= status;
	clock_gettime(CLOCK_MONOTONIC, &ended);
	printf("%.9f\n", ended.tv_sec - began.tv_sec + (ended.tv_nsec - began.tv_nsec) * 1e-9);
	return failed != 0;
}
