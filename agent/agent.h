/*
 * agent.h - the agent of this process: start, stop, fork, settings; what ties
 * the rooms together.
 *
 * One per process, in module.c. Everything here wants the GIL but where said.
 * Armed at start; the segment, the slots and the watchdog are made when a loop
 * first runs (lg_agent_awake()), so a supervisor never has any. Whatever fails
 * switches its feature off and leaves the reason there; nothing raises into
 * the application.
 */
#ifndef LG_AGENT_H
#define LG_AGENT_H

#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

#include "loop.h"
#include "record.h"
#include "asgi/route.h"
#include "settings.h"

#define LG_LOOPS 8

/* Slots of FEATURES. X(NAME, text). */
#define LG_FEATURE_LIST(X) \
    X(STEPS, "steps") \
    X(TASKS, "task_factory") \
    X(HOOKS, "hooks") \
    X(ITERATIONS, "iterations") \
    X(GIL_WAIT, "gil_wait") \
    X(WATCHDOG, "watchdog") \
    X(STACKS, "stacks") \
    X(GC, "gc") \
    X(ROUTES, "routes") \
    X(POOL, "threadpool") \
    X(RUN_DELAY, "run_delay")

enum lg_feature_index {
#define LG_X(name, text) LG_FEATURE_##name,
    LG_FEATURE_LIST(LG_X)
#undef LG_X
        LG_FEATURE_COUNT,
};

struct lg_audit;
struct lg_slices;

struct lg_feature_note {                /* kept here too: there may be no segment yet */
    bool known;
    bool on;
    char reason[40];
};

enum lg_agent_state {
    LG_AGENT_IDLE,                      /* never started, or stopped */
    LG_AGENT_ARMED,                     /* waits for a loop */
    LG_AGENT_AWAKE,                     /* has a segment */
    LG_AGENT_OFF,                       /* could not; `off_reason` */
};

struct lg_agent {
    enum lg_agent_state state;
    char off_reason[128];
    int off_fd;                         /* the memfd that says so, -1 = none */
    struct lg_settings settings;
    PyObject *endpoint_thresholds;      /* dict: "POST /x" -> ns, or NULL */
    struct lg_recorder rec;
    struct lg_routes routes;
    struct lg_loop loops[LG_LOOPS];
    uint32_t loops_used;
    uint32_t epoch;                     /* one more with each segment and each fork */
    uint64_t *threshold_of;             /* by endpoint, ns, 0 = the loop's */
    uint16_t *background_of;            /* by endpoint, 0 = none made yet */
    struct lg_owner *free_owners;
    struct lg_owner *open_owners;       /* requests and websockets, newest first */
    struct lg_cumulative *free_cumulative;
    struct lg_cumulative **cumulative_of;   /* by endpoint, NULL = none yet */
    uint64_t next_cumulative_id;
    uint32_t next_request_id;
    struct lg_feature_note features[LG_FEATURE_COUNT];
    struct lg_pystack *pystack;
    struct lg_pystack_walker *walker;   /* for use under the GIL; NULL before it is needed */
    PyObject *listener;                 /* see tell.h, or NULL */
    uint32_t is_heard;                  /* 1 when there is one; read without the GIL too */
    struct lg_watchdog *watchdog;
    struct lg_pool_room *pool;
    PyObject *gc_callback;              /* what stands in gc.callbacks, or NULL */
    PyObject *at_exit;                  /* what atexit calls */
    pid_t finalizer_pid;                /* where multiprocessing calls it too */
    PyObject *all_tasks;                /* set of weak references, or NULL */
    uint64_t gc_start_ns;               /* of the collection under way */
    uint64_t gc_start_cpu_ns;           /* 0 = not read */
    PyObject *task_factory_type;        /* types of this module, strong */
    PyObject *timed_type;
    PyObject *send_type;
    PyObject *asgi_type;
    PyObject *route_type;
    PyObject *select_type;
    PyObject *pool_type;
    PyObject *rules_type;
    struct lg_answer_parts *answer_parts; /* see answer.c */
    PyObject *like_function;            /* a coroutine function (scope, receive, send) */
    PyObject *like_call; /* 3.9: (self, scope, receive, send), calls self; or NULL */
    PyObject *task_class; /* asyncio.Task */
    PyObject *current_task; /* asyncio.current_task */
    PyObject *get_running_loop; /* asyncio._get_running_loop */
    struct lg_task_slot *task_slots; /* see task.c */
    uint32_t task_slots_used;
    unsigned long changing; /* the thread that wakes or stops it just now, 0 = none */
    bool stop_wanted; /* by that very thread, from Python code within */
    bool forked; /* a child of the armed one, not yet awake */
    bool paused; /* requests that begin now pass bare */
    uint64_t paused_ns; /* the last pause, LG_NONE = none was; any thread reads it */
    uint64_t resumed_ns; /* its end, LG_NONE = not yet */
    struct lg_slices *slices; /* NULL = not armed, see slice.h */
    struct lg_slices *slice_rooms; /* the same memory, kept; NULL = never armed */
    struct lg_audit *audit; /* NULL = no audit hook, see audit.h */
    PyObject *wrapped_type;
    struct lg_names *names; /* interned Python strings, see names.h */
};

