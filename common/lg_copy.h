/*
 * lg_copy.h - the one way from a mapping into private memory.
 *
 * Relaxed word loads, 8 bytes at a time, under a SIGBUS guard: a file that
 * was cut while mapped gives LG_ETRUNCATED, not a signal. One thread, one
 * mapping at a time; the handler is installed by lg_copy_guard() and passes
 * every other SIGBUS on to what was there before. For programs that own their
 * main(), never for a library.
 */
#ifndef LG_COPY_H
#define LG_COPY_H

#include <stddef.h>

/* Installs the guard where it is not in place; 0 or -errno. */
int lg_copy_guard(void);

/* `from` and `length` are multiples of 8. 0 or LG_ETRUNCATED. */
int lg_copy(void *to, const void *from, size_t length);

/* The same guard around `take(arg)`, which may load from [map, map + length)
 * with lg_copy(), lg_seq_read() and lg_ring_read() and write private memory.
 * A hit leaves it in the middle: it must hold no lock and allocate nothing. */
int lg_copy_run(const void *map, size_t length, void (*take)(void *arg), void *arg);

#endif
