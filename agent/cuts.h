/*
 * cuts.h - many short steps: none is a stall, together they are ("death by a
 * thousand cuts").
 *
 * A sliding window (cumulative.h) for each request that makes such steps, one
 * for each endpoint, one for each loop. A request's tells before its endpoint's
 * and that before the loop's; time told by one is not told again by the wider
 * ones. Only the guilty: of a step that was mostly kept from running, only what
 * it did itself counts for its request and endpoint; the loop's window has all
 * of it. On the loop's thread under the GIL.
 */
#ifndef LG_AGENT_CUTS_H
#define LG_AGENT_CUTS_H

#include <stdint.h>

#include "loop.h"
#include "owner.h"

/* A step that is no stall, of the minimal length or longer. `parts_ns` sum to
 * `ns`; `endpoint` < 0: not named yet. */
void lg_cuts_step(struct lg_loop *loop, struct lg_owner *owner, int32_t endpoint, uint64_t end_ns,
                  uint64_t ns, const uint64_t parts_ns[LG_CAUSE_COUNT]);

/* The owner has got its endpoint: what it did before goes there. `loop` may be
 * NULL. Returns how many events were told without a name. */
uint32_t lg_cuts_named(struct lg_loop *loop, struct lg_owner *owner, uint64_t now_ns);

/* Its request is over: an open window is closed, and given back. `loop` may be
 * NULL. */
void lg_cuts_finished(struct lg_loop *loop, struct lg_owner *owner);

/* Frees the windows given back; at stop. */
void lg_cuts_trim(struct lg_agent *agent);

#endif
