"""Types of `front.pyx`: a client connection."""

from fastgw._ext._request cimport Request
from fastgw.server.fastlane cimport Client, FastLane
from fastgw.server.turn cimport Turn


cdef class Front(Client):
    cdef FastLane lane
    cdef Turn turn
    cdef object handler
    cdef bytes rest
    cdef list parts
    cdef Py_ssize_t missing
    cdef Py_ssize_t owed
    cdef Py_ssize_t came
    cdef int state
    cdef int looks
    cdef bint looping
    cdef bint deaf  # nothing is read
    cdef bint told  # and aiohttp knows
    cdef Request *partial

    cdef bint has_half(self)
    cdef object take(self, bytes data)
    cdef object take_head(self, bytes data)
    cdef object take_part(self, bytes data)
    cdef object keep(self, bytes data)
    cdef object go_on(self)
    cdef object serve(self, bytes data)
    cdef object lend(self, bytes data, Py_ssize_t size, str reason)
    cdef object give(self, bytes data)
    cdef object give_what_came(self)
    cdef object call_handler(self)
    cdef object tell(self)
