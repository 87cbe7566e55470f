/* The load driver of the bench: N keep-alive connections, one request in flight on each, one
 * thread, epoll, loopback only, bounded in count and time.
 *
 * Every answer is read to its end and checked: the status, Content-Length or chunk framing, with
 * --stream also the closing [DONE] event, and the expected payload bytes and events when given. An
 * answer that fails any check counts as an error and never as a request. Prints one JSON line. */
#include "tls.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <unistd.h>

#define MAX_CONNECTIONS 4096
#define MAX_ERRORS 100
#define MAX_HEADERS 32
#define EVENTS 256
#define DONE "data: [DONE]\n\n"
#define DONE_SIZE (sizeof DONE - 1)

enum fault { CONNECT, STATUS, FRAMING, TRUNCATED, BYTES, EVENT_COUNT, NO_DONE, STALLED, FAULTS };
static const char *const fault_names[FAULTS] = {"connect", "status", "framing", "truncated",
                                                "bytes", "events", "no_done", "stalled"};

enum phase { CLOSED, CONNECTING, SENDING, READING_HEAD, READING_BODY };

struct conn {
    struct channel channel;
    enum phase phase;
    size_t sent;
    uint64_t started, first;
    size_t used; /* bytes of an incomplete head */
    struct framing framing;
    struct chunks chunks;
    long left; /* of a plainly framed body */
    long payload, events;
    bool newline; /* the last payload byte ended a line */
    size_t tail_size;
    char tail[DONE_SIZE];
    char head[MAX_HEAD];
};

/* Log-linear: 64 steps to each power of two, so a reading is at most 1.6 % off. */
#define STEPS 64
struct histogram {
    uint64_t cells[64 * STEPS];
    uint64_t total, max;
};

static struct sockaddr_storage target;
static socklen_t target_size;
static char *request;
static size_t request_size;
static bool streams;
static long expect_bytes = -1, expect_events = -1;
static char ok_status[16] = "HTTP/1.1 200";
static long limit_requests, stall_seconds = 10;
static uint64_t stop_at;

/* Keys of one length, one a line: request after request carries the next one. */
static char *keys, *key_place;
static size_t key_size, key_count, next_key;

static int poller;
static long started, finished, faults[FAULTS], all_faults, connects;
static uint64_t received, payload_bytes, event_count, reads;
static struct histogram latency, first_chunk;
static char scratch[262144];

static void start_request(struct conn *c);
static void fail(struct conn *c, enum fault fault);

/* ---- figures */

static size_t cell_of(uint64_t ns) {
    if (ns < STEPS) return (size_t)ns;
    int shift = 63 - __builtin_clzll(ns) - 6;
    return (size_t)(shift + 1) * STEPS + ((size_t)(ns >> shift) - STEPS);
}

static uint64_t value_of(size_t cell) {
    if (cell < STEPS) return cell;
    return ((uint64_t)(cell % STEPS) + STEPS) << (cell / STEPS - 1);
}

static void observe(struct histogram *h, uint64_t ns) {
    h->cells[cell_of(ns)]++;
    h->total++;
    if (ns > h->max) h->max = ns;
}

static double quantile_us(const struct histogram *h, double q) {
    uint64_t seen = 0, rank = (uint64_t)((double)h->total * q);
    for (size_t i = 0; i < sizeof h->cells / sizeof *h->cells; i++) {
        seen += h->cells[i];
        if (seen > rank) return (double)value_of(i) / 1000.0;
    }
    return (double)h->max / 1000.0;
}

/* ---- a connection */

static bool may_start(void) {
    if (all_faults >= MAX_ERRORS) return false;
    if (limit_requests && started >= limit_requests) return false;
    return !stop_at || now_ns() < stop_at;
}

static void hang_up(struct conn *c) {
    if (c->phase != CLOSED) channel_close(&c->channel);
    c->phase = CLOSED;
}

static void dial(struct conn *c) {
    int fd = socket(target.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket", strerror(errno));
    channel_open(&c->channel, fd, true);
    c->phase = CONNECTING;
    connects++;
    tune(fd);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0) die("epoll_ctl", strerror(errno));
    if (connect(fd, (struct sockaddr *)&target, target_size) < 0 && errno != EINPROGRESS)
        fail(c, CONNECT);
}

/* An error ends its request and its connection; a new one is dialled while there is work left. */
static void fail(struct conn *c, enum fault fault) {
    faults[fault]++;
    all_faults++;
    hang_up(c);
    if (may_start()) {
        started++;
        dial(c);
    }
}

