/*
 * lg_seqlock.c - the reader's side of the seqlock.
 *
 * Any thread of any process; waits for nobody.
 */
#include "lg_seqlock.h"

bool
lg_seq_read(const uint64_t *shared, uint64_t *out, size_t words, int tries)
{
    for (int i = 0; i < tries; i++) {
        /* Pairs with the release store of lg_seq_end(): the words are at least
         * as new as this sequence. */
        uint64_t before = lg_load_acquire(&shared[0]);
        for (size_t w = 1; w < words; w++) {
            out[w] = lg_load_relaxed(&shared[w]);
        }
        out[0] = before;
        /* A word newer than `before` was stored after the release fence of
         * lg_seq_begin(): past this fence the odd sequence must be seen. */
        lg_fence_acquire();
        if (lg_load_relaxed(&shared[0]) == before && before % 2 == 0) {
            return true;
        }
    }
    return false;
}
