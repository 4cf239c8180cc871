/* An endpoint that costs next to nothing: takes uploads on 127.0.0.1, throws their bodies away inside the kernel and
 * answers {"code":200}. One thread, epoll. Content-Length only. `sink PORT`; GET anything tells, as JSON, how many
 * requests it has seen, how many bytes, and when the first began (CLOCK_MONOTONIC, seconds). Ends with its parent. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HEAD 16384
#define MOST 4096

struct connection {
    int used;
    size_t have;      /* bytes of the head so far */
    long left;        /* bytes of the body to come; -1 while the head is read */
    int expects_stats;
    char head[HEAD + 1];
};

static struct connection *connections[MOST];
static unsigned long requests, bytes;
static double first;

static void answer(int fd, struct connection *c)
{
    char body[200], reply[400];
    if (c->expects_stats) {
        snprintf(body, sizeof body, "{\"requests\":%lu,\"bytes\":%lu,\"first\":%.6f}", requests, bytes, first);
        requests = bytes = 0;
        first = 0;
    } else {
        snprintf(body, sizeof body, "{\"code\":200,\"msg\":\"ok\"}");
    }
    int n = snprintf(reply, sizeof reply, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                     strlen(body), body);
    if (send(fd, reply, n, MSG_NOSIGNAL) != n)
        shutdown(fd, SHUT_RDWR);
    c->left = -1;
    c->have = 0;
}

static void drop(int fd)
{
    connections[fd]->used = 0;
    close(fd);
}

static void take(int fd)
{
    struct connection *c = connections[fd];
    for (;;) {
        if (c->left < 0) {
            ssize_t n = recv(fd, c->head + c->have, HEAD - c->have, MSG_DONTWAIT);
            if (n < 0 && errno == EAGAIN)
                return;
            if (n <= 0) {
                drop(fd);
                return;
            }
            c->have += n;
            c->head[c->have] = 0;
            char *end = memmem(c->head, c->have, "\r\n\r\n", 4);
            if (!end) {
                if (c->have == HEAD)
                    drop(fd);
                if (c->have == HEAD)
                    return;
                continue;
            }
            c->expects_stats = !strncmp(c->head, "GET", 3);
            char *length = strcasestr(c->head, "\r\ncontent-length:");
            long size = length && length < end ? atol(length + 17) : 0;
            if (strcasestr(c->head, "\r\nexpect: 100") && send(fd, "HTTP/1.1 100 Continue\r\n\r\n", 25, MSG_NOSIGNAL) != 25)
                shutdown(fd, SHUT_RDWR);
            if (!c->expects_stats) {
                struct timespec now;
                clock_gettime(CLOCK_MONOTONIC, &now);
                if (!requests++)
                    first = now.tv_sec + now.tv_nsec / 1e9;
                bytes += size;
            }
            c->left = size - (long)(c->head + c->have - (end + 4));
        } else {
            size_t most = c->left < (1 << 24) ? c->left : 1 << 24;
            ssize_t n = recv(fd, NULL, most, MSG_DONTWAIT | MSG_TRUNC);
            if (n < 0 && errno == EAGAIN)
                return;
            if (n <= 0) {
                drop(fd);
                return;
            }
            c->left -= n;
        }
        if (c->left == 0)
            answer(fd, c);
    }
}

int main(int argc, char **argv)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1, poll = epoll_create1(0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    if (bind(listener, (struct sockaddr *)&at, size) || listen(listener, 1024))
        return 1;
    getsockname(listener, (struct sockaddr *)&at, &size);
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[256];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int n = epoll_wait(poll, events, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                take(fd);
                continue;
            }
            fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
            if (fd < 0)
                continue;
            if (fd >= MOST) {
                close(fd);
                continue;
            }
            if (!connections[fd])
                connections[fd] = malloc(sizeof(struct connection));
            connections[fd]->used = 1;
            connections[fd]->have = 0;
            connections[fd]->left = -1;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            event.data.fd = fd;
            epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
        }
    }
}