static void finish(struct conn *c) {
    uint64_t now = now_ns();
    if (expect_bytes >= 0 && c->payload != expect_bytes) return fail(c, BYTES);
    if (expect_events >= 0 && c->events != expect_events) return fail(c, EVENT_COUNT);
    if (streams && (c->tail_size != DONE_SIZE || memcmp(c->tail, DONE, DONE_SIZE) != 0))
        return fail(c, NO_DONE);
    observe(&latency, now - c->started);
    observe(&first_chunk, c->first - c->started);
    finished++;
    payload_bytes += (uint64_t)c->payload;
    event_count += (uint64_t)c->events;
    bool more = may_start();
    if (!more || c->framing.close) hang_up(c);
    if (!more) return;
    started++;
    if (c->framing.close) dial(c);
    else start_request(c);
}

static void send_request(struct conn *c) {
    while (c->sent < request_size) {
        ssize_t sent = channel_send(&c->channel, request + c->sent, request_size - c->sent);
        if (sent < 0 && errno == EAGAIN) return;
        if (sent < 0) return fail(c, TRUNCATED);
        c->sent += (size_t)sent;
    }
    c->phase = READING_HEAD;
}

static void start_request(struct conn *c) {
    c->phase = SENDING;
    c->sent = c->used = c->tail_size = 0;
    c->payload = c->events = 0;
    c->newline = false;
    c->first = 0;
    c->started = now_ns();
    if (keys) memcpy(key_place, keys + next_key++ % key_count * (key_size + 1), key_size);
    send_request(c);
}

/* ---- answers */

static void keep_tail(struct conn *c, const char *data, size_t size) {
    if (size >= DONE_SIZE) {
        memcpy(c->tail, data + size - DONE_SIZE, DONE_SIZE);
        c->tail_size = DONE_SIZE;
        return;
    }
    size_t keep = c->tail_size + size > DONE_SIZE ? DONE_SIZE - size : c->tail_size;
    memmove(c->tail, c->tail + c->tail_size - keep, keep);
    memcpy(c->tail + keep, data, size);
    c->tail_size = keep + size;
}

/* Takes payload: counts its bytes and, in a stream, its events (an empty line ends one). */
static void take(struct conn *c, const char *data, size_t size) {
    c->payload += (long)size;
    if (c->first == 0) c->first = now_ns();
    if (!streams) return;
    const char *end = data + size;
    for (const char *at = data; at < end; at++) {
        if (*at == '\n' && c->newline) {
            c->events++;
            c->newline = false;
            continue;
        }
        if (*at == '\n') {
            c->newline = true;
            continue;
        }
        c->newline = false;
        if ((at = memchr(at, '\n', (size_t)(end - at))) == NULL) break;
        c->newline = true;
    }
    keep_tail(c, data, size);
}

/* 1: the body is complete; 0: more is to come; -1: its framing is broken. */
static int take_body(struct conn *c, const char *data, size_t size) {
    if (!c->framing.chunked) {
        if ((long)size > c->left) return -1;
        c->left -= (long)size;
        take(c, data, size);
        return c->left == 0;
    }
    while (size > 0) {
        const char *piece;
        size_t piece_size;
        if (c->chunks.state == CHUNK_DONE) return -1;
        ssize_t step = chunk_next(&c->chunks, data, size, &piece, &piece_size);
        if (step < 0) return -1;
        if (piece_size > 0) take(c, piece, piece_size);
        data += step;
        size -= (size_t)step;
    }
    return c->chunks.state == CHUNK_DONE;
}

static bool is_ok(const char *head) {
    return memcmp(head, ok_status, 12) == 0 && (head[12] == ' ' || head[12] == '\r');
}

/* Goes on with `size` bytes behind c->used in c->head. */
static void take_head(struct conn *c, size_t size) {
    c->used += size;
    size_t head = head_size(c->head, c->used);
    if (head == 0) {
        if (c->used == MAX_HEAD) fail(c, FRAMING);
        return;
    }
    if (!is_ok(c->head)) return fail(c, STATUS);
    if (!read_framing(c->head, head, &c->framing)) return fail(c, FRAMING);
    if (!c->framing.chunked && c->framing.length < 0) return fail(c, FRAMING);
    c->left = c->framing.length;
    c->chunks = (struct chunks){.state = CHUNK_SIZE};
    c->phase = READING_BODY;
    int state = take_body(c, c->head + head, c->used - head);
    if (state < 0) fail(c, FRAMING);
    else if (state > 0) finish(c);
}

