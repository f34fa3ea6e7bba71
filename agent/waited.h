/*
 * waited.h - who waited behind a stall: counted, never blamed.
 *
 * The rest of the stall's iteration and the whole next one run those who were
 * kept waiting; what each waited goes to the watchdog as one note, and into the
 * counters of the endpoint that made them wait. On the loop's thread; under the
 * GIL but where said.
 */
#ifndef LG_AGENT_WAITED_H
#define LG_AGENT_WAITED_H

#include <stdbool.h>
#include <stdint.h>

#include "loop.h"
#include "owner.h"

/* A stall has ended: from now on its victims are looked for. `step`: its key.
 * `guilty` may be NULL. With or without the GIL. */
void lg_waited_begin(struct lg_loop *loop, const struct lg_owner *guilty, uint32_t endpoint,
                     uint64_t step, uint64_t start_ns, uint64_t end_ns);

/* Is there anything for lg_waited_step() to do? */
static inline bool
lg_waited_is_due(const struct lg_loop *loop)
{
    return (loop->waiters.stall_step | loop->waited_due.stall_step) != 0;
}

/* A step of `owner` begins. */
void lg_waited_step(struct lg_loop *loop, struct lg_owner *owner, uint64_t now_ns);

/* The owner has got its name. */
void lg_waited_named(struct lg_loop *loop, const struct lg_owner *owner);

/* An iteration has ended. Without the GIL. */
void lg_waited_iteration(struct lg_loop *loop);

/* Counts what was found, if anything is due. */
void lg_waited_count(struct lg_loop *loop);

#endif
