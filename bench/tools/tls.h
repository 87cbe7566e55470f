/* Sockets that may speak TLS: `channel_recv` and `channel_send` behave like recv and send with
 * MSG_NOSIGNAL on a non-blocking socket. The handshake happens inside them. Without OpenSSL's headers
 * everything is plain, and the options for TLS say so. */
#ifndef FASTGW_BENCH_TLS_H
#define FASTGW_BENCH_TLS_H

#include "wire.h"

#include <unistd.h>

#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#define FEATURES "tls"
#else
typedef void SSL;
#define FEATURES ""
#endif

struct channel {
    int fd;
    SSL *ssl; /* NULL: plain */
};

#ifdef WITH_TLS

static SSL_CTX *tls_context; /* NULL: plain */

/* A server with the two files, a client with an authority alone. */
static inline void tls_begin(const char *chain, const char *key, const char *authority) {
    tls_context = must(SSL_CTX_new(TLS_method()));
    SSL_CTX_set_mode(tls_context, SSL_MODE_ENABLE_PARTIAL_WRITE |
                                  SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    if (chain != NULL) {
        if (SSL_CTX_use_certificate_chain_file(tls_context, chain) != 1) die(chain, "no certificate");
        if (SSL_CTX_use_PrivateKey_file(tls_context, key, SSL_FILETYPE_PEM) != 1)
            die(key, "no key of the certificate");
    } else {
        if (SSL_CTX_load_verify_locations(tls_context, authority, NULL) != 1)
            die(authority, "no certificate");
        SSL_CTX_set_verify(tls_context, SSL_VERIFY_PEER, NULL);
    }
}

static inline void channel_open(struct channel *c, int fd, bool client) {
    *c = (struct channel){.fd = fd};
    if (tls_context == NULL) return;
    c->ssl = must(SSL_new(tls_context));
    SSL_set_fd(c->ssl, fd);
    if (client) SSL_set_connect_state(c->ssl);
    else SSL_set_accept_state(c->ssl);
}

/* A failed call in recv's words: -1 with EAGAIN, 0 at the end, -1 with EPROTO. */
static inline ssize_t channel_said(struct channel *c, int code) {
    int error = SSL_get_error(c->ssl, code);
    ERR_clear_error();
    if (error == SSL_ERROR_ZERO_RETURN) return 0;
    errno = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? EAGAIN : EPROTO;
    return -1;
}

static inline ssize_t channel_recv(struct channel *c, char *to, size_t room) {
    if (c->ssl == NULL) return recv(c->fd, to, room, 0);
    int got = SSL_read(c->ssl, to, room > 1 << 30 ? 1 << 30 : (int)room);
    return got > 0 ? got : channel_said(c, got);
}

static inline ssize_t channel_send(struct channel *c, const char *data, size_t size) {
    if (c->ssl == NULL) return send(c->fd, data, size, MSG_NOSIGNAL);
    int sent = SSL_write(c->ssl, data, size > 1 << 30 ? 1 << 30 : (int)size);
    if (sent > 0) return sent;
    ssize_t said = channel_said(c, sent);
    if (said == 0) errno = EPIPE;
    return -1;
}

static inline void channel_close(struct channel *c) {
    if (c->ssl != NULL) SSL_free(c->ssl);
    close(c->fd);
}

#else

static inline void tls_begin(const char *chain, const char *key, const char *authority) {
    (void)chain, (void)key, (void)authority;
    die("TLS", "built without OpenSSL (Debian/Ubuntu: apt-get install libssl-dev)");
}

static inline void channel_open(struct channel *c, int fd, bool client) {
    (void)client;
    *c = (struct channel){.fd = fd};
}

static inline ssize_t channel_recv(struct channel *c, char *to, size_t room) {
    return recv(c->fd, to, room, 0);
}

static inline ssize_t channel_send(struct channel *c, const char *data, size_t size) {
    return send(c->fd, data, size, MSG_NOSIGNAL);
}

static inline void channel_close(struct channel *c) { close(c->fd); }

#endif

/* What a program was built with, for who has to know before it asks. */
static inline void say_features(void) {
    printf("%s\n", FEATURES);
    exit(0);
}

#endif
