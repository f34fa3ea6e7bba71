/*
 * record.h - the one room that writes the segment's tables and rings.
 *
 * Who may enter: whoever holds the GIL (endpoint counters, rings 0 and 1) and
 * the watchdog thread (ring 2, stalls, stacks, strings). What both need, the
 * tables of names, is guarded by a private mutex: the watchdog waits for it,
 * the GIL's side only tries, for a tenth of a millisecond at most (a miss is id 0,
 * counted in SELF). No Python here.
 *
 * Nothing is ever read back from the segment to index memory: cursors and the
 * tables of names are private.
 */
#ifndef LG_AGENT_RECORD_H
#define LG_AGENT_RECORD_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../common/lg_hist.h"
#include "../common/lg_ring.h"
#include "../common/lg_segment.h"

#define LG_ENDPOINT_OTHER 0u            /* slot 0, "(other)" */
#define LG_ENDPOINT_LOOP 1u             /* "(loop)": time that is nobody's */

struct lg_name_slot {                   /* private, open addressing */
    uint64_t hash;
    uint32_t id;
};

struct lg_recorder {
    struct lg_segment seg;
    struct lg_ring_writer ring[3];      /* by enum lg_ring_index */
    uint32_t names_wanted;              /* the GIL's side tries just now */
    pthread_mutex_t names;              /* guards all that follows */
    struct lg_name_slot *strings;       /* hash of text -> id */
    struct lg_name_slot *endpoints;     /* hash of key -> index */
    struct lg_name_slot *frames;
    struct lg_name_slot *stacks;
    uint64_t *endpoint_keys;            /* private twin of the keys */
    uint32_t endpoints_used;
    uint32_t stacks_used;
    uint64_t overflow_told;             /* bit per section that was full once */
};

enum lg_wait { LG_TRY, LG_WAIT };

/* Makes the segment and the private tables. 0, -errno or LG_ENOTTMPFS. */
int lg_record_open(struct lg_recorder *rec, const struct lg_segment_options *options);
/* Drains nothing; the caller has stopped all writers. */
void lg_record_close(struct lg_recorder *rec, bool keep);
/* The same, leaving the mapping for threads that may still write a word. */
void lg_record_leave(struct lg_recorder *rec, bool keep);
/* In a forked child: frees private memory, forgets the segment. */
void lg_record_forget(struct lg_recorder *rec);

/* Id of a text, interned; 0 for "" or where there is no place (or, with
 * LG_TRY, where the table was in use). */
uint32_t lg_record_string(struct lg_recorder *rec, const char *text, size_t length,
                          enum lg_wait wait);

/* Index of the endpoint, created at first sight; LG_ENDPOINT_OTHER when the
 * table is full. -1 with LG_TRY when the table was in use: ask again later. */
int lg_record_endpoint(struct lg_recorder *rec, enum lg_endpoint_kind kind, enum lg_method method,
                       const char *name, size_t length, uint64_t now_ns, enum lg_wait wait);

/* The endpoint of the same name and method but another kind ("background"),
 * made at first sight. -1 as above. */
int lg_record_twin(struct lg_recorder *rec, uint32_t endpoint, enum lg_endpoint_kind kind,
                   uint64_t now_ns, enum lg_wait wait);

/* A stack's frame before it is interned. */
struct lg_plain_frame {
    const char *file;
    const char *function;
    uint32_t line;
};

/* Watchdog only: id of the stack (innermost first) of an endpoint; 0 = other. */
uint32_t lg_record_stack(struct lg_recorder *rec, const struct lg_plain_frame *frames,
                         uint32_t depth, uint32_t endpoint, uint32_t flags, uint64_t now_ns);
/* Watchdog only: a stall of `duration_ns` had this stack. */
void lg_record_stack_blame(struct lg_recorder *rec, uint32_t stack, uint64_t duration_ns,
                           uint64_t now_ns);

/* Names what is on or off; `reason` is cut at 39 bytes. Under the GIL. */
void lg_record_feature(struct lg_recorder *rec, uint32_t index, const char *name, bool on,
                       const char *reason);

/* Rings. Under the GIL for ring 0 and 1, the watchdog for ring 2. */
static inline void
lg_record_push(struct lg_recorder *rec, enum lg_ring_index ring, uint64_t now_ns,
               enum lg_record_kind kind, uint32_t flags, uint32_t endpoint, uint64_t p0,
               uint64_t p1, uint64_t p2, uint64_t p3, uint64_t p4)
{
    lg_ring_push(&rec->ring[ring], now_ns,
                 LG_TAG(kind, flags, ring == LG_RING_WATCHDOG ? 1 : 0, endpoint), p0, p1, p2, p3,
                 p4);
}

/* One step (or what else kept the loop) of an endpoint: counters, histogram,
 * history. One writer per endpoint: the watchdog for kinds CALLBACK and LOOP,
 * whoever holds the GIL for all others. */
void lg_record_step(struct lg_recorder *rec, uint32_t endpoint, uint64_t start_ns, uint64_t end_ns,
                    uint64_t cpu_ns);

/* That step was longer than its threshold. */
void lg_record_block(struct lg_recorder *rec, uint32_t endpoint, uint64_t end_ns,
                     uint64_t duration_ns, const uint64_t parts_ns[LG_CAUSE_COUNT]);

/* `requests` waited `sum_ns` behind a block of this endpoint. */
void lg_record_waited(struct lg_recorder *rec, uint32_t endpoint, uint64_t now_ns,
                      uint32_t requests, uint64_t sum_ns);

struct lg_request_facts {
    uint64_t start_ns;
    uint64_t end_ns;
    uint64_t on_loop_ns;
    uint64_t longest_step_ns;
    uint64_t pool_wait_ns;
    uint32_t request_id;
    uint16_t status;                    /* 0 = none */
    uint8_t method;
    uint8_t flags;                      /* LG_REQ_* */
    bool timed;                         /* its response time belongs into the histogram */
};

/* A request ended: counters, histogram, history and its record. */
void lg_record_request(struct lg_recorder *rec, uint32_t endpoint,
                       const struct lg_request_facts *facts);

/* An endpoint's requests in flight, +1 or -1. Under the GIL. */
void lg_record_in_flight(struct lg_recorder *rec, uint32_t endpoint, int change);

/* A loop's second: for the watchdog and the loop thread's own cells. */
void lg_record_loop_busy(struct lg_recorder *rec, uint32_t loop, uint64_t start_ns,
                         uint64_t end_ns);

/* Adds to a loop's cell of the second of `end_ns`; any of the sums may be 0.
 * Loop thread only. */
struct lg_loop_second {
    uint64_t blocked_ns;
    uint32_t blocks;
    uint32_t requests;
    uint64_t cpu_ns;
    uint64_t gil_ns;
    uint64_t io_ns;
    uint64_t gc_ns;
};
void lg_record_loop_second(struct lg_recorder *rec, uint32_t loop, uint64_t end_ns,
                           const struct lg_loop_second *add, uint32_t open_requests);

#endif