/* One read; false when the socket is empty or was closed. */
static bool read_once(struct conn *c, bool last) {
    bool in_head = c->phase == READING_HEAD;
    char *to = in_head ? c->head + c->used : scratch;
    size_t room = in_head ? MAX_HEAD - c->used : sizeof scratch;
    ssize_t got = channel_recv(&c->channel, to, room);
    if (got < 0 && errno == EAGAIN) return false;
    if (got <= 0) return fail(c, TRUNCATED), false;
    reads++;
    received += (uint64_t)got;
    if (in_head) {
        take_head(c, (size_t)got);
    } else {
        int state = take_body(c, to, (size_t)got);
        if (state < 0) fail(c, FRAMING);
        else if (state > 0) finish(c);
    }
    /* Edge-triggered: a short read has emptied the socket, unless the peer's end is behind it, or
     * it was one TLS record of several. */
    return (size_t)got == room || last || c->channel.ssl != NULL;
}

static void serve(struct conn *c, uint32_t events) {
    bool ended = events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);
    if (c->phase == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->channel.fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error != 0) return fail(c, CONNECT);
        if (!(events & EPOLLOUT)) return;
        start_request(c);
    } else if (c->phase == SENDING && (events & EPOLLOUT || c->channel.ssl != NULL)) {
        send_request(c); /* in a handshake also after a read */
    } else if (!(events & EPOLLIN) && !ended) {
        return;
    }
    /* Also without EPOLLIN: an answer that overtook the request's end had its edge before. */
    while (c->phase == READING_HEAD || c->phase == READING_BODY)
        if (!read_once(c, ended)) break;
    if (c->phase == SENDING && ended) fail(c, TRUNCATED);
}

/* ---- the run */

static void run(struct conn *conns, long count) {
    struct epoll_event events[EVENTS];
    uint64_t give_up = (uint64_t)stall_seconds * 1000000000u, quiet_since = 0;
    for (long i = 0; i < count && may_start(); i++) {
        started++;
        dial(&conns[i]);
    }
    while (finished + all_faults < started) {
        int ready = epoll_wait(poller, events, EVENTS, 200);
        for (int i = 0; i < ready; i++) serve(events[i].data.ptr, events[i].events);
        if (ready != 0) {
            quiet_since = 0;
        } else if (quiet_since == 0) {
            quiet_since = now_ns();
        } else if (now_ns() - quiet_since > give_up) {
            faults[STALLED] += started - finished - all_faults;
            all_faults = started - finished;
        }
    }
}

static void report(double seconds) {
    printf("{\"requests\":%ld,\"seconds\":%.6f,\"per_second\":%.1f,\"connects\":%ld,\"errors\":%ld",
           finished, seconds, (double)finished / seconds, connects, all_faults);
    for (int i = 0; i < FAULTS; i++)
        if (faults[i]) printf(",\"error_%s\":%ld", fault_names[i], faults[i]);
    printf(",\"bytes\":%lu,\"payload_bytes\":%lu,\"events\":%lu,\"reads\":%lu", received,
           payload_bytes, event_count, reads);
    printf(",\"p50_us\":%.1f,\"p90_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f",
           quantile_us(&latency, 0.5), quantile_us(&latency, 0.9), quantile_us(&latency, 0.99),
           (double)latency.max / 1000.0);
    printf(",\"first_p50_us\":%.1f,\"first_p99_us\":%.1f}\n", quantile_us(&first_chunk, 0.5),
           quantile_us(&first_chunk, 0.99));
}

/* ---- options */

static char *read_file(const char *path, size_t *size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    off_t end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    if (end < 0) die(path, strerror(errno));
    if (end > MAX_BODY) die(path, "larger than 64 MiB");
    char *data = must(malloc((size_t)end + 1));
    for (*size = 0; *size < (size_t)end;) {
        ssize_t got = pread(fd, data + *size, (size_t)end - *size, (off_t)*size);
        if (got <= 0) die(path, "cannot be read");
        *size += (size_t)got;
    }
    close(fd);
    return data;
}

/* "http://127.0.0.1:80", "[::1]:80" or "localhost:80"; anything but loopback ends the program. */
static void set_target(const char *url) {
    char host[64];
    if (strncmp(url, "http://", 7) == 0) url += 7;
    const char *colon = strrchr(url, ':');
    if (colon == NULL || colon == url || (size_t)(colon - url) >= sizeof host)
        die(url, "wants host:port");
    memcpy(host, url, (size_t)(colon - url));
    host[colon - url] = '\0';
    uint16_t port = htons((uint16_t)option_number("--url", colon + 1, 1, 65535));
    struct sockaddr_in *v4 = (struct sockaddr_in *)&target;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&target;
    if (strcmp(host, "[::1]") == 0) {
        *v6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = port,
                                    .sin6_addr = IN6ADDR_LOOPBACK_INIT};
        target_size = sizeof *v6;
        return;
    }
    *v4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = port};
    target_size = sizeof *v4;
    const char *literal = strcmp(host, "localhost") == 0 ? "127.0.0.1" : host;
    if (inet_pton(AF_INET, literal, &v4->sin_addr) != 1 || ntohl(v4->sin_addr.s_addr) >> 24 != 127)
        die(url, "not a loopback address; this driver loads nothing else");
}

