/* The fake provider of the bench: HTTP/1.1 keep-alive on loopback, one thread, no dependency.
 *
 * A POST is answered with a chat completion of about 600 bytes, or, when its body holds
 * "stream": true, with N server-sent events of about 200 bytes, chunk-framed. Without a delay the
 * whole stream leaves in one write (burst); with --chunk-delay-us, or "chunk_delay_us": N in the
 * body, one write an event on that stream's own beat. The first beat comes after a pseudo-random
 * part of the delay: streams that tick together would flatter whoever batches wake-ups. A usage
 * event comes before [DONE] when the body holds "include_usage": true. With "hold": true a stream
 * falls silent after its first event, for good. GET answers a model list.
 *
 * Prints {"port":N} at start and its counts at the end (SIGTERM, SIGINT or --max-seconds). */
#include "tls.h"

#include <arpa/inet.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define FIRST_BUFFER 16384
#define EVENTS 256

struct text {
    char *data;
    size_t size, capacity;
};

/* One whole answer, and where each of its writes ends. */
struct script {
    struct text text;
    size_t *ends;
    size_t pieces;
};

struct conn {
    struct channel channel;
    char *in; /* request bytes; a pipelined next request stays behind the first */
    size_t used, capacity;
    size_t body_at; /* 0: the head is not complete yet */
    size_t body_size;
    struct framing framing;
    struct chunks chunks;
    size_t chunks_read; /* bytes behind the head that were walked */
    const char *out;
    size_t left;
    const struct script *script;
    size_t piece; /* next piece of a paced script; script->pieces: all handed over */
    bool answering, held;
    uint64_t delay_ns, due;
    size_t heap_slot; /* 1-based; 0: no timer */
};

static struct {
    unsigned long requests, streams, chunks, bad, aborted, connections;
} counts;

static struct script json, models, streams[2]; /* streams[1] carries the usage event */
static long delay_us; /* of a stream that names none */
static int poller;
static volatile sig_atomic_t stopping;

/* ---- the answers */

static void append(struct text *text, const char *data, size_t size) {
    if (text->size + size > text->capacity) {
        text->capacity = (text->size + size) * 2;
        text->data = must(realloc(text->data, text->capacity));
    }
    memcpy(text->data + text->size, data, size);
    text->size += size;
}

static void append_chunk(struct text *text, const char *data) {
    char head[24];
    int size = snprintf(head, sizeof head, "%zx\r\n", strlen(data));
    append(text, head, (size_t)size);
    append(text, data, strlen(data));
    append(text, "\r\n", 2);
}

static struct script plain_answer(const char *body) {
    struct script script = {.pieces = 1, .ends = must(malloc(sizeof(size_t)))};
    char head[256];
    int size = snprintf(head, sizeof head,
                        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                        "X-Request-Id: req_bench\r\nContent-Length: %zu\r\n\r\n", strlen(body));
    append(&script.text, head, (size_t)size);
    append(&script.text, body, strlen(body));
    script.ends[0] = script.text.size;
    return script;
}

static void append_event(struct text *text, long number, bool last) {
    char event[512];
    snprintf(event, sizeof event,
             "data: {\"id\":\"chatcmpl-bench000000000000\",\"object\":\"chat.completion.chunk\","
             "\"created\":1700000000,\"model\":\"bench\",\"choices\":[{\"index\":0,\"delta\":{"
             "%s\"content\":\" word %06ld\"},\"finish_reason\":%s}]}\n\n",
             number == 0 ? "\"role\":\"assistant\"," : "", number, last ? "\"stop\"" : "null");
    append_chunk(text, event);
}

static struct script stream_answer(long events, bool usage) {
    static const char head[] =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
        "Cache-Control: no-cache\r\nX-Request-Id: req_bench\r\n"
        "Transfer-Encoding: chunked\r\n\r\n";
    struct script script = {.pieces = (size_t)events,
                            .ends = must(malloc((size_t)events * sizeof(size_t)))};
    append(&script.text, head, sizeof head - 1);
    for (long i = 0; i < events; i++) {
        append_event(&script.text, i, i == events - 1);
        script.ends[i] = script.text.size;
    }
    if (usage) {
        append_chunk(&script.text,
                     "data: {\"id\":\"chatcmpl-bench000000000000\","
                     "\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
                     "\"model\":\"bench\",\"choices\":[],\"usage\":{"
                     "\"prompt_tokens\":280,\"completion_tokens\":50,\"total_tokens\":330}}\n\n");
    }
    append_chunk(&script.text, "data: [DONE]\n\n");
    append(&script.text, "0\r\n\r\n", 5);
    script.ends[events - 1] = script.text.size;
    return script;
}

