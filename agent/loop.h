/*
 * loop.h - what the agent knows of one event loop: private words beside its
 * entry in the segment.
 *
 * Made under the GIL by the loop's own thread the first time a step runs
 * there. After that three parties touch it, each its own words:
 *   the loop thread under the GIL    steps, owners, notes
 *   the loop thread without the GIL  the edges of its poll (hooks.h)
 *   the watchdog                     reads all, writes `watch` and its line
 * Words that the watchdog reads are stored relaxed through lg_atomic.h.
 */
#ifndef LG_AGENT_LOOP_H
#define LG_AGENT_LOOP_H

#include <Python.h>

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "../common/lg_atomic.h"
#include "../common/lg_clock.h"
#include "../common/lg_layout.h"
#include "../common/lg_seqlock.h"
#include "cause.h"
#include "hooks/hooks.h"
#include "watchdog/note.h"
#include "owner.h"
#include "pystack/pystack.h"

struct lg_agent;
struct lg_cumulative;
struct lg_tale;
struct lg_threshold;

/* RETIRED: its thread may still come by although the agent stopped; used again
 * when that has ended, or by itself. */
#define LG_LOOP_UNUSED 0u
#define LG_LOOP_USED 1u
#define LG_LOOP_RETIRED 2u

/* Requests that wait behind the last stall, until its next iteration is over. */
struct lg_waiters {
    uint64_t stall_step;                /* 0 = not collecting */
    uint64_t start_ns;                  /* of the stall */
    uint64_t end_ns;
    uint64_t last_iteration;
    uint32_t endpoint;                  /* blamed */
    const struct lg_owner *guilty;      /* compared, never followed */
    struct lg_waited_note found;
};

/* The thread's stack as the watchdog last saw it in passing, before any
 * threshold was passed: of a stall that ends soon after, there is no other. */
struct lg_glance {
    uint64_t seq;                       /* the watchdog writes, the loop thread reads */
    uint64_t at_ns;
    uint64_t endpoint_request;          /* LG_PAIR; "(loop)" and 0 between steps */
    struct lg_pystack_sample frames;
};

struct lg_loop {
    struct lg_calls calls;              /* first: the thread's pointer leads here */
    struct lg_agent *agent;
    struct lg_loop_entry *entry;        /* in the segment */
    uint32_t index;
    uint32_t used;                      /* LG_LOOP_*; released last; the watchdog acquires it */
    uint32_t in_edge;                   /* its thread is within an edge: see lg_loop_close() */
    bool has_edges;                     /* poll edges come in: iterations are exact */
    enum lg_loop_kind kind;
    pid_t tid;
    clockid_t cpu_clock;
    bool has_cpu_clock;
    struct lg_pystack_thread thread;
    struct lg_pystack_sample base;      /* stack when it was registered: the loop's own frames */
    PyObject *loop;                     /* weak reference, or NULL (trio) */
    PyThreadState *tstate;
    uint64_t hook;                      /* address, 0 = none: see lg_loop_runs() */
    uint32_t left;                      /* the watchdog found the thread outside of the loop */
    PyObject *ready;                    /* asyncio's deque of ready handles, or NULL */
    uint32_t thread_name;               /* string id */

    /* The running step; loop thread, GIL. */
    struct lg_owner *running;
    uint64_t step_start_ns;
    uint64_t step_number;               /* never twice in a slot: stalls are known by it */
    uint64_t excluded_ns;               /* time of nested steps of other owners */
    struct lg_sums step_sums;           /* blocking sums when it began */
    uint64_t step_gc_ns;                /* gc_ns when it began */
    struct lg_tale *untold;             /* stalls to be told to Python, see tell.h */
    bool telling;                       /* the listener runs */

    /* Edges; loop thread. */
    uint64_t awake_ns;                  /* poll returned */
    uint64_t edge_ns;                   /* last step end or poll return */
    uint64_t edge_steps;                /* steps when poll returned */
    struct lg_sums awake_sums;
    struct lg_sums edge_sums;
    uint64_t awake_gc_ns;
    uint64_t edge_gc_ns;
    uint64_t iteration; /* goes on with the next loop in this slot: see step_number */
    uint64_t first_iteration;
    uint64_t told_in_iteration_ns; /* of steps and gaps told already */
    uint64_t unread_lag_ns; /* longest iteration since lg_loop_read_lag() */
    uint64_t lag_read_ns;
    uint64_t gap_threshold_ns; /* untracked time above it is told */
    struct lg_meter meter; /* CPU clock, last reading */
    struct lg_hist *lag_hist;
    uint64_t slow_call_ns; /* end of the longest slow call, and its stack */
    uint64_t slow_call_dur_ns;
    struct lg_pystack_sample slow_call_stack;

    /* Totals; loop thread, GIL. */
    uint32_t open_requests;
    uint32_t requests_opened;
    uint64_t gc_ns; /* collections on this thread, CPU time where read */
    uint64_t threshold_ns; /* in force; the watchdog may move it */
    struct lg_waiters waiters;
    struct lg_waiters waited_due; /* told to the watchdog, not yet counted */
    struct lg_cumulative *cumulative;

    /* The watchdog's, of the stall in progress. */
    uint64_t holder; /* 1 + endpoint whose thread held the GIL, 0 = none */
    struct lg_votes votes;
    struct lg_glance glance; /* the last one */
    struct lg_glance usual; /* most often, of the request seen last */

