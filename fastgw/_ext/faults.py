"""What can be wrong with a request head: status and message, for both builds of `request`."""

from __future__ import annotations

faults: tuple[tuple[int, str], ...] = (
    (0, ""),
    (400, "a line of the request head ends with a bare LF"),
    (400, "a CR in the request head is not followed by LF"),
    (400, "the request head holds a control character"),
    (414, "the request line is longer than 8 KiB"),
    (431, "a header field is longer than 8 KiB"),
    (431, "the request head is larger than 64 KiB"),
    (431, "the request has more than 100 header fields"),
    (400, "the request line is not a method, a target and a version"),
    (400, "the request target is not valid"),
    (505, "only HTTP/1.1 and HTTP/1.0 are spoken here"),
    (501, "this request method is not implemented"),
    (400, "a header line begins with white space"),
    (400, "there is white space between a header's name and its colon"),
    (400, "a header line is not a name, a colon and a value"),
    (400, "Content-Length is not one number"),
    (400, "there is more than one Content-Length"),
    (400, "the request has both Content-Length and Transfer-Encoding"),
    (400, "Transfer-Encoding is not exactly chunked"),
    (501, "only the transfer coding chunked is implemented"),
    (400, "Transfer-Encoding is not part of HTTP/1.0"),
    (400, "the Host header is not a valid host"),
    (400, "the Host header is missing"),
    (400, "there is more than one Host header"),
    (400, "the request target and the Host header name different hosts"),
    (417, "only the expectation 100-continue can be met"),
    (400, "there is more than one Content-Type"),
)
