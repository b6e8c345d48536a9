// Package faults holds the tests of pooly against real faults: on real sockets, with server processes that are killed,
// proxies that spoil what they carry, and real Redis and memcached servers. docs/RELIABILITY.md says what they show.
package faults
