/*
 * lg_seqlock.h - a struct that one writer changes and others copy whole.
 *
 * The first word is the sequence: odd while the writer is inside. The same
 * ordering as lg_ring.h. A writer that died inside leaves it odd for ever:
 * the reader then gets the words marked torn, and says so.
 */
#ifndef LG_SEQLOCK_H
#define LG_SEQLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lg_atomic.h"

/* Writer only; between the two, store the words relaxed. */
static inline void
lg_seq_begin(uint64_t *seq)
{
    lg_store_relaxed(seq, lg_load_relaxed(seq) + 1);
    lg_fence_release();                 /* pairs with the fence of lg_seq_read() */
}

static inline void
lg_seq_end(uint64_t *seq)
{
    /* Pairs with the first acquire load of lg_seq_read(). */
    lg_store_release(seq, lg_load_relaxed(seq) + 1);
}

/* Reader: copies `words` 64-bit words (the sequence is the first) into `out`,
 * up to `tries` times. False when no whole picture was had: `out` then holds
 * the last, possibly torn, words. */
bool lg_seq_read(const uint64_t *shared, uint64_t *out, size_t words, int tries);

#endif
