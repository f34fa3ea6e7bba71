/*
 * families.h - the metrics of an application: names, labels, units, and what
 * one segment adds to them. The names are the contract; see docs/metrics.md.
 *
 * A segment is read as it is copied by image.h: nothing here is trusted, every
 * index is checked against the geometry. One thread; no code of Python.
 */
#ifndef LG_READER_FAMILIES_H
#define LG_READER_FAMILIES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../common/lg_geometry.h"
#include "sums.h"

/* Octaves of lg_hist.h, so that no count has to be split: edges are exact. */
#define LG_BOUNDS 17
#define LG_FIRST_BOUND_US 256
/* Words of a histogram: its buckets (not cumulative), that above all, the sum. */
#define LG_HISTOGRAM_WORDS (LG_BOUNDS + 2)

enum lg_family_type { LG_COUNTER, LG_GAUGE, LG_HISTOGRAM };
enum lg_family_unit { LG_UNIT_COUNT, LG_UNIT_NS };      /* as kept; shown in seconds */

#define LG_ENDPOINT_LABELS "app,worker,method,route"

/* X(NAME, name behind the prefix, type, unit, labels, help)
 * ORIGINAL_*: fastapi-loopguard's four, shown on demand. */
#define LG_FAMILIES(X) \
    X(REQUESTS, "requests_total", COUNTER, COUNT, LG_ENDPOINT_LABELS ",status_class", \
      "Requests finished.") \
    X(DURATION, "request_duration_seconds", HISTOGRAM, NS, "app,method,route", \
      "Time from a request's arrival to its end, awaits included, over all workers.") \
    X(ON_LOOP, "request_on_loop_seconds", HISTOGRAM, NS, "app,method,route", \
      "Time that each step of an endpoint kept the event loop, over all workers.") \
    X(BLOCKED, "blocked_seconds_total", COUNTER, NS, LG_ENDPOINT_LABELS ",cause", \
      "Whole duration of the steps over the threshold, by what it went to.") \
    X(BLOCKS, "blocking_events_total", COUNTER, COUNT, LG_ENDPOINT_LABELS, \
      "Steps over the threshold.") \
    X(CUMULATIVE, "cumulative_blocking_events_total", COUNTER, COUNT, LG_ENDPOINT_LABELS, \
      "Windows in which many short steps together were over the cumulative threshold.") \
    X(LAG, "loop_lag_seconds", HISTOGRAM, NS, "app,worker,loop", \
      "How long each iteration kept whatever was due waiting.") \
    X(BUSY, "loop_busy_seconds_total", COUNTER, NS, "app,worker,loop", \
      "Time that the event loop was not waiting for events.") \
    X(BLOCKED_NOW, "loop_blocked_now_seconds", GAUGE, NS, "app,worker,loop", \
      "Age of the block in progress, 0 without one.") \
    X(TASKS, "loop_tasks", GAUGE, COUNT, "app,worker,loop", "Tasks of the event loop.") \
    X(ITERATIONS, "loop_iterations_total", COUNTER, COUNT, "app,worker,loop", \
      "Iterations of the event loop.") \
    X(GC, "gc_pause_seconds_total", COUNTER, NS, "app,worker,loop", \
      "Garbage collection within steps and iterations over 1 ms.") \
    X(GIL, "gil_wait_seconds_total", COUNTER, NS, "app,worker,loop", \
      "Waiting for the GIL within steps and iterations over 1 ms.") \
    X(THREADS, "threadpool_threads", GAUGE, COUNT, "app,worker,state", \
      "Threads of the thread pool.") \
    X(LIMIT, "threadpool_limit", GAUGE, COUNT, "app,worker", "Limit of the thread pool.") \
    X(WAITING, "threadpool_waiting", GAUGE, COUNT, "app,worker", \
      "Calls that wait for a thread of the pool.") \
    X(POOL_WAIT, "threadpool_wait_seconds", HISTOGRAM, NS, "app,worker", \
      "Time that calls waited for a thread of the pool.") \
    X(FULL, "threadpool_full_total", COUNTER, COUNT, "app,worker", \
      "Times that the thread pool became full.") \
    X(LOST, "lost_events_total", COUNTER, COUNT, "app,worker,reason", \
      "Events that the agent could not keep in full.") \
    X(UP, "worker_up", GAUGE, COUNT, "app,worker", "1 while the worker lives, 0 after it.") \
    X(DEATHS, "worker_deaths_total", COUNTER, COUNT, "app,state", \
      "Workers that ended: clean, killed, or killed while blocked.") \
    X(INFO, "agent_info", GAUGE, COUNT, "version,python,features", "Agents of the live workers.") \
    X(ORIGINAL_BLOCKING, "blocking_total", COUNTER, COUNT, "event_type", \
      "Blocks, single and cumulative.") \
    X(ORIGINAL_LAG, "lag_seconds", HISTOGRAM, NS, "event_type", "Duration of blocks.") \
    X(ORIGINAL_REQUESTS, "requests_monitored_total", COUNTER, COUNT, "route,method", \
      "Requests finished.") \
    X(ORIGINAL_THRESHOLD, "threshold_seconds", GAUGE, NS, "", \
      "Threshold in force, the highest of all loops.")

enum lg_family {
#define LG_X(name, text, type, unit, labels, help) LG_FAMILY_##name,
    LG_FAMILIES(LG_X)
#undef LG_X
        LG_FAMILY_COUNT
};
#define LG_FIRST_ORIGINAL LG_FAMILY_ORIGINAL_BLOCKING

struct lg_family_info {
    const char *name;
    enum lg_family_type type;
    enum lg_family_unit unit;
    const char *labels;                 /* with commas; "" = none */
    const char *help;
};
extern const struct lg_family_info lg_family_info[LG_FAMILY_COUNT];

struct lg_families {
    struct lg_sums table[LG_FAMILY_COUNT];
};

/* How a worker ended; of LG_FAMILY_DEATHS. */
enum lg_end { LG_END_NONE, LG_END_CLEAN, LG_END_KILLED, LG_END_BLOCKED };

/* Sections that lg_families_account() looks at: for lg_image_take(). */
extern const uint32_t lg_families_kinds;

void lg_families_init(struct lg_families *families);
void lg_families_clear(struct lg_families *families);
void lg_families_free(struct lg_families *families);
int lg_families_add(struct lg_families *into, const struct lg_families *from);

/* Adds one segment. `bytes`: its image. `now_ns` 0: it is dead, so counters
 * alone are added, and how it ended. 0 or -ENOMEM. */
int lg_families_account(struct lg_families *families, const struct lg_geometry *geo,
                        const uint8_t *bytes, uint64_t now_ns);

/* Upper edge of bucket `i` in seconds, in digits. */
void lg_families_bound(uint32_t i, char *out, size_t size);

#endif
