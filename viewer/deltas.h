/*
 * deltas.h - what was added to a segment's histograms, tick by tick.
 *
 * A window's quantiles need the difference of two snapshots. Whole snapshots
 * for five minutes would take megabytes a worker; most buckets do not change,
 * so only (histogram, bucket, count) triples are kept, in one bounded ring.
 * When it is full the oldest ticks go, and long windows become unknown.
 *
 * One thread. Owned by a worker of the model.
 */
#ifndef LG_DELTAS_H
#define LG_DELTAS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../common/lg_layout.h"

struct lg_deltas;

/* NULL when there is no memory. `start_ns`: time of the first snapshot. */
struct lg_deltas *lg_deltas_new(uint64_t start_ns);
void lg_deltas_free(struct lg_deltas *deltas);

/* Adds now - before under index `hist`. False when a bucket went back. */
bool lg_deltas_add(struct lg_deltas *deltas, uint32_t hist, const struct lg_hist *before,
                   const struct lg_hist *now);
/* Ends a tick: everything added since the last call happened until `now_ns`. */
void lg_deltas_tick(struct lg_deltas *deltas, uint64_t now_ns);

/* Is everything since `since_ns` still here? */
bool lg_deltas_cover(const struct lg_deltas *deltas, uint64_t since_ns);

/* Calls `take` for each triple of the ticks that ended after `since_ns`. */
void lg_deltas_walk(const struct lg_deltas *deltas, uint64_t since_ns,
                    void (*take)(void *arg, uint32_t hist, uint32_t bucket, uint64_t count),
                    void *arg);

#endif
