/*
 * cumulative.h - many short steps: the sum of a sliding window ("death by a
 * thousand cuts"), exact to the nanosecond; the window's edge moves in
 * thirty-seconds of its length.
 *
 * One for each request that makes a step over the minimum, one an endpoint,
 * one a loop. Plain C; single-threaded use under the GIL.
 */
#ifndef LG_AGENT_CUMULATIVE_H
#define LG_AGENT_CUMULATIVE_H

#include <stdbool.h>
#include <stdint.h>

#include "../common/lg_layout.h"

#define LG_CUMULATIVE_BUCKETS 32

struct lg_cumulative {
    struct lg_cumulative *next_free;
    uint64_t bucket_ns[LG_CUMULATIVE_BUCKETS];
    uint32_t bucket_steps[LG_CUMULATIVE_BUCKETS];
    uint64_t newest;                    /* number of the newest bucket */
    uint64_t sum_ns;
    uint32_t steps;
    bool open;                          /* over the limit; grows until it ends */
    uint64_t id;                        /* of the event, given by the caller at opening */
    uint64_t start_ns;                  /* oldest time in it */
    uint64_t total_ns;
    uint32_t total_steps;
    uint64_t parts_ns[LG_CAUSE_COUNT];  /* by cause, since it was last reset; the caller's */
};

enum lg_cumulative_result {
    LG_CUMULATIVE_BELOW,
    LG_CUMULATIVE_OPENED,               /* this step crossed the limit */
    LG_CUMULATIVE_GREW,                 /* an open one got this step too */
    LG_CUMULATIVE_ENDED,                /* the open one is over; this step began anew */
};

/* A step of `ns` ended at `end_ns`. With ENDED, `*ended` is what had been. */
enum lg_cumulative_result lg_cumulative_add(struct lg_cumulative *c, uint64_t window_ns,
                                            uint64_t limit_ns, uint64_t end_ns, uint64_t ns,
                                            struct lg_cumulative *ended);

/* Forgets what is in it. */
void lg_cumulative_reset(struct lg_cumulative *c);

#endif
