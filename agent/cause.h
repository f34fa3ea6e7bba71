/*
 * cause.h - where the time of a stall went, decided by sums of measured time.
 *
 * wall = io + disk + lock + gil (measured by the hooks) + cpu and gc (thread
 * CPU clock, collector callbacks) + run-queue delay or page faults (schedstat,
 * rusage) + other. The parts sum to the wall time by construction; `other` is
 * what nothing measured. Votes of the watchdog only share out what no hook saw.
 * Plain C, no Python, no state but the meter's descriptor.
 */
#ifndef LG_AGENT_CAUSE_H
#define LG_AGENT_CAUSE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "../common/lg_layout.h"

/* Monotone sums of a thread's blocking calls, ns, by class. */
struct lg_sums {
    uint64_t io;
    uint64_t disk;
    uint64_t lock;
    uint64_t gil;
};

static inline uint64_t
lg_sums_total(const struct lg_sums *s)
{
    return s->io + s->disk + s->lock + s->gil;
}

/* The thread's own clocks, read seldom: the last reading and how much busy
 * time has gone by since. */
struct lg_meter {
    uint64_t cpu_ns;
    uint64_t unread_ns;                 /* busy time since that reading */
    uint64_t run_delay_ns;              /* schedstat, LG_NONE where it cannot be had */
    uint64_t major_faults;
    int schedstat_fd;                   /* -1: none */
};

#define LG_METER_DUE_NS UINT64_C(250000)

static inline bool
lg_meter_due(struct lg_meter *meter, uint64_t busy_ns)
{
    meter->unread_ns += busy_ns;
    return meter->unread_ns >= LG_METER_DUE_NS;
}

/* On the thread itself. open() takes the first full reading. */
void lg_meter_open(struct lg_meter *meter, pid_t tid);
void lg_meter_close(struct lg_meter *meter);
/* CPU clock only: one system call. */
void lg_meter_read(struct lg_meter *meter);

/* What a stretch of busy time used, from the last reading to now. */
struct lg_used {
    uint64_t cpu_ns;                    /* of the stretch alone */
    uint64_t run_delay_ns;              /* since the reading before: an upper bound */
    uint64_t major_faults;
};
/* Full reading at the end of a stretch of `wall_ns`; three system calls. */
void lg_meter_stretch(struct lg_meter *meter, uint64_t wall_ns, struct lg_used *used);

/* schedstat of a thread; -1 where it cannot be had. */
int lg_schedstat_open(pid_t tid);
uint64_t lg_schedstat_run_delay(int fd);

/* How often the watchdog saw what, during one stall. */
struct lg_votes {
    uint32_t cpu;
    uint32_t io;
    uint32_t disk;
    uint32_t lock;
    uint32_t gil;
};

struct lg_stretch {
    uint64_t wall_ns;
    struct lg_sums calls;               /* within the stretch */
    struct lg_used used;
    uint64_t gc_ns;                     /* collections on this thread, wall */
    uint64_t gc_cpu_ns;                 /* their CPU time; 0 = not read */
    const struct lg_votes *votes;       /* or NULL */
};

/* Fills parts (they sum to wall_ns) and returns the verdict: the largest part,
 * LG_CAUSE_UNKNOWN when that is `other`. */
uint32_t lg_cause_decide(const struct lg_stretch *s, uint64_t parts_ns[LG_CAUSE_COUNT]);

/* How much of it was the stretch's own doing, not something done to it: the
 * run queue and the GIL are others'. */
uint64_t lg_cause_own_ns(const uint64_t parts_ns[LG_CAUSE_COUNT]);

static inline void
lg_cause_add(uint64_t sum_ns[LG_CAUSE_COUNT], const uint64_t parts_ns[LG_CAUSE_COUNT])
{
    for (int i = 0; i < LG_CAUSE_COUNT; i++) {
        sum_ns[i] += parts_ns[i];
    }
}

#endif
