/*
 * snapshot.h - private copies of one segment's sections, checked.
 *
 * The only code that touches a mapping or reads a segment file (image.c does
 * it for us where mapping is not wanted). A live segment is mapped and copied
 * under lg_copy_run(); a dead or copied one is read once with pread and never
 * mapped. What stands in the copies is foreign input still: ids are checked at
 * use, by lg_snapshot_text() and the counts here.
 *
 * One thread, in a program that has called lg_copy_guard(), or that opens with
 * lg_snapshot_open_unmapped(). All memory is taken at open; pages of tables
 * that are never filled cost nothing.
 */
#ifndef LG_SNAPSHOT_H
#define LG_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../common/lg_layout.h"
#include "../common/lg_ring.h"
#include "deltas.h"
#include "find.h"

#define LG_MAX_FAULTS 32
#define LG_VIEW_LOOPS 8                 /* more are counted, not shown */

struct lg_records {                     /* the newest of a ring, by ticket */
    struct lg_record *record;           /* [capacity], slot = ticket % capacity */
    uint64_t capacity;                  /* 0 = no usable ring */
    uint64_t first_slot;
    uint64_t ring_class;                /* enum lg_ring_class */
    uint64_t from;                      /* tickets [from, to) may be here */
    uint64_t to;
    uint64_t first;                     /* first ticket that ever was */
    uint64_t writer;
    struct lg_cursor cursor;
};

struct lg_snapshot {
    struct lg_source source;            /* owned */
    bool live;                          /* mapped, or copied at each refresh; else read once */
    bool filled;                        /* a first refresh was whole */
    bool cut;                           /* became shorter while watched */
    uint32_t state;                     /* enum lg_segment_state, at last refresh */

    struct lg_anchor anchor;
    struct lg_self self;
    struct lg_tables tables;            /* clipped to what the tables can hold */
    struct lg_pool pool;
    struct lg_feature *features;
    uint32_t feature_count;
    struct lg_writer *writers;
    uint32_t writer_count;
    uint8_t *strings;
    uint64_t strings_used;
    struct lg_endpoint *endpoints;
    uint8_t *endpoint_dirty;            /* private: histograms to be read again */
    uint32_t endpoint_count;            /* published and read */
    uint32_t endpoint_slots;            /* of the whole table: index into HISTS */
    struct lg_hist *hists;              /* index as in lg_layout.h */
    uint32_t hist_count;
    struct lg_loop_entry *loops;
    bool *loop_torn;                    /* line A could not be read whole */
    uint32_t loop_count;
    uint32_t loop_slots;
    struct lg_cell *endpoint_history;   /* LG_CELLS an endpoint */
    uint32_t endpoint_history_count;    /* endpoints it covers */
    struct lg_loop_cell *loop_history;  /* LG_LOOP_CELLS a loop */
    uint32_t loop_history_count;
    struct lg_stall *stalls;            /* by slot; ticket 0 = none */
    bool *stall_torn;
    uint32_t stall_count;
    uint32_t stall_slots;               /* of the whole table: a ticket's place */
    uint64_t stalls_lost;               /* overwritten between two refreshes */
    struct lg_stack *stacks;
    uint32_t stack_count;
    struct lg_frame *frames;
    uint32_t frame_count;
    struct lg_records rings[LG_RINGS];
    uint64_t records_lost;              /* of rare rings, between two refreshes */

    uint64_t unclean_rows;              /* "could not be read cleanly this time" */
    bool *endpoint_bad;                 /* its name is not usable */
    uint64_t bad_endpoints;
    uint64_t cut_endpoints;             /* lie beyond the end of the file */
    uint32_t missing;                   /* bits 1 << LG_SEC_*: not there, cut, or unusable */
    uint32_t cut_sections;              /* the same, for cut ones: what is whole is here */
    struct lg_fault faults[LG_MAX_FAULTS];
    size_t fault_count;                 /* may be above LG_MAX_FAULTS */

    struct lg_deltas *deltas;           /* of the model, borrowed; NULL = none */

    /* Private to snapshot.c. */
    const uint8_t *bytes;               /* mapping or copy of the file */
    size_t byte_count;
    bool unmapped;                      /* bytes of a live one are an image (image.h) */
    uint8_t *image;                     /* the same bytes, ours; NULL = mapped, or dead */
    char **texts;                       /* cleaned, by string id */
    uint32_t text_slots;
    char *bad_texts[64];
    uint8_t *again;                     /* scratch for a second copy */
    bool *stall_open;                   /* to be read again */
    uint64_t stalls_seen;               /* tickets read */
};

/* Takes over `source` (also on failure) and reads everything once. 0 or a
 * negative code; *out is to be freed with lg_snapshot_close(). */
int lg_snapshot_open(struct lg_source *source, struct lg_snapshot **out);
/* The same without mapping a live segment: for guests, who have no guard. */
int lg_snapshot_open_unmapped(struct lg_source *source, struct lg_snapshot **out);
void lg_snapshot_close(struct lg_snapshot *snap);

/* Copies everything that changes. 0, or LG_ETRUNCATED when the file became
 * shorter: the copies then stay as they are. The dead do not change: 0. */
int lg_snapshot_refresh(struct lg_snapshot *snap);

/* The fast lane: header state, loops, anchor. */
int lg_snapshot_refresh_loops(struct lg_snapshot *snap);

/* Re-reads one loop, for the rule of two reads; false when its line A is in
 * the middle of a change for ever, or the file was cut. */
bool lg_snapshot_reread_loop(struct lg_snapshot *snap, uint32_t loop, struct lg_loop_entry *out);

/* Re-reads one stall by its ticket (0-based) into the copies. */
void lg_snapshot_reread_stall(struct lg_snapshot *snap, uint64_t ticket);

/* The stall of a ticket (0-based) in the copies, or NULL. */
const struct lg_stall *lg_snapshot_stall(const struct lg_snapshot *snap, uint64_t ticket);

/* The same, but NULL also when it could not be read whole. */
const struct lg_stall *lg_snapshot_whole_stall(const struct lg_snapshot *snap, uint64_t ticket);

/* Record `ticket` of a ring, or NULL. */
const struct lg_record *lg_snapshot_record(const struct lg_snapshot *snap, uint32_t ring,
                                           uint64_t ticket);

/* Cleaned text of a string id, valid as long as the snapshot; "" for 0 and
 * "?17" for an id that is not there. */
const char *lg_snapshot_text(struct lg_snapshot *snap, uint32_t id);
bool lg_snapshot_text_ok(struct lg_snapshot *snap, uint32_t id);

/* Notes damage: byte offset in the file and words. Once for an offset. */
void lg_snapshot_fault(struct lg_snapshot *snap, uint64_t offset, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
