/*
 * lg_ring.c - formatting a ring, and the reader's side of it.
 *
 * lg_ring_init() is the writer's, before it pushes. lg_ring_read() may run in
 * any thread of any process and waits for nobody; it trusts no shared word.
 */
#include "lg_ring.h"

#include <assert.h>
#include <string.h>

/* What a slot holds, seen from the ticket that the reader wants. */
enum slot_holds { WANTED, IN_FLIGHT, NEWER, OLDER };

static enum slot_holds take_slot(const struct lg_slot *slot, uint64_t ticket,
                                 struct lg_record *out);
static bool read_in_flight(const struct lg_slot *slots, uint64_t capacity, struct lg_cursor *cur,
                           struct lg_record *out);

void
lg_ring_init(struct lg_ring_writer *w, struct lg_ring *ring, struct lg_slot *slots,
             uint64_t first_slot, uint64_t capacity, enum lg_ring_class ring_class)
{
    assert(capacity != 0 && (capacity & (capacity - 1)) == 0);
    *w = (struct lg_ring_writer){
        .ring = ring,
        .slots = slots + first_slot,
        .mask = capacity - 1,
    };
    for (uint64_t i = 0; i < capacity; i++) {
        lg_store_relaxed(&w->slots[i].seq, 0);
    }
    lg_store_relaxed(&ring->head, 0);
    lg_store_relaxed(&ring->first, 0);
    lg_store_relaxed(&ring->capacity, capacity);
    lg_store_relaxed(&ring->first_slot, first_slot);
    /* A reader that sees a class other than free sees the numbers, too. */
    lg_store_release(&ring->ring_class, ring_class);
}

bool
lg_ring_fits(const struct lg_ring *copy, uint64_t slot_count)
{
    uint64_t capacity = copy->capacity;
    return capacity != 0 && (capacity & (capacity - 1)) == 0 && capacity <= slot_count &&
           copy->first_slot <= slot_count - capacity;
}

bool
lg_ring_read(const struct lg_ring *ring, const struct lg_slot *slots, uint64_t capacity,
             enum lg_ring_mode mode, struct lg_cursor *cur, struct lg_record *out)
{
    assert(capacity != 0 && (capacity & (capacity - 1)) == 0);
    /* A live writer is about to overwrite the oldest slots: half a ring back
     * leaves room. A dead one overwrites nothing any more. */
    uint64_t back = mode == LG_RING_DEAD || capacity == 1 ? capacity : capacity / 2;
    /* Each turn ends the loop or moves `next` on; a live writer that laps us
     * at every turn is left to the next call. */
    for (uint64_t turn = 0; turn <= capacity && !cur->damaged; turn++) {
        /* Pairs with the release store of head in lg_ring_push(). */
        uint64_t head = lg_load_acquire(&ring->head);
        uint64_t first = lg_load_relaxed(&ring->first);
        cur->next = cur->next < first ? first : cur->next;
        if (cur->next == head && mode == LG_RING_DEAD) {
            return read_in_flight(slots, capacity, cur, out);
        }
        if (cur->next >= head) {
            /* One ticket past a dead head was the one in flight. */
            cur->damaged = cur->next > head && !(mode == LG_RING_DEAD && cur->next == head + 1);
            return false;
        }
        if (head - cur->next > capacity) {
            cur->lapped += head - back - cur->next;
            cur->next = head - back;
        }
        switch (take_slot(&slots[cur->next & (capacity - 1)], cur->next, out)) {
        case WANTED:
            cur->next++;
            cur->seen++;
            return true;
        case NEWER: {
            /* Dead: the slot of the record in flight. Live: lapped since head
             * was loaded, perhaps early in the ring's life (head < back). */
            bool resync = mode == LG_RING_LIVE && head > back && head - back > cur->next;
            uint64_t to = resync ? head - back : cur->next + 1;
            cur->lapped += to - cur->next;
            cur->next = to;
            break;
        }
        default:
            /* The head ran ahead of its slot: no writer does that. */
            cur->damaged = true;
        }
    }
    return false;
}

/* Copies the slot's words and says whether they are those of `ticket`. */
static enum slot_holds
take_slot(const struct lg_slot *slot, uint64_t ticket, struct lg_record *out)
{
    uint64_t committed = 2 * ticket + 2;
    /* Pairs with the release store of seq in lg_ring_push(). */
    uint64_t before = lg_load_acquire(&slot->seq);
    struct lg_record rec = {.ticket = ticket};
    rec.time_ns = lg_load_relaxed(&slot->time_ns);
    rec.tag = lg_load_relaxed(&slot->tag);
    for (int i = 0; i < LG_PAYLOAD_WORDS; i++) {
        rec.p[i] = lg_load_relaxed(&slot->p[i]);
    }
    /* Whoever saw a newer word sees the newer sequence from here on. Pairs
     * with the release fence of lg_ring_push(). */
    lg_fence_acquire();
    uint64_t after = lg_load_relaxed(&slot->seq);
    if (before == committed && after == committed) {
        *out = rec;
        return WANTED;
    }
    if (before > committed || after > committed) {
        return NEWER;
    }
    return before == committed - 1 && after == before ? IN_FLIGHT : OLDER;
}

/* Post-mortem, at the head: was a record committed or begun before death? */
static bool
read_in_flight(const struct lg_slot *slots, uint64_t capacity, struct lg_cursor *cur,
               struct lg_record *out)
{
    switch (take_slot(&slots[cur->next & (capacity - 1)], cur->next, out)) {
    case WANTED:
        cur->next++;
        cur->seen++;
        return true;
    case IN_FLIGHT:
        cur->next++;
        cur->torn++;
        return false;
    default:
        return false;
    }
}
