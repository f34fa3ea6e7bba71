/*
 * charge.h - who pays for a stretch of the loop's time, and is it a stall.
 *
 * Only the guilty: a step is charged to its owner's endpoint; a stall is
 * blamed on it only when its own doing (CPU, calls, collector) was over the
 * threshold, or at least half of it. A stall that the GIL or the run queue made is blamed on the
 * endpoint whose thread held the GIL, or on "(loop)".
 *
 * On the loop thread under the GIL, but where said. Never raises; leaves a
 * pending exception as it was.
 */
#ifndef LG_AGENT_CHARGE_H
#define LG_AGENT_CHARGE_H

#include "agent.h"
#include "loop.h"
#include "owner.h"

#define LG_LONG_NS UINT64_C(1000000)    /* from here on a stretch gets all its parts */

struct lg_step_end {
    uint64_t start_ns;
    uint64_t end_ns;
    uint64_t wall_ns;                   /* less nested steps of other owners */
    struct lg_sums sums;                /* the thread's sums at its start */
    uint64_t gc_ns;
    bool finished;                      /* the coroutine is over */
};

void lg_charge_step(struct lg_loop *loop, struct lg_owner *owner, const struct lg_step_end *s);

/* Time since the last edge belongs to no step and is over the threshold:
 * callbacks, protocols, untracked tasks. With or without the GIL. */
void lg_charge_gap(struct lg_loop *loop, uint64_t now_ns);

/* The iteration that began at loop->awake_ns ends. Without the GIL. */
void lg_charge_iteration(struct lg_loop *loop, uint64_t now_ns);

/* A request opens (+1) or ends (-1) on the loop. */
void lg_charge_open(struct lg_loop *loop, struct lg_owner *owner, int change);

/* What the owner is blamed for so far: its blocks that were told, and its step
 * that runs in this thread when that has gone over the threshold already and
 * would be blamed on it. Reads the thread's clocks in that case only; changes
 * nothing. */
struct lg_blocked {
    uint32_t count;
    uint64_t ns;
};
struct lg_blocked lg_charge_blocked(const struct lg_owner *owner);

/* The last byte of the response leaves within the running step: a long rest is
 * the background task's. */
void lg_charge_response_sent(struct lg_owner *owner);

/* The owner's endpoint has got its name: what it did before is charged. */
void lg_charge_named(struct lg_owner *owner);

/* Its request is over. */
void lg_charge_finished(struct lg_owner *owner, uint64_t now_ns);

#endif
