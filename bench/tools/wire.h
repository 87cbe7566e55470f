/* What the fake provider and the load driver both know of HTTP/1.1: where a head ends, how its body
 * is framed, and how to walk a chunked body. Strict (RFC 9112): what a gateway breaks must show up
 * as an error in the bench, never as a fast request. No I/O here but the small set-up helpers. */
#ifndef FASTGW_BENCH_WIRE_H
#define FASTGW_BENCH_WIRE_H

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>

#define MAX_HEAD 16384
#define MAX_BODY (64L << 20)

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline _Noreturn void die(const char *what, const char *detail) {
    fprintf(stderr, "%s: %s\n", what, detail);
    exit(2);
}

static inline void *must(void *memory) {
    if (memory == NULL) die("memory", strerror(errno));
    return memory;
}

/* A whole number in [low, high], or the program ends: a mistyped option must not become a 0. */
static inline long option_number(const char *name, const char *text, long low, long high) {
    char *end = NULL;
    errno = 0;
    long value = strtol(text, &end, 10);
    bool whole = errno == 0 && end != text && *end == '\0';
    if (!whole || value < low || value > high) die(name, "out of range");
    return value;
}

/* No delay, and reno where the system's default would be another: bbr paces and models every ACK,
 * which on loopback only makes the tools dearer than the gateway under test may be. The gateway's
 * own sockets keep the default; every Linux kernel has reno built in. */
static inline void tune(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
}

/* Both tools share a core. As batch tasks neither throws the other off it at every wake-up: with
 * one switch a chunk saved they keep ahead of the gateway, which is what is to be measured. */
static inline void yield_politely(void) {
    struct sched_param none = {0};
    sched_setscheduler(0, SCHED_BATCH, &none);
}

/* ---- heads */

struct framing {
    long length; /* Content-Length, -1: none */
    bool chunked;
    bool close; /* "connection: close" */
};

/* Bytes of the head with its empty line, 0 while it is incomplete. */
static inline size_t head_size(const char *data, size_t size) {
    const char *end = memmem(data, size, "\r\n\r\n", 4);
    return end == NULL ? 0 : (size_t)(end - data) + 4;
}

static inline bool is_header(const char *line, size_t size, const char *name, size_t name_size) {
    return size > name_size && line[name_size] == ':' && strncasecmp(line, name, name_size) == 0;
}

/* The digits of a Content-Length, -1 when it is anything else. */
static inline long read_length(const char *at, const char *end) {
    long value = 0;
    while (at < end && (*at == ' ' || *at == '\t')) at++;
    if (at == end) return -1;
    for (; at < end; at++) {
        if (*at < '0' || *at > '9') return -1;
        value = value * 10 + (*at - '0');
        if (value > MAX_BODY) return -1;
    }
    return value;
}

static inline bool value_is(const char *at, const char *end, const char *word) {
    while (at < end && (*at == ' ' || *at == '\t')) at++;
    return (size_t)(end - at) == strlen(word) && strncasecmp(at, word, strlen(word)) == 0;
}

/* Reads the framing fields of a complete head; false when they are malformed or contradict. */
static inline bool read_framing(const char *head, size_t size, struct framing *out) {
    const char *end = head + size;
    const char *line = (const char *)memchr(head, '\n', size) + 1;
    *out = (struct framing){.length = -1};
    while (line < end) {
        const char *stop = memchr(line, '\r', (size_t)(end - line));
        if (stop == NULL || stop + 1 >= end || stop[1] != '\n') return false;
        size_t length = (size_t)(stop - line);
        char first = (char)(*line | 0x20);
        if (first == 'c' && is_header(line, length, "content-length", 14)) {
            if (out->length != -1) return false;
            if ((out->length = read_length(line + 15, stop)) < 0) return false;
        } else if (first == 'c' && is_header(line, length, "connection", 10)) {
            out->close = value_is(line + 11, stop, "close");
        } else if (first == 't' && is_header(line, length, "transfer-encoding", 17)) {
            if (out->chunked || !value_is(line + 18, stop, "chunked")) return false;
            out->chunked = true;
        }
        line = stop + 2;
    }
    return !(out->chunked && out->length != -1);
}

/* ---- chunked bodies */

enum chunk_state {
    CHUNK_SIZE, CHUNK_EXTENSION, CHUNK_SIZE_LF, CHUNK_DATA, CHUNK_DATA_CR, CHUNK_DATA_LF,
    CHUNK_LAST_CR, CHUNK_LAST_LF, CHUNK_DONE
};

struct chunks {
    enum chunk_state state;
    uint64_t left;
    int digits;
};

static inline int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One framing byte; false when it is wrong. Trailers are refused: nothing here sends any. */
static inline bool chunk_step(struct chunks *c, char byte) {
    int digit;
    switch (c->state) {
    case CHUNK_SIZE:
        if ((digit = hex_digit(byte)) >= 0) {
            c->left = c->left * 16 + (uint64_t)digit;
            return ++c->digits <= 8;
        }
        if (c->digits == 0) return false;
        c->state = byte == '\r' ? CHUNK_SIZE_LF : CHUNK_EXTENSION;
        return byte == '\r' || byte == ';';
    case CHUNK_EXTENSION:
        if (byte == '\r') c->state = CHUNK_SIZE_LF;
        return byte != '\n';
    case CHUNK_SIZE_LF:
        c->state = c->left == 0 ? CHUNK_LAST_CR : CHUNK_DATA;
        return byte == '\n';
    case CHUNK_DATA_CR:
        c->state = CHUNK_DATA_LF;
        return byte == '\r';
    case CHUNK_DATA_LF:
        *c = (struct chunks){.state = CHUNK_SIZE};
        return byte == '\n';
    case CHUNK_LAST_CR:
        c->state = CHUNK_LAST_LF;
        return byte == '\r';
    case CHUNK_LAST_LF:
        c->state = CHUNK_DONE;
        return byte == '\n';
    default:
        return false;
    }
}

/* Consumes up to and with one piece of payload (*piece, *piece_size; size 0: none in these bytes).
 * Returns the bytes consumed, -1 on bad framing. The body has ended when state is CHUNK_DONE. */
static inline ssize_t chunk_next(struct chunks *c, const char *data, size_t size,
                                 const char **piece, size_t *piece_size) {
    size_t at = 0;
    *piece_size = 0;
    while (at < size && c->state != CHUNK_DONE) {
        if (c->state != CHUNK_DATA) {
            if (!chunk_step(c, data[at++])) return -1;
            continue;
        }
        size_t take = size - at < c->left ? size - at : (size_t)c->left;
        *piece = data + at;
        *piece_size = take;
        c->left -= take;
        if (c->left == 0) c->state = CHUNK_DATA_CR;
        return (ssize_t)(at + take);
    }
    return (ssize_t)at;
}

#endif
