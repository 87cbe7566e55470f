"""Types of `plan.py` for the compiled build; the fast lane reads them as C fields."""

from fastgw._ext._counters cimport Counter, Histogram
from fastgw._ext._estimate cimport Family
from fastgw._ext._journal cimport Who
from fastgw._ext._limits cimport Guard, Tariff
from fastgw._ext._usage cimport Prices
from fastgw.flow.stamp cimport Stamp
from fastgw.upstream.origin cimport Origin


cdef class Leg:
    cdef readonly object deployment
    cdef readonly str provider
    cdef readonly str model
    cdef readonly object provider_type
    cdef readonly bint priced
    cdef readonly tuple prices
    cdef bint ready  # what a C compiler reads is filled in
    cdef Prices lines
    cdef readonly int weight
    cdef Who who
    cdef Origin origin
    cdef object timeouts
    cdef bint replay
    cdef readonly bytes prefix
    cdef readonly tuple forward
    cdef readonly bytes model_json
    cdef readonly bint asks_usage
    cdef readonly bint tells_twice
    cdef readonly object make_relay
    cdef object labels
    cdef readonly bytes signature
    cdef readonly tuple forgone
    cdef public Counter requests
    cdef public Histogram duration
    cdef public Histogram upstream
    cdef public Histogram overhead
    cdef public Histogram first_token
    cdef public Counter input
    cdef public Counter output
    cdef public Counter cached
    cdef public Counter cache_write
    cdef public Counter reasoning
    cdef public Counter cost_nano


cdef class Plan:
    cdef readonly object principal
    cdef readonly str key_id
    cdef readonly str user_id
    cdef readonly str team_id
    cdef readonly str org_id
    cdef readonly object model
    cdef readonly str endpoint
    cdef readonly str client_api
    cdef readonly str requested_model
    cdef readonly tuple label_starts
    cdef readonly bint numbered
    cdef readonly dict tags
    cdef readonly long long expires_at
    cdef readonly tuple legs
    cdef readonly int weight
    cdef readonly Stamp key_stamp
    cdef readonly Stamp directory_stamp
    cdef readonly Stamp rules_stamp
    cdef readonly Guard guard
    cdef readonly Tariff tariff
    cdef readonly set peers
    cdef readonly Family family


cdef class Refusal:
    cdef readonly object error
    cdef readonly object principal
    cdef readonly str requested_model
    cdef readonly Stamp key_stamp
    cdef readonly Stamp directory_stamp


cdef class KeyPlans:
    cdef readonly dict plans


cdef class Plans:
    cdef Py_ssize_t size
    cdef dict young
    cdef dict old

    cpdef KeyPlans of_key(self, bytes digest)
    cpdef object keep(self, bytes digest, KeyPlans plans)


cpdef bint is_live(Plan plan) except -1
