/*
 * lg_ring.h - a ring of 64-byte records: one writer, any number of readers.
 *
 * The writer never waits and never fails: when the ring is full it overwrites
 * the oldest record. A slow reader learns how many records it lost; it is
 * never handed a torn one, also not when the writer was killed in the middle.
 * Each slot's `seq` is 2t+1 while ticket t is being written and 2t+2 after.
 * The ordering is Boehm's seqlock (MSPC 2012, doi 10.1145/2247684.2247688).
 */
#ifndef LG_RING_H
#define LG_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "lg_atomic.h"
#include "lg_layout.h"

/* A record as the reader gets it: a slot without its sequence. */
struct lg_record {
    uint64_t ticket;
    uint64_t time_ns;
    uint64_t tag;
    uint64_t p[LG_PAYLOAD_WORDS];
};

/* Writer's private end; never read back from shared memory. */
struct lg_ring_writer {
    struct lg_ring *ring;
    struct lg_slot *slots;
    uint64_t head;
    uint64_t mask;
};

/* Formats `ring` (capacity: a power of two, slots from `first_slot` of
 * `slots`, the base of RING_SLOTS) and binds the writer to it. */
void lg_ring_init(struct lg_ring_writer *w, struct lg_ring *ring, struct lg_slot *slots,
                  uint64_t first_slot, uint64_t capacity, enum lg_ring_class ring_class);

/* Writer only. No allocation, no system call. */
static inline void
lg_ring_push(struct lg_ring_writer *w, uint64_t time_ns, uint64_t tag, uint64_t p0, uint64_t p1,
             uint64_t p2, uint64_t p3, uint64_t p4)
{
    uint64_t ticket = w->head;
    struct lg_slot *slot = &w->slots[ticket & w->mask];
    lg_store_relaxed(&slot->seq, 2 * ticket + 1);
    /* A reader that sees a new word must also see the odd sequence, or it
     * would accept a half-old record. Pairs with the acquire fence of
     * lg_ring_read(). */
    lg_fence_release();
    lg_store_relaxed(&slot->time_ns, time_ns);
    lg_store_relaxed(&slot->tag, tag);
    lg_store_relaxed(&slot->p[0], p0);
    lg_store_relaxed(&slot->p[1], p1);
    lg_store_relaxed(&slot->p[2], p2);
    lg_store_relaxed(&slot->p[3], p3);
    lg_store_relaxed(&slot->p[4], p4);
    /* Pairs with the acquire load of seq in lg_ring_read(). */
    lg_store_release(&slot->seq, 2 * ticket + 2);
    w->head = ticket + 1;
    /* Pairs with the acquire load of head in lg_ring_read(). */
    lg_store_release(&w->ring->head, ticket + 1);
}

/* Owned by one reader; zero it to start at the oldest record. */
struct lg_cursor {
    uint64_t next;                      /* ticket to read next */
    uint64_t seen;
    uint64_t lapped;                    /* overwritten before we got to them */
    uint64_t torn;                      /* 1 when the writer died in mid-record */
    bool damaged;                       /* a sequence that no writer makes */
};

enum lg_ring_mode { LG_RING_LIVE, LG_RING_DEAD };

/* The bounds check of a ring's own numbers, on a private copy of its head:
 * capacity is a power of two and its slots end within `slot_count`, the
 * extent of RING_SLOTS. */
bool lg_ring_fits(const struct lg_ring *copy, uint64_t slot_count);

/* Any thread. `slots`: the first slot of this ring, that is the base of
 * RING_SLOTS plus the checked first_slot; `capacity` as checked by
 * lg_ring_fits(). Neither is read from `ring` again. A live ring is read in
 * the mapping (under lg_copy_run()): a plain copy holds each sequence only
 * once and cannot prove a record whole. The dead are read from copies.
 * Copies the next record; false when none is waiting. With LG_RING_DEAD also
 * a record committed just before death is found and a torn one counted.
 * Afterwards seen + lapped + torn == tickets passed. */
bool lg_ring_read(const struct lg_ring *ring, const struct lg_slot *slots, uint64_t capacity,
                  enum lg_ring_mode mode, struct lg_cursor *cur, struct lg_record *out);

#endif
