/*
 * stall.h - the table STALLS: a stall is opened while it lasts, brought up to
 * date at each sample, and closed with exact numbers.
 *
 * The watchdog thread only. It keeps private twins of the newest entries, so
 * that nothing is read back from the segment.
 */
#ifndef LG_AGENT_STALL_H
#define LG_AGENT_STALL_H

#include <stdbool.h>
#include <stdint.h>

#include "note.h"
#include "../record.h"

/* What identifies a stall until it is closed. */
struct lg_stall_key {
    uint32_t loop;
    enum lg_stall_kind kind;
    bool gap;                           /* kind STEP of untracked time: `step` is its start */
    uint64_t step;
};

/* Private twin of an entry. */
struct lg_stall_state {
    struct lg_stall_key key;
    uint64_t ticket;
    bool ongoing;
    uint64_t start_ns;
    uint64_t duration_ns;
    uint64_t threshold_ns;
    uint32_t endpoint;
    uint32_t holder_endpoint;           /* 0 = none known */
    uint32_t request_id;
    uint32_t task;
    uint32_t cause;
    uint32_t flags;                     /* LG_STALL_* but ONGOING */
    uint32_t samples;
    uint32_t call;                      /* string id */
    uint64_t call_ns;
    uint32_t stack;
    uint32_t holder_stack;
    uint32_t thread_name;
    uint32_t tid;
    uint32_t waiting;
    uint32_t steps;
    uint64_t major_faults;
    uint64_t parts_ns[LG_CAUSE_COUNT];
    struct lg_waited_note waited;
};

bool lg_stall_same(const struct lg_stall_key *a, const struct lg_stall_key *b);

struct lg_stalls; /* opaque */

struct lg_stalls *lg_stalls_new(struct lg_recorder *rec);
void lg_stalls_free(struct lg_stalls *stalls);

/* A new entry with a ticket of its own; fill the rest and lg_stall_write(). */
struct lg_stall_state *lg_stall_new(struct lg_stalls *stalls, const struct lg_stall_key *key);
/* Among the newest; NULL when it is not there (any more). */
struct lg_stall_state *lg_stall_find(struct lg_stalls *stalls, const struct lg_stall_key *key);
/* Publishes the twin. */
void lg_stall_write(struct lg_stalls *stalls, const struct lg_stall_state *state);
/* The request's endpoint has got its name: among the newest, its stalls that
 * were told under "(other)" are told anew. */
void lg_stalls_rename(struct lg_stalls *stalls, uint32_t loop, uint32_t request_id,
                      uint32_t endpoint);
/* Calls `each` for every twin that is still ongoing on that loop. */
void lg_stalls_ongoing(struct lg_stalls *stalls, uint32_t loop,
                       void (*each)(void *context, struct lg_stall_state *state), void *context);

#endif