    /* Outlives a loop: the watchdog may be reading when the slot is used again. */
    struct lg_notes notes; /* to the watchdog */
    struct lg_threshold *threshold; /* NULL = fixed */
};

/* The loop of this thread, or NULL. One thread-local load, and a look whether
 * the agent was stopped by another thread meanwhile. */
static inline struct lg_loop *
lg_loop_current(void)
{
    struct lg_loop *loop = (struct lg_loop *)lg_calls_current();
    return loop != NULL && loop->used == LG_LOOP_USED ? loop : NULL;
}

/* The loop of this thread, registered at first sight (makes segment and
 * watchdog when it is the first of the process). NULL when that cannot be:
 * the reason is then in the features. Leaves no exception set. GIL. */
struct lg_loop *lg_loop_here(struct lg_agent *agent);

/* `py_loop` was made, or is about to run in this thread: its tasks are measured
 * from the first one on, and a loop that ran here before is closed. True when
 * it is registered here already. Wakes the agent. Leaves no exception. GIL. */
bool lg_loop_expect(struct lg_agent *agent, PyObject *py_loop);

/* On the loop's thread, with or without the GIL: is this the loop that runs
 * there now? A running loop has set a method of its own as the thread's hook
 * for asynchronous generators (PEP 525: asyncio, uvloop); true for a loop that
 * does without. */
static inline bool
lg_loop_runs(const struct lg_loop *loop)
{
    if (loop->hook == 0) {
        return true;
    }
    PyObject *hook = loop->tstate->async_gen_firstiter;
    return hook != NULL && PyMethod_Check(hook) &&
           PyMethod_GET_SELF(hook) == ((PyWeakReference *)loop->loop)->wr_object;
}

/* Does its thread, another one than this, still run? */
bool lg_loop_has_thread(const struct lg_loop *loop);

/* Moves the threshold in force; that of untracked time too, when it goes along.
 * Any thread. */
void lg_loop_set_threshold(struct lg_loop *loop, uint64_t ns, bool gaps_too);

/* The event loop's object, new reference, or NULL when it is gone or is none. */
PyObject *lg_loop_object(const struct lg_loop *loop);

/* The loop ended or the agent stops: marks the entry, forgets the thread. GIL.
 * Another thread's loop may be within an edge of its poll, which takes no GIL:
 * that is waited for, and no further edge is let in. */
void lg_loop_close(struct lg_loop *loop);

/* The thread's blocking sums now. On the thread itself. */
static inline struct lg_sums
lg_loop_sums(const struct lg_loop *loop)
{
    return (struct lg_sums){
        .io = loop->calls.io_ns,
        .disk = loop->calls.disk_ns,
        .lock = loop->calls.lock_ns,
        .gil = loop->calls.gil_ns,
    };
}

/* The same from another thread. */
static inline struct lg_sums
lg_loop_sums_seen(const struct lg_loop *loop)
{
    return (struct lg_sums){
        .io = lg_load_relaxed(&loop->calls.io_ns),
        .disk = lg_load_relaxed(&loop->calls.disk_ns),
        .lock = lg_load_relaxed(&loop->calls.lock_ns),
        .gil = lg_load_relaxed(&loop->calls.gil_ns),
    };
}

/* The thread's CPU clock, from any thread. False where it cannot be read. */
static inline bool
lg_loop_cpu(const struct lg_loop *loop, uint64_t *ns)
{
    struct timespec ts;
    if (!loop->has_cpu_clock || clock_gettime(loop->cpu_clock, &ts) != 0) {
        return false;
    }
    *ns = lg_timespec_ns(&ts);
    return true;
}

/* Time that a step used counts towards reading the CPU clock: once per half a
 * millisecond of busy time, so that an idle or trivial step pays nothing. */
static inline void
lg_loop_busy(struct lg_loop *loop, uint64_t ns)
{
    if (lg_meter_due(&loop->meter, ns)) {
        lg_meter_read(&loop->meter);
    }
}

/* On the loop thread: true when run_forever() was left and entered since the
 * last edge. What the thread did outside is not the loop's: it wakes now. */
bool lg_loop_begun_anew(struct lg_loop *loop, uint64_t now_ns);

/* The edges of its poll, on the loop thread; the hooks call these, or select.c. */
void lg_loop_poll_enter(struct lg_loop *loop, uint64_t now_ns);
void lg_loop_poll_leave(struct lg_loop *loop, uint64_t now_ns);

/* On the loop thread: the longest stretch that the loop of this thread did not
 * poll since the last call, the one in progress included. A stretch is told once:
 * one in progress is cut here. False: no loop of ours, or its edges are unknown. */
bool lg_loop_read_lag(uint64_t *lag_ns);

/* Writes line A: a step of `owner` runs since `start_ns`. */
void lg_loop_publish(struct lg_loop *loop, const struct lg_owner *owner, uint64_t start_ns,
                     uint64_t state);

/* The running step's owner has got its endpoint. */
void lg_loop_rename(struct lg_loop *loop, const struct lg_owner *owner);

/* No step runs any more. */
static inline void
lg_loop_publish_idle(struct lg_loop *loop)
{
    struct lg_loop_entry *e = loop->entry;
    lg_seq_begin(&e->seq);
    lg_store_relaxed(&e->state, LG_LOOP_IDLE);
    lg_seq_end(&e->seq);
}

#endif