static void write_answers(long events) {
    json = plain_answer(
        "{\"id\":\"chatcmpl-bench000000000000\",\"object\":\"chat.completion\","
        "\"created\":1700000000,\"model\":\"bench\",\"choices\":[{\"index\":0,"
        "\"message\":{\"role\":\"assistant\",\"content\":"
        "\"A gateway stands between many clients and many providers. It checks who is asking, "
        "keeps count of what was spent, picks a deployment that is alive, and hands the answer "
        "back as it came. What it adds should be too small to notice.\","
        "\"refusal\":null},\"logprobs\":null,"
        "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":280,\"completion_tokens\":50,"
        "\"total_tokens\":330,\"prompt_tokens_details\":{\"cached_tokens\":0}},"
        "\"service_tier\":\"default\",\"system_fingerprint\":\"fp_bench\"}");
    models = plain_answer("{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\","
                          "\"created\":1700000000,\"owned_by\":\"bench\"}]}");
    streams[0] = stream_answer(events, false);
    streams[1] = stream_answer(events, true);
}

/* ---- the beats of paced streams: a binary heap by due time */

static struct conn **heap; /* 1-based */
static size_t heap_used, heap_capacity;

static void place(struct conn *c, size_t slot) {
    heap[slot] = c;
    c->heap_slot = slot;
}

static void sift_up(struct conn *c, size_t slot) {
    for (; slot > 1 && heap[slot / 2]->due > c->due; slot /= 2) place(heap[slot / 2], slot);
    place(c, slot);
}

static void sift_down(struct conn *c, size_t slot) {
    for (size_t child; (child = slot * 2) <= heap_used; slot = child) {
        if (child < heap_used && heap[child + 1]->due < heap[child]->due) child++;
        if (heap[child]->due >= c->due) break;
        place(heap[child], slot);
    }
    place(c, slot);
}

static void arm(struct conn *c, uint64_t due) {
    c->due = due;
    if (heap_used + 1 >= heap_capacity) {
        heap_capacity = heap_capacity ? heap_capacity * 2 : 256;
        heap = must(realloc(heap, heap_capacity * sizeof *heap));
    }
    sift_up(c, ++heap_used);
}

static void disarm(struct conn *c) {
    size_t slot = c->heap_slot;
    if (slot == 0) return;
    c->heap_slot = 0;
    struct conn *moved = heap[heap_used--];
    if (moved == c) return;
    sift_down(moved, slot);
    sift_up(moved, moved->heap_slot);
}

/* ---- a connection */

static void drop(struct conn *c) {
    if (c->answering) counts.aborted++;
    disarm(c);
    channel_close(&c->channel);
    free(c->in);
    free(c);
}

/* The value behind the quoted name as a JSON key, NULL when it is not there. Looks from quote to
 * quote: a long prompt has few, so 100 KB cost 3 us and not the 60 us of memmem. */
static const char *find_value(const char *body, size_t size, const char *name) {
    size_t length = strlen(name);
    const char *end = body + size;
    const char *at = body;
    while ((at = memchr(at, '"', (size_t)(end - at))) != NULL) {
        if ((size_t)(end - at) <= length || memcmp(at, name, length) != 0) {
            at++;
            continue;
        }
        for (at += length; at < end && (*at == ' ' || *at == '\n');) at++;
        if (at == end || *at != ':') continue;
        for (at++; at < end && (*at == ' ' || *at == '\n');) at++;
        return at < end ? at : NULL;
    }
    return NULL;
}

static bool is_true(const char *body, size_t size, const char *name) {
    const char *value = find_value(body, size, name);
    return value != NULL && body + size - value >= 4 && memcmp(value, "true", 4) == 0;
}

static uint64_t read_delay(const char *body, size_t size) {
    const char *at = find_value(body, size, "\"chunk_delay_us\"");
    uint64_t value = 0;
    if (at == NULL) return (uint64_t)delay_us * 1000;
    for (; at < body + size && *at >= '0' && *at <= '9' && value < 10000000u; at++)
        value = value * 10 + (uint64_t)(*at - '0');
    return value * 1000;
}

static uint64_t random_below(uint64_t bound) {
    static uint64_t state = 0x9e3779b97f4a7c15u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return bound == 0 ? 0 : state % bound;
}

