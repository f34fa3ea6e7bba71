/*
 * slice_private.h - what slice.c and slice_told.c share: a slice, its calls and
 * samples, and the words for them.
 *
 *   slice.c        edges, calls, the receiver, the watchdog's samples
 *   slice_told.c   what Python is told, as objects; under the GIL
 */
#ifndef LG_AGENT_SLICE_PRIVATE_H
#define LG_AGENT_SLICE_PRIVATE_H

#include "../agent.h"
#include "slice.h"

#define LG_SLICE_DEPTH 8u               /* slices within each other */
#define LG_SLICE_CALLS (2 * LG_SLICE_EVENTS)    /* of all of them together */
#define LG_SLICE_STACKS 64u             /* different ones, of one slice's samples */
#define LG_SLICE_HIGH 50                /* severity from which on a call is refused */
#define LG_SLICE_MODERATE 10

struct lg_slice_call {
    PyObject *name;                     /* strong references, all of them */
    PyObject *args;
    int weight;
    uint32_t depth;
    bool has_lines;                     /* `at` are lines; else offsets of instructions */
    bool is_timed;                      /* by the clock; else by what the hooks saw after it */
    uint64_t at_ns;
    uint64_t duration_ns;
    uint64_t blocked_ns;                /* the thread's blocking calls until it began */
    PyObject *code[LG_PYSTACK_DEPTH];
    int32_t at[LG_PYSTACK_DEPTH];
};

struct lg_slice {
    uint64_t serial;                    /* never 0, never twice in a room */
    uint64_t start_ns;
    uint64_t hook;                      /* the loop's when it began: see was_left() */
    uint64_t within_ns;                 /* of slices in this one */
    struct lg_owner *owner;             /* NULL between steps; its step holds it */
    struct lg_sums sums;                /* at the start, moved on by slices within */
    uint64_t gc_ns;
    uint64_t parts_of_ns;               /* how much of it `parts` tell */
    uint64_t parts_ns[LG_CAUSE_COUNT];
    PyObject *at_start;                 /* what the providers said, or NULL */
    PyObject *at_call;                  /* and at the first call */
    PyObject *variables;                /* context of the first call, between steps */
    uint32_t first_call;
    bool refused;                       /* once in a slice */
};

struct lg_slice_stack {
    uint32_t count;
    struct lg_pystack_sample frames;
};

struct lg_slice_room {
    /* Read by the watchdog. */
    uint64_t since_ns;                  /* 0 = no slice runs */
    uint64_t serial;
    /* Written by it. */
    uint64_t sampled;                   /* serial of the slice that `seen` are of */
    uint32_t samples;
    uint32_t stacks;
    struct lg_slice_stack seen[LG_SLICE_STACKS];
    struct lg_pystack_sample scratch;
    /* The loop's thread. */
    bool open;                          /* slice[0] runs, or steps in it */
    bool busy;                          /* Python code of ours runs */
    uint32_t depth;                     /* index of the one that runs */
    uint64_t last_serial;
    struct lg_slice slice[LG_SLICE_DEPTH];
    uint32_t calls;
    struct lg_slice_call call[LG_SLICE_CALLS];
};

struct lg_slices {
    struct lg_slice_options options;    /* with strong references */
    struct lg_pystack_walker *walker;   /* for names, under the GIL */
    struct lg_slice_room room[LG_LOOPS];
};

/* New references; NULL with an exception set, but where it says otherwise. */

/* [(name, args, [(file, line, function)], seconds since 1970, weight, duration
 * in ns or None)] of the topmost slice. */
PyObject *lg_slice_events(const struct lg_slice_room *room);

/* The longest call since then that only the hooks saw, made by C code: the same
 * tuple. NULL, without an exception, when it took less than `least_ns`. */
PyObject *lg_slice_measured(struct lg_slices *s, const struct lg_loop *loop, uint64_t since_ns,
                            uint64_t least_ns, int *weight);

/* [(stack, count)] that the watchdog has of the slice. */
PyObject *lg_slice_samples(struct lg_slices *s, struct lg_agent *agent,
                           const struct lg_slice_room *room, uint64_t serial);

/* {cause: ns}; they sum to the slice. */
PyObject *lg_slice_blocked(const struct lg_loop *loop, const struct lg_slice *slice,
                           uint64_t elapsed_ns);

/* {"method", "route", "request_id"}; None where it is no request's. */
PyObject *lg_slice_request(const struct lg_agent *agent, const struct lg_owner *owner);

#endif
