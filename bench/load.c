/* Connects, reads to the end, closes, again and again: clients that cost as little as clients can.
 *
 *     load PORT CLIENTS AT_ONCE SOURCE NEXT [SAY]
 *
 * CLIENTS connections to 127.0.0.1:PORT, AT_ONCE of them at a time, the first from the address SOURCE (a number),
 * each of the others from the one that is NEXT (0 or 1) higher; each sends SAY and a line's end first. Prints the
 * seconds that all of it took, the median of those from a connect to its end, and how many clients were told
 * anything.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SECONDS 30 /* without any event, after which nothing is expected any more */

struct client
{
	int socket, told;
	double began;
};

static int events, port, next, begun, served;
static in_addr_t source;
static char say[256];
static double *durations;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec * 1e-9;
}

static struct sockaddr_in end(in_addr_t address, int number)
{
	struct sockaddr_in made = {.sin_family = AF_INET, .sin_port = htons(number), .sin_addr = {htonl(address)}};
	return made;
}

static void await(struct client *client, int how, unsigned what)
{
	struct epoll_event event = {.events = what, .data.ptr = client};

	if (epoll_ctl(events, how, client->socket, &event))
		fail("epoll_ctl");
}

static void begin(struct client *client)
{
	struct sockaddr_in from = end(source + begun++ * next, 0), to = end(INADDR_LOOPBACK, port);
	int one = 1;

	client->began = now();
	client->told = 0;
	client->socket = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	/* The port is chosen at the connect: the same one can then be had from many addresses, and at once. */
	if (source != INADDR_LOOPBACK
	    && (setsockopt(client->socket, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one)
	        || bind(client->socket, (struct sockaddr *)&from, sizeof from)))
		fail("bind");
	if (connect(client->socket, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS)
		fail("connect");
	await(client, EPOLL_CTL_ADD, *say ? EPOLLOUT : EPOLLIN);
}

/* Whether the connection has come to its end. A refusal may be a reset. */
static int go_on(struct client *client, unsigned what)
{
	char said[4096];
	ssize_t got;

	if (what == EPOLLOUT)
	{
		if (send(client->socket, say, strlen(say), MSG_NOSIGNAL) < 0)
			fail("send");
		await(client, EPOLL_CTL_MOD, EPOLLIN);
		return 0;
	}
	got = recv(client->socket, said, sizeof said, 0);
	client->told |= got > 0;
	if (got < 0 && errno != ECONNRESET)
		fail("recv");
	return got <= 0;
}

/* Closes with a reset, so that no port stays in TIME_WAIT. */
static void finish(struct client *client)
{
	struct linger at_once = {.l_onoff = 1};

	served += client->told;
	setsockopt(client->socket, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
	close(client->socket);
}

static int compare(const void *one, const void *other)
{
	double left = *(const double *)one, right = *(const double *)other;
	return (left > right) - (left < right);
}

int main(int argc, char **argv)
{
	int ended = 0, clients = atoi(argv[2]), at_once = atoi(argv[3]);
	struct client client[at_once];
	struct epoll_event ready[64];
	double began, took;

	port = atoi(argv[1]);
	source = strtoul(argv[4], NULL, 0);
	next = atoi(argv[5]);
	if (argc > 6)
		snprintf(say, sizeof say, "%s\r\n", argv[6]);
	durations = calloc(clients, sizeof *durations);
	events = epoll_create1(0);
	began = now();
	while (begun < at_once && begun < clients)
		begin(&client[begun]);
	while (ended < clients)
	{
		int count = epoll_wait(events, ready, 64, SECONDS * 1000);

		if (count <= 0)
			fail("epoll_wait");
		for (int index = 0; index < count; index++)
		{
			struct client *which = ready[index].data.ptr;

			if (!go_on(which, ready[index].events))
				continue;
			durations[ended++] = now() - which->began;
			finish(which);
			if (begun < clients)
				begin(which);
		}
	}
	took = now() - began;
	qsort(durations, clients, sizeof *durations, compare);
	printf("%.9f %.9f %d\n", took, durations[clients / 2], served);
	return 0;
}
