/*
 * cause.c - clocks of a thread, and the split of a stall into its parts.
 */
#include "cause.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "../common/lg_clock.h"

static uint64_t take(uint64_t *rest, uint64_t want);
static uint64_t major_faults(void);
static void share_by_votes(const struct lg_votes *votes, uint64_t *rest, uint64_t *parts);

/* A few faults are in any start-up; from here on they explain waiting. */
#define FAULTS_THAT_TELL 8
#define REST_THAT_MATTERS_NS (LG_NS_PER_MS / 5)

/* ---- clocks ------------------------------------------------------------ */

void
lg_meter_open(struct lg_meter *meter, pid_t tid)
{
    meter->schedstat_fd = lg_schedstat_open(tid);
    meter->run_delay_ns = lg_schedstat_run_delay(meter->schedstat_fd);
    meter->major_faults = major_faults();
    lg_meter_read(meter);
}

void
lg_meter_close(struct lg_meter *meter)
{
    if (meter->schedstat_fd >= 0) {
        close(meter->schedstat_fd);
    }
    meter->schedstat_fd = -1;
}

void
lg_meter_read(struct lg_meter *meter)
{
    meter->cpu_ns = lg_thread_cpu_ns();
    meter->unread_ns = 0;
}

void
lg_meter_stretch(struct lg_meter *meter, uint64_t wall_ns, struct lg_used *used)
{
    uint64_t cpu = lg_thread_cpu_ns();
    uint64_t since = cpu - meter->cpu_ns;
    /* What ran between the reading and this stretch was busy, and short: its
     * wall time stands for its CPU time. It is at most LG_METER_DUE_NS. */
    used->cpu_ns = since > meter->unread_ns ? since - meter->unread_ns : 0;
    if (used->cpu_ns > wall_ns) {
        used->cpu_ns = wall_ns;
    }
    meter->cpu_ns = cpu;
    meter->unread_ns = 0;
    uint64_t delay = lg_schedstat_run_delay(meter->schedstat_fd);
    used->run_delay_ns =
        delay == LG_NONE || meter->run_delay_ns == LG_NONE ? LG_NONE : delay - meter->run_delay_ns;
    meter->run_delay_ns = delay;
    uint64_t faults = major_faults();
    used->major_faults = faults - meter->major_faults;
    meter->major_faults = faults;
}

int
lg_schedstat_open(pid_t tid)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/task/%d/schedstat", (int)tid);
    return open(path, O_RDONLY | O_CLOEXEC);
}

uint64_t
lg_schedstat_run_delay(int fd)
{
    char text[96];
    ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof(text) - 1, 0);
    if (n <= 0) {
        return LG_NONE;
    }
    text[n] = '\0';
    char *second = strchr(text, ' ');   /* "running waiting timeslices" */
    return second == NULL ? LG_NONE : strtoull(second + 1, NULL, 10);
}

static uint64_t
major_faults(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_THREAD, &usage) == 0 ? (uint64_t)usage.ru_majflt : 0;
}

/* ---- the split --------------------------------------------------------- */

uint32_t
lg_cause_decide(const struct lg_stretch *s, uint64_t parts_ns[LG_CAUSE_COUNT])
{
    uint64_t rest = s->wall_ns;
    memset(parts_ns, 0, LG_CAUSE_COUNT * sizeof(parts_ns[0]));
    parts_ns[LG_CAUSE_GIL] = take(&rest, s->calls.gil);
    parts_ns[LG_CAUSE_IO] = take(&rest, s->calls.io);
    parts_ns[LG_CAUSE_LOCK] = take(&rest, s->calls.lock);
    parts_ns[LG_CAUSE_DISK] = take(&rest, s->calls.disk);
    /* CPU time inside a call (copying a file) is already in the call. */
    uint64_t cpu = take(&rest, s->used.cpu_ns);
    uint64_t gc = s->gc_cpu_ns != 0 ? s->gc_cpu_ns : s->gc_ns;
    parts_ns[LG_CAUSE_GC] = gc < cpu ? gc : cpu;
    parts_ns[LG_CAUSE_CPU] = cpu - parts_ns[LG_CAUSE_GC];
    if (s->used.major_faults >= FAULTS_THAT_TELL && rest > REST_THAT_MATTERS_NS) {
        parts_ns[LG_CAUSE_PAGE_FAULT] = take(&rest, rest);
    }
    if (s->votes != NULL && rest > REST_THAT_MATTERS_NS) {
        share_by_votes(s->votes, &rest, parts_ns);
    }
    if (s->used.run_delay_ns != LG_NONE) {
        parts_ns[LG_CAUSE_SCHEDULER] = take(&rest, s->used.run_delay_ns);
    }
    parts_ns[LG_CAUSE_OTHER] = rest;
    uint32_t largest = 0;
    for (uint32_t i = 1; i < LG_CAUSE_COUNT; i++) {
        if (parts_ns[i] > parts_ns[largest]) {
            largest = i;
        }
    }
    return largest == LG_CAUSE_OTHER ? LG_CAUSE_UNKNOWN : largest;
}

uint64_t
lg_cause_own_ns(const uint64_t parts_ns[LG_CAUSE_COUNT])
{
    uint64_t own = 0;
    for (uint32_t i = 0; i < LG_CAUSE_COUNT; i++) {
        if (i != LG_CAUSE_GIL && i != LG_CAUSE_SCHEDULER) {
            own += parts_ns[i];
        }
    }
    return own;
}

static uint64_t
take(uint64_t *rest, uint64_t want)
{
    uint64_t got = want < *rest ? want : *rest;
    *rest -= got;
    return got;
}

/* Time that was neither CPU nor in a hooked call nor, beyond what schedstat
 * says, in the run queue: a call that no hook stands before. */
static void
share_by_votes(const struct lg_votes *votes, uint64_t *rest, uint64_t *parts)
{
    uint64_t all = (uint64_t)votes->io + votes->disk + votes->lock + votes->gil + votes->cpu;
    uint64_t waiting = all - votes->cpu;
    if (waiting == 0) {
        return;
    }
    uint64_t total = *rest;
    /* Samples that saw it running or runnable keep their share for the run
     * queue; the others are shared out. */
    parts[LG_CAUSE_IO] += take(rest, total * votes->io / all);
    parts[LG_CAUSE_DISK] += take(rest, total * votes->disk / all);
    parts[LG_CAUSE_LOCK] += take(rest, total * votes->lock / all);
    parts[LG_CAUSE_GIL] += take(rest, total * votes->gil / all);
}
