/*
 * lg_clock.h - the clocks of loopguard. Every time is nanoseconds in uint64_t.
 *
 * CLOCK_MONOTONIC through the vDSO is asyncio's own clock and the same for all
 * processes of a host. Any thread; no system call but where said.
 */
#ifndef LG_CLOCK_H
#define LG_CLOCK_H

#include <stdint.h>
#include <time.h>

#define LG_NS_PER_S UINT64_C(1000000000)
#define LG_NS_PER_MS UINT64_C(1000000)
#define LG_NS_PER_US UINT64_C(1000)

static inline uint64_t
lg_timespec_ns(const struct timespec *ts)
{
    return (uint64_t)ts->tv_sec * LG_NS_PER_S + (uint64_t)ts->tv_nsec;
}

/* CLOCK_MONOTONIC now. vDSO, 20-45 ns. */
static inline uint64_t
lg_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return lg_timespec_ns(&ts);
}

/* CPU time of the calling thread. A system call, about 130 ns. */
static inline uint64_t
lg_thread_cpu_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return lg_timespec_ns(&ts);
}

/* One reading of three clocks that belong together: mono is taken before and
 * after, `uncertainty_ns` is the distance of the two, mono their middle. */
struct lg_clocks {
    uint64_t mono_ns;
    uint64_t real_ns;
    uint64_t boot_ns;
    uint64_t uncertainty_ns;
};

void lg_clocks_read(struct lg_clocks *out);

#endif
