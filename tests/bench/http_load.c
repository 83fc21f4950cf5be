/* http_load PORT CONNECTIONS REQUEST: asks an HTTP server on 127.0.0.1 the same thing over and over.
 *
 * The one thing to know: each connection is kept and has one request under way; the next is sent when the answer is
 * complete. REQUEST is a file with the bytes of a whole request. It says "ready" and takes commands, a line each:
 *
 *     run SECONDS   answers with requests a second, and the share of a processor that this took here
 *
 * An answer other than 200, or one without a content-length, ends the program with status 1.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 1024, ROOM = 65536, EVENTS = 64 };

typedef struct { int socket; size_t have; char answer[ROOM + 1]; } connection;

static connection *connections;
static unsigned count;
static int poller;
static struct sockaddr_in server;
static char request[ROOM];
static size_t request_size;

static void fail(const char *what) {
    fprintf(stderr, "http_load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double processor_time(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void open_connection(connection *c) {
    int on = 1;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    c->socket = socket(AF_INET, SOCK_STREAM, 0);
    if (c->socket < 0 || connect(c->socket, (struct sockaddr *)&server, sizeof server)) fail("connect");
    setsockopt(c->socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (epoll_ctl(poller, EPOLL_CTL_ADD, c->socket, &event)) fail("epoll_ctl");
}

/* Connections that the server has closed because nothing was asked for long are opened anew. */
static void renew(connection *c) {
    char byte;
    ssize_t got = recv(c->socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (got > 0 || (got < 0 && errno == EAGAIN)) return;
    close(c->socket);
    open_connection(c);
}

static void ask(connection *c) {
    c->have = 0;
    if (send(c->socket, request, request_size, MSG_NOSIGNAL) != (ssize_t)request_size) fail("send");
}

/* Whether the answer is complete. */
static int read_on(connection *c) {
    ssize_t got = recv(c->socket, c->answer + c->have, ROOM - c->have, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return 0;
    if (got <= 0) fail("recv");
    c->have += (size_t)got;
    c->answer[c->have] = 0;
    char *body = strstr(c->answer, "\r\n\r\n");
    if (!body) return 0;
    char *length = strcasestr(c->answer, "\r\ncontent-length:");
    if (strncmp(c->answer, "HTTP/1.1 200", 12) || !length || length > body) {
        fprintf(stderr, "http_load: %s\n", c->answer);
        exit(1);
    }
    return c->have >= (size_t)(body + 4 - c->answer) + strtoul(length + 17, NULL, 10);
}

static void run(double seconds) {
    struct epoll_event events[EVENTS];
    for (unsigned i = 0; i < count; i++) renew(&connections[i]);
    double began = now(), end = began + seconds, at = began, used = processor_time();
    uint64_t answers = 0;
    unsigned under_way = count;
    for (unsigned i = 0; i < count; i++) ask(&connections[i]);
    while (under_way) {
        int ready = epoll_wait(poller, events, EVENTS, 10000);
        if (ready <= 0) fail("no answer within ten seconds");
        at = now();
        for (int i = 0; i < ready; i++) {
            connection *c = events[i].data.ptr;
            if (!read_on(c)) continue;
            answers++;
            if (at < end) ask(c);
            else under_way--;
        }
    }
    printf("%.3f %.4f\n", (double)answers / (at - began), (processor_time() - used) / (at - began));
}

int main(int argc, char **argv) {
    char line[256];
    double seconds;
    count = argc > 3 ? (unsigned)atoi(argv[2]) : 0;
    FILE *file = argc > 3 ? fopen(argv[3], "rb") : NULL;
    if (!file || !count || count > MAX_CONNECTIONS) {
        fprintf(stderr, "usage: http_load PORT CONNECTIONS REQUEST\n");
        return 2;
    }
    request_size = fread(request, 1, sizeof request, file);
    fclose(file);
    server.sin_family = AF_INET;
    server.sin_port = htons((uint16_t)atoi(argv[1]));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connections = calloc(count, sizeof *connections);
    poller = epoll_create1(0);
    if (!connections || poller < 0) fail("begin");
    for (unsigned i = 0; i < count; i++) open_connection(&connections[i]);
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "run %lf", &seconds) != 1) {
            fprintf(stderr, "http_load: what is %s", line);
            return 2;
        }
        run(seconds);
        fflush(stdout);
    }
    return 0;
}
