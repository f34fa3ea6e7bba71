/*
 * snapshot.h - private copies of one segment's sections, checked.
 *
 * The only code that touches a mapping or reads a segment file. A live segment
 * is mapped and copied through lg_copy(); a dead or copied one is read with
 * pread and never mapped. What stands in the copies is foreign input still:
 * ids are checked at use, by lg_snapshot_text() and lg_extent_has().
 *
 * One thread; a program has one live mapping copied from at a time.
 */
#ifndef LG_SNAPSHOT_H
#define LG_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../common/lg_layout.h"
#include "../common/lg_ring.h"
#include "find.h"

#define LG_MAX_FAULTS 32

struct lg_names;                        /* cleaned texts by string id */

struct lg_snapshot {
    struct lg_source source;            /* owned */
    const uint8_t *map;                 /* NULL = read with pread */
    size_t map_size;
    uint64_t file_size;                 /* now; less than at attach = cut */
    uint32_t state;                     /* enum lg_segment_state, at last refresh */
    bool cut;                           /* became shorter while watched */

    struct lg_anchor anchor;
    struct lg_self self;
    struct lg_tables tables;            /* clipped to what the tables can hold */
    struct lg_pool pool;
    bool has_pool;
    struct lg_feature *features;
    uint32_t feature_count;
    uint8_t *strings;
    uint64_t strings_used;
    struct lg_endpoint *endpoints;      /* [endpoint_count] */
    uint32_t endpoint_count;            /* published and read */
    struct lg_hist *hists;              /* on-loop and response of those, then lag.. */
    bool *hist_whole;                   /* by the same index: read from the file */
    uint32_t hist_count;
    struct lg_loop_entry *loops;
    bool *loop_torn;                    /* line A could not be read whole */
    uint32_t loop_count;
    struct lg_cell *endpoint_history;   /* [endpoint_count * LG_CELLS] */
    struct lg_loop_cell *loop_history;  /* [loop_count * LG_LOOP_CELLS] */
    struct lg_stall *stalls;            /* [stall_count], by slot; ticket 0 = none */
    bool *stall_torn;
    uint32_t stall_count;
    struct lg_stack *stacks;
    uint32_t stack_count;
    struct lg_frame *frames;
    uint32_t frame_count;
    struct lg_ring rings[LG_RINGS];     /* capacity 0 = not usable */
    struct lg_cursor cursors[LG_RINGS];
    struct lg_slot *slots;              /* private image of RING_SLOTS */
    uint32_t slot_count;

    uint64_t unread_rows;               /* "could not be read cleanly this time" */
    struct lg_fault faults[LG_MAX_FAULTS];
    size_t fault_count;                 /* may be above LG_MAX_FAULTS */
    uint64_t bad_endpoints;             /* of endpoint_count */
    uint64_t cut_endpoints;             /* lie beyond the end of the file */
    uint32_t missing;                   /* bit set of 1 << LG_SEC_*: not there, or cut */

    struct lg_names *names;
    uint64_t *scratch;
    size_t scratch_words;
};

/* Takes over `source` (also on failure). 0 or a negative code; *out is to be
 * freed with lg_snapshot_close(). */
int lg_snapshot_open(struct lg_source *source, struct lg_snapshot **out);
void lg_snapshot_close(struct lg_snapshot *snap);

/* Copies everything that changes. 0, or LG_ETRUNCATED when the file became
 * shorter: the copies then hold the last whole picture. */
int lg_snapshot_refresh(struct lg_snapshot *snap);

/* The fast lane: loops only, for the banner. */
int lg_snapshot_refresh_loops(struct lg_snapshot *snap);

/* Re-reads line A, B and C of one loop, for the rule of two reads. */
int lg_snapshot_reread_loop(struct lg_snapshot *snap, uint32_t loop, struct lg_loop_entry *out);

/* Re-reads one stall by its ticket (0-based); false when another stands there. */
bool lg_snapshot_reread_stall(struct lg_snapshot *snap, uint64_t ticket, struct lg_stall *out);

/* The stall of ticket (0-based) in the copies, or NULL. */
const struct lg_stall *lg_snapshot_stall(const struct lg_snapshot *snap, uint64_t ticket);

/* Records of a ring that the private image holds, oldest first: zero `cur`,
 * call until false. */
bool lg_snapshot_next_record(const struct lg_snapshot *snap, uint32_t ring, struct lg_cursor *cur,
                             struct lg_record *out);

/* Cleaned text of a string id, valid as long as the snapshot; "" for 0 and
 * "?17" for an id that is not there. */
const char *lg_snapshot_text(struct lg_snapshot *snap, uint32_t id);
bool lg_snapshot_text_ok(struct lg_snapshot *snap, uint32_t id);

/* Notes damage: byte offset in the file and words. */
void lg_snapshot_fault(struct lg_snapshot *snap, uint64_t offset, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
