/*
 * ticks.h - the cheapest clock that this machine has, for what is timed
 * hundreds of times in a request.
 *
 * The processor's counter where the kernel keeps time by it too (TSC on x86,
 * the generic timer on ARM), CLOCK_MONOTONIC elsewhere. Any thread may read
 * it. Good for lengths; never compare with times of another clock.
 */
#ifndef LG_AGENT_TICKS_H
#define LG_AGENT_TICKS_H

#include <stdbool.h>
#include <stdint.h>

#include "../../common/lg_clock.h"

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

struct lg_ticks {
    bool counter;                       /* false: ticks are nanoseconds */
    double ns_per_tick;
};

/* Measures the counter against CLOCK_MONOTONIC: spins for half a millisecond
 * where the processor does not tell its rate. Never fails. */
void lg_ticks_init(struct lg_ticks *ticks);

static inline uint64_t
lg_ticks_now(const struct lg_ticks *ticks)
{
#if defined(__x86_64__)
    if (ticks->counter) {
        return __rdtsc();
    }
#elif defined(__aarch64__)
    if (ticks->counter) {
        uint64_t value;
        __asm__ volatile("mrs %0, cntvct_el0" : "=r"(value));
        return value;
    }
#else
    (void)ticks;
#endif
    return lg_now_ns();
}

static inline uint64_t
lg_ticks_from_ns(const struct lg_ticks *ticks, uint64_t ns)
{
    return (uint64_t)((double)ns / ticks->ns_per_tick);
}

static inline double
lg_ticks_to_ms(const struct lg_ticks *ticks, uint64_t count)
{
    return (double)count * ticks->ns_per_tick / 1e6;
}

#endif