/* Settings from a checked dict (config.py). 0, or -1 with an exception set:
 * this one is called by the application's own code. Idempotent. */
int lg_agent_start(struct lg_agent *agent, PyObject *settings);

/* Undoes all: slots, factories, gc callback, threads, segment (by
 * keep_segment). Never fails. */
void lg_agent_stop(struct lg_agent *agent, bool at_exit);

/* First loop of the process: makes the segment, the slots, the watchdog.
 * False when the agent is or goes off. */
bool lg_agent_awake(struct lg_agent *agent);

/* Do polls of loops come in? False where no slot could be replaced. */
bool lg_agent_has_edges(const struct lg_agent *agent);

/* Switched off for good, with the reason where the viewer finds it. */
void lg_agent_off(struct lg_agent *agent, const char *reason);

/* Steps and iterations measured so far; it never stands still while a loop works. */
uint64_t lg_agent_activity(const struct lg_agent *agent);

/* New dict: features with reasons, segment path, counters. */
PyObject *lg_agent_status(struct lg_agent *agent);

/* A feature is on, or off and why (at most 39 bytes). */
void lg_agent_feature(struct lg_agent *agent, enum lg_feature_index index, bool on,
                      const char *reason);

/* Requests, websockets and tasks that begin from now on pass bare; the segment
 * stays. Those that are open are measured to their end. Returns what was. */
bool lg_agent_pause(struct lg_agent *agent, bool paused);

/* Was it paused at that time, in the pause that is or the last one? What began
 * then is not told when it ends. Any thread. */
static inline bool
lg_agent_was_paused(const struct lg_agent *agent, uint64_t at_ns)
{
    return at_ns >= lg_load_relaxed(&agent->paused_ns) &&
           at_ns < lg_load_relaxed(&agent->resumed_ns);
}

/* pthread_atfork's child handler: everything of the parent is dropped, no
 * thread is made. Async-signal-safe but for free(). */
void lg_agent_forked(struct lg_agent *agent);

/* The threshold of an endpoint on a loop, ns. Any thread. */
static inline uint64_t
lg_agent_threshold(const struct lg_agent *agent, const struct lg_loop *loop, int32_t endpoint)
{
    if (endpoint >= 0 && agent->threshold_of != NULL && agent->threshold_of[endpoint] != 0) {
        return agent->threshold_of[endpoint];
    }
    return lg_load_relaxed(&loop->threshold_ns);
}

/* Moves the threshold that holds where neither an endpoint nor adaptation has
 * its own, on all loops at once; that of iterations and untracked time moves
 * along unless the user gave it its own. Returns the one before, ns. GIL. */
uint64_t lg_agent_set_threshold(struct lg_agent *agent, uint64_t ns);

/* Index of an endpoint, with its own threshold looked up at first sight; -1
 * when the table was in use (ask again later). */
int lg_agent_endpoint(struct lg_agent *agent, enum lg_endpoint_kind kind, enum lg_method method,
                      const char *name, size_t length, uint64_t now_ns);

/* The "background" twin of a request's endpoint, made at first use. */
uint32_t lg_agent_background(struct lg_agent *agent, uint32_t endpoint, uint64_t now_ns);

#endif