/* Hands the next piece (or, in a burst, all of them) to the connection. */
static void take_piece(struct conn *c) {
    size_t from = c->piece == 0 ? 0 : c->script->ends[c->piece - 1];
    size_t next = c->delay_ns == 0 ? c->script->pieces : c->piece + 1;
    c->out = c->script->text.data + from;
    c->left = c->script->ends[next - 1] - from;
    if (c->script != &json && c->script != &models) counts.chunks += next - c->piece;
    c->piece = next;
}

static void begin_answer(struct conn *c) {
    const char *body = c->in + c->body_at;
    c->delay_ns = 0;
    c->held = false;
    counts.requests++;
    if (c->in[0] == 'G') {
        c->script = &models;
    } else if (is_true(body, c->body_size, "\"stream\"")) {
        c->script = &streams[is_true(body, c->body_size, "\"include_usage\"")];
        c->delay_ns = read_delay(body, c->body_size);
        c->held = is_true(body, c->body_size, "\"hold\"");
        if (c->held) c->delay_ns = 1; /* piece by piece, and no second one */
        counts.streams++;
    } else {
        c->script = &json;
    }
    c->piece = 0;
    c->answering = true;
    take_piece(c);
}

/* Room for the whole request once its length is known, and for one more read before that. */
static void make_room(struct conn *c) {
    size_t want = c->used + 4096;
    if (c->body_at != 0 && c->framing.length > 0) want = c->body_at + (size_t)c->framing.length + 1;
    if (want <= c->capacity) return;
    c->capacity = want > c->capacity * 2 ? want : c->capacity * 2;
    c->in = must(realloc(c->in, c->capacity));
}

/* Moves the payload of the chunks received so far to the front of the body. False: bad framing. */
static bool walk_chunks(struct conn *c) {
    char *body = c->in + c->body_at;
    size_t end = c->used - c->body_at;
    while (c->chunks.state != CHUNK_DONE && c->chunks_read < end) {
        const char *piece;
        size_t size;
        const char *at = body + c->chunks_read;
        ssize_t step = chunk_next(&c->chunks, at, end - c->chunks_read, &piece, &size);
        if (step < 0) return false;
        if (size > 0) memmove(body + c->body_size, piece, size);
        c->body_size += size;
        c->chunks_read += (size_t)step;
    }
    return true;
}

/* 1: a request is complete; 0: more bytes are needed; -1: not a request. */
static int read_request(struct conn *c) {
    if (c->body_at == 0) {
        size_t size = head_size(c->in, c->used);
        if (size == 0) return c->used >= MAX_HEAD ? -1 : 0;
        bool known = memcmp(c->in, "POST ", 5) == 0 || memcmp(c->in, "GET ", 4) == 0;
        if (!known || !read_framing(c->in, size, &c->framing)) return -1;
        c->body_at = size;
        c->body_size = 0;
        c->chunks = (struct chunks){.state = CHUNK_SIZE};
        c->chunks_read = 0;
    }
    if (c->framing.chunked) {
        if (!walk_chunks(c) || c->body_size > MAX_BODY) return -1;
        return c->chunks.state == CHUNK_DONE;
    }
    c->body_size = c->framing.length > 0 ? (size_t)c->framing.length : 0;
    return c->used - c->body_at >= c->body_size;
}

/* Forgets the answered request; bytes behind it move to the front. */
static void next_request(struct conn *c) {
    size_t done = c->body_at + (c->framing.chunked ? c->chunks_read : c->body_size);
    c->used -= done;
    if (c->used > 0) memmove(c->in, c->in + done, c->used);
    c->body_at = 0;
    c->answering = false;
}

/* Writes what is left. 1: all gone; 0: the socket is full; -1: the peer is gone. */
static int flush(struct conn *c) {
    while (c->left > 0) {
        ssize_t sent = channel_send(&c->channel, c->out, c->left);
        if (sent < 0) return errno == EAGAIN ? 0 : -1;
        c->out += sent;
        c->left -= (size_t)sent;
    }
    return 1;
}

/* A beat that was missed is not made up for: several events in one read would be cheaper. */
static uint64_t next_beat(const struct conn *c) {
    uint64_t now = now_ns();
    if (c->piece == 1) return now + random_below(c->delay_ns);
    return c->due + c->delay_ns > now ? c->due + c->delay_ns : now;
}

/* Goes on until the connection has to wait; false when it must be dropped. */
static bool advance(struct conn *c) {
    for (;;) {
        if (!c->answering) {
            int complete = read_request(c);
            if (complete < 0) counts.bad++;
            if (complete <= 0) return complete == 0;
            begin_answer(c);
        }
        int written = flush(c);
        if (written <= 0) return written == 0;
        if (c->held) return true;
        if (c->piece < c->script->pieces) {
            arm(c, next_beat(c));
            return true;
        }
        if (c->framing.close) {
            c->answering = false;
            return false;
        }
        next_request(c);
        if (c->used == 0) return true;
    }
}