static void write_request(const char *url, const char *path, const char *body_file, char **headers,
                          int count) {
    size_t body_size = 0;
    char *body = body_file ? read_file(body_file, &body_size) : NULL;
    FILE *out = open_memstream(&request, &request_size);
    if (out == NULL) die("memory", strerror(errno));
    if (strncmp(url, "http://", 7) == 0) url += 7;
    fprintf(out, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n", path, url);
    for (int i = 0; i < count; i++) fprintf(out, "%s\r\n", headers[i]);
    fprintf(out, "Content-Length: %zu\r\n\r\n", body_size);
    if (body) fwrite(body, 1, body_size, out);
    if (fclose(out) != 0) die("memory", strerror(errno));
    free(body);
}

static void read_keys(const char *path) {
    size_t size;
    keys = read_file(path, &size);
    key_size = strcspn(keys, "\n");
    if (key_size == 0 || size % (key_size + 1) != 0) die(path, "wants keys of one length, a line each");
    key_count = size / (key_size + 1);
}

static void find_key_place(void) {
    const char mark[] = "Authorization: Bearer ";
    char *found = memmem(request, request_size, mark, sizeof mark - 1);
    if (found == NULL || memchr(found, '\r', sizeof mark - 1 + key_size)) die("--keys", "no room");
    key_place = found + sizeof mark - 1;
}

static struct {
    const char *url, *path, *body, *authority;
    char *headers[MAX_HEADERS];
    int header_count;
    long connections, seconds;
} options = {.path = "/v1/chat/completions", .connections = 1};

static void read_option(const char *name, char *value) {
    if (!strcmp(name, "--url")) options.url = value;
    else if (!strcmp(name, "--path")) options.path = value;
    else if (!strcmp(name, "--keys")) read_keys(value);
    else if (!strcmp(name, "--body")) options.body = value;
    else if (!strcmp(name, "--connections"))
        options.connections = option_number(name, value, 1, MAX_CONNECTIONS);
    else if (!strcmp(name, "--seconds")) options.seconds = option_number(name, value, 1, 3600);
    else if (!strcmp(name, "--requests"))
        limit_requests = option_number(name, value, 1, 1000000000);
    else if (!strcmp(name, "--expect-bytes"))
        expect_bytes = option_number(name, value, 0, MAX_BODY);
    else if (!strcmp(name, "--expect-events"))
        expect_events = option_number(name, value, 0, MAX_BODY);
    else if (!strcmp(name, "--expect-status"))
        snprintf(ok_status, sizeof ok_status, "HTTP/1.1 %03ld",
                 option_number(name, value, 100, 599));
    else if (!strcmp(name, "--tls-ca")) options.authority = value;
    else if (!strcmp(name, "--stall-seconds")) stall_seconds = option_number(name, value, 1, 600);
    else if (!strcmp(name, "--header") && options.header_count < MAX_HEADERS)
        options.headers[options.header_count++] = value;
    else die(name, "unknown; use --url --path --connections --seconds --requests --body --header "
                   "--stream --expect-bytes --expect-events --expect-status --tls-ca "
                   "--stall-seconds");
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--stream")) {
            streams = true;
            continue;
        }
        if (!strcmp(argv[i], "--features")) say_features();
        if (i + 1 == argc) die(argv[i], "needs a value");
        read_option(argv[i], argv[i + 1]);
        i++;
    }
    if (options.url == NULL) die("--url", "is needed");
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
    set_target(options.url);
    if (options.authority) tls_begin(NULL, NULL, options.authority);
    write_request(options.url, options.path, options.body, options.headers, options.header_count);
    if (keys) find_key_place();
    if ((poller = epoll_create1(EPOLL_CLOEXEC)) < 0) die("epoll", strerror(errno));
    if (!options.seconds && !limit_requests) options.seconds = 1;
    alarm((unsigned)(options.seconds ? options.seconds : 3600) + 60);
    yield_politely();
    uint64_t begin = now_ns();
    if (options.seconds) stop_at = begin + (uint64_t)options.seconds * 1000000000u;
    run(must(calloc((size_t)options.connections, sizeof(struct conn))), options.connections);
    report((double)(now_ns() - begin) / 1e9);
    return all_faults ? 1 : 0;
}
