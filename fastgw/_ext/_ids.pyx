# cython: embedsignature=True
"""Ids without a system call each: random text, drawn once a process, then a counter.

The twin is pure/ids.py. Unique, not secret: who knows one id can guess its neighbours, so nothing
may be shown to somebody only because its id was known.
"""

import os

cdef enum:
    COUNTED = 8  # 62^8 ids before new random text is drawn
    LONGEST_PREFIX = 6  # leaves 12 random characters, 71 bits

cdef const char *DIGITS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

cdef unsigned long forks = 0


def _note_fork():
    global forks
    forks += 1


os.register_at_fork(after_in_child=_note_fork)


cdef class Source:
    """Makes ids of 26 url-safe characters: prefix, random text, counter."""

    def __init__(self, str prefix not None):
        cdef bytes raw = prefix.encode()
        if len(raw) > LONGEST_PREFIX or not all(
            char.isascii() and (char.isalnum() or char in "-_") for char in prefix
        ):
            raise ValueError(f"not a prefix of at most {LONGEST_PREFIX} url-safe characters")
        self.prefix_size = len(raw)
        cdef int at
        for at in range(self.prefix_size):
            self.text[at] = raw[at]
        self.seed()

    cdef int seed(self) except -1:
        """Draw new random text and start the counter again."""
        cdef int at = self.prefix_size
        cdef unsigned char byte
        self.forks = forks
        while at < SIZE - COUNTED:
            for byte in <bytes>os.urandom(32):
                # 248 is the largest multiple of 62 in a byte: every digit equally likely.
                if byte < 248 and at < SIZE - COUNTED:
                    self.text[at] = DIGITS[byte % 62]
                    at += 1
        for at in range(SIZE - COUNTED, SIZE):
            self.text[at] = DIGITS[0]
            self.digit[at] = 0
        return 0

    cpdef str next(self):
        """Give an id that no call gave before, in this or another process."""
        if self.forks != forks:
            self.seed()
        cdef str made = (<bytes>self.text[:SIZE]).decode("ascii")
        cdef int at = SIZE - 1
        while at >= SIZE - COUNTED:
            if self.digit[at] < 61:
                self.digit[at] += 1
                self.text[at] = DIGITS[self.digit[at]]
                return made
            self.digit[at] = 0
            self.text[at] = DIGITS[0]
            at -= 1
        self.seed()
        return made
