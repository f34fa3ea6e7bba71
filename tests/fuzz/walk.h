/*
 * walk.h - looks at every element of a segment's bytes, as a reader would.
 *
 * For the fuzz target and for test_lg_corruption: whatever the bytes are, the
 * walk ends with an error value or with counted faults. Private bytes, 64-byte
 * aligned.
 */
#ifndef WALK_H
#define WALK_H

#include <string.h>

#include "lg_error.h"
#include "lg_geometry.h"
#include "lg_hist.h"
#include "lg_ring.h"
#include "lg_seqlock.h"

struct walk {
    const uint8_t *bytes;
    struct lg_geometry geo;
    struct lg_tables tables;
    uint64_t bad_ids;
    uint64_t bad_rings;
    uint64_t bad_links;                 /* frames that point on, not back */
    uint64_t torn;                      /* stalls and records */
    uint64_t records;
    uint64_t stalls;
    uint64_t requests;                  /* by the response histograms */
    uint64_t printed;                   /* bytes of text, none a control byte */
};

/* Element `index` of a section as far as it is known, the rest zero. */
static inline bool
walk_take(const struct walk *walk, uint32_t kind, uint64_t index, void *out, size_t size)
{
    const struct lg_extent *x = &walk->geo.section[kind];
    memset(out, 0, size);
    if (!lg_extent_has(x, index)) {
        return false;
    }
    size_t known = x->known < size ? x->known : size;
    memcpy(out, walk->bytes + x->offset + index * x->stride, known);
    return true;
}

static inline void
walk_text(struct walk *walk, uint32_t id)
{
    char text[LG_MAX_STRING + 1];
    const struct lg_extent *x = &walk->geo.section[LG_SEC_STRINGS];
    uint64_t used = walk->tables.strings_used < x->count ? walk->tables.strings_used : x->count;
    walk->bad_ids += !lg_string_get(walk->bytes + x->offset, used, id, text, sizeof(text));
    for (const char *c = text; *c != '\0'; c++) {
        walk->printed += (unsigned char)*c >= 0x20;
    }
}

static inline void
walk_endpoints(struct walk *walk)
{
    struct lg_endpoint endpoint;
    struct lg_hist hist;
    for (uint64_t i = 0; walk_take(walk, LG_SEC_ENDPOINTS, i, &endpoint, sizeof(endpoint)); i++) {
        if (endpoint.key == 0) {
            continue;
        }
        walk_text(walk, LG_KEY_NAME(endpoint.key));
        if (walk_take(walk, LG_SEC_HISTS, LG_HIST_RESPONSE(i), &hist, sizeof(hist))) {
            walk->requests += lg_hist_total(&hist);
            walk->printed += lg_hist_quantile_us(&hist, 0.99) != 0;
        }
    }
}

static inline void
walk_stack(struct walk *walk, uint32_t index)
{
    struct lg_stack stack;
    struct lg_frame frame;
    if (!walk_take(walk, LG_SEC_STACKS, index, &stack, sizeof(stack))) {
        walk->bad_ids++;
        return;
    }
    uint32_t at = LG_LO(stack.frame_depth);
    for (int depth = 0; depth < LG_MAX_DEPTH && at != 0; depth++) {
        if (!walk_take(walk, LG_SEC_FRAMES, at, &frame, sizeof(frame)) || frame.next >= at) {
            walk->bad_links++;
            return;
        }
        walk_text(walk, frame.file);
        walk_text(walk, frame.function);
        at = frame.next;
    }
}

static inline void
walk_stalls(struct walk *walk)
{
    struct lg_stall raw;
    struct lg_stall stall;
    for (uint64_t i = 0; walk_take(walk, LG_SEC_STALLS, i, &raw, sizeof(raw)); i++) {
        if (!lg_seq_read(&raw.seq, &stall.seq, sizeof(stall) / 8, 1)) {
            walk->torn++;
        }
        if (stall.ticket != 0) {
            walk->stalls++;
            walk_text(walk, LG_LO(stall.call_thread));
            walk_stack(walk, LG_LO(stall.stack_holder_stack));
        }
    }
}

static inline void
walk_rings(struct walk *walk)
{
    struct lg_ring ring;
    struct lg_record rec;
    const struct lg_extent *x = &walk->geo.section[LG_SEC_RING_SLOTS];
    for (uint64_t i = 0; walk_take(walk, LG_SEC_RING_HEADS, i, &ring, sizeof(ring)); i++) {
        struct lg_cursor cur = {0};
        if (!lg_ring_fits(&ring, x->count) || x->stride != sizeof(struct lg_slot)) {
            walk->bad_rings++;
            continue;
        }
        const struct lg_slot *slots =
            (const struct lg_slot *)(const void *)(walk->bytes + x->offset) + ring.first_slot;
        while (lg_ring_read(&ring, slots, ring.capacity, LG_RING_DEAD, &cur, &rec)) {
            walk->records++;
        }
        walk->torn += cur.torn;
        walk->bad_rings += cur.damaged;
    }
}

/* The result of lg_geometry_check(); after 0 the counts are filled. */
static inline int
walk_segment(struct walk *walk, const uint8_t *bytes, size_t size)
{
    struct lg_fault fault;
    memset(walk, 0, sizeof(*walk));
    walk->bytes = bytes;
    size_t page = size < LG_HEADER_PAGE ? size : LG_HEADER_PAGE;
    int err = lg_geometry_check(bytes, page, size, &walk->geo, &fault);
    if (err != 0) {
        return err;
    }
    walk_take(walk, LG_SEC_TABLES, 0, &walk->tables, sizeof(walk->tables));
    walk_endpoints(walk);
    walk_stalls(walk);
    walk_rings(walk);
    return 0;
}

#endif
