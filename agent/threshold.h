/*
 * threshold.h - the threshold in force, when it is not simply the one that the
 * user set: calibrated once, or following the recent steps.
 *
 * The loop thread drops the duration of each step that was no block into a
 * ring of numbers; the watchdog sorts and decides. Works on exact step times.
 *   calibrated = clamp(median of the first steps x multiplier, monitor
 *                interval, fallback)
 *   adaptive   = percentile of the recent steps x multiplier, between the
 *                calibrated one and the fallback
 */
#ifndef LG_AGENT_THRESHOLD_H
#define LG_AGENT_THRESHOLD_H

#include <stdint.h>

#include "../common/lg_atomic.h"

struct lg_settings;

struct lg_threshold {
    uint32_t *us;                       /* ring of step times */
    uint32_t size;
    uint64_t count;                     /* ever put in; the loop thread's */
    uint64_t calibrated_ns;             /* 0 = not yet; the watchdog's */
    uint64_t next_ns;
};

/* NULL when the threshold is fixed, or memory is out: then it stays fixed. */
struct lg_threshold *lg_threshold_open(const struct lg_settings *settings);
void lg_threshold_close(struct lg_threshold *t);

/* Loop thread. */
static inline void
lg_threshold_add(struct lg_threshold *t, uint64_t step_ns)
{
    uint64_t us = step_ns / 1000;
    uint64_t n = lg_load_relaxed(&t->count);
    lg_store32_relaxed(&t->us[n % t->size], us > UINT32_MAX ? UINT32_MAX : (uint32_t)us);
    lg_store_relaxed(&t->count, n + 1);
}

/* Watchdog, each tick: the threshold to use from now on, 0 = as before. */
uint64_t lg_threshold_decide(struct lg_threshold *t, const struct lg_settings *settings,
                             uint64_t now_ns);

#endif