/* Reads until the socket is empty; false when the connection is to be dropped. */
static bool receive(struct conn *c, uint32_t events) {
    for (;;) {
        make_room(c);
        size_t room = c->capacity - c->used;
        ssize_t got = channel_recv(&c->channel, c->in + c->used, room);
        if (got < 0) return errno == EAGAIN;
        if (got == 0) return false;
        c->used += (size_t)got;
        if (c->answering && c->used > MAX_BODY) return false;
        if (!c->answering && !advance(c)) return false;
        /* Edge-triggered: a short read emptied the socket, unless the peer's end is behind it, or it
         * was one TLS record of several. */
        if ((size_t)got < room && !(events & EPOLLRDHUP) && !c->channel.ssl) return true;
    }
}

static void serve(struct conn *c, uint32_t events) {
    bool open = true;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) open = receive(c, events);
    if (open && (events & EPOLLOUT) && c->left > 0) open = advance(c);
    if (!open) drop(c);
}

static void watch(int fd, void *what, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = what};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0) die("epoll_ctl", strerror(errno));
}

static void accept_all(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        struct conn *c = must(calloc(1, sizeof *c));
        channel_open(&c->channel, fd, false);
        c->capacity = FIRST_BUFFER;
        c->in = must(malloc(c->capacity));
        tune(fd);
        counts.connections++;
        watch(fd, c, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
    }
}

static void beat_due(void) {
    uint64_t now = heap_used ? now_ns() : 0;
    while (heap_used && heap[1]->due <= now) {
        struct conn *c = heap[1];
        disarm(c);
        take_piece(c);
        if (!advance(c)) drop(c);
    }
}

/* ---- the loop */

static void stop(int number) {
    (void)number;
    stopping = 1;
}

static int open_listener(long port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    socklen_t size = sizeof address;
    int on = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, size) < 0) die("bind", strerror(errno));
    if (listen(fd, 4096) < 0) die("listen", strerror(errno));
    getsockname(fd, (struct sockaddr *)&address, &size);
    printf("{\"port\":%d}\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

static void run(int listener, int timer) {
    static char listener_mark, timer_mark;
    struct epoll_event events[EVENTS];
    uint64_t armed = 0;
    watch(listener, &listener_mark, EPOLLIN);
    watch(timer, &timer_mark, EPOLLIN | EPOLLET);
    while (!stopping) {
        if (heap_used && heap[1]->due != armed) {
            armed = heap[1]->due;
            struct itimerspec at = {.it_value = {.tv_sec = (time_t)(armed / 1000000000u),
                                                 .tv_nsec = (long)(armed % 1000000000u)}};
            timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
        }
        int ready = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            void *what = events[i].data.ptr;
            if (what == &listener_mark) accept_all(listener);
            else if (what != &timer_mark) serve(what, events[i].events);
        }
        beat_due();
    }
}

int main(int argc, char **argv) {
    long port = 0, chunks = 50, seconds = 3600;
    const char *chain = NULL, *key = NULL;
    for (int i = 1; i < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (!strcmp(name, "--features")) say_features();
        if (value == NULL) die(name, "needs a value");
        if (!strcmp(name, "--port")) port = option_number(name, value, 0, 65535);
        else if (!strcmp(name, "--chunks")) chunks = option_number(name, value, 1, 100000);
        else if (!strcmp(name, "--chunk-delay-us"))
            delay_us = option_number(name, value, 0, 10000000);
        else if (!strcmp(name, "--max-seconds")) seconds = option_number(name, value, 1, 3600);
        else if (!strcmp(name, "--tls-cert")) chain = value;
        else if (!strcmp(name, "--tls-key")) key = value;
        else die(name, "unknown; use --port --chunks --chunk-delay-us --max-seconds --tls-cert "
                       "--tls-key");
    }
    if (chain && key) tls_begin(chain, key, NULL);
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGALRM, &action, NULL);
    alarm((unsigned)seconds);
    yield_politely();
    write_answers(chunks);
    poller = epoll_create1(EPOLL_CLOEXEC);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (poller < 0 || timer < 0) die("epoll", strerror(errno));
    run(open_listener(port), timer);
    printf("{\"requests\":%lu,\"streams\":%lu,\"chunks\":%lu,\"bad\":%lu,\"aborted\":%lu,"
           "\"connections\":%lu}\n", counts.requests, counts.streams, counts.chunks, counts.bad,
           counts.aborted, counts.connections);
    return 0;
}
