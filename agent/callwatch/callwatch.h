/*
 * callwatch.h - loopguard.calls: which function, Python or C, kept a thread
 * for longer than a threshold.
 *
 * The type loopguard._agent.CallWatch; the package makes one and decides what
 * is told to whom (calls.py). Each call that is worth it is timed on a shadow
 * stack of its thread (shadow.h); what crossed the lowest threshold is looked
 * at closely: a function is told when its own time, without what was told
 * within it, is over the watcher's threshold. A suspended coroutine or
 * generator is not running: its body counts from resumption to suspension.
 *
 * Where calls come from: callwatch_monitoring.c (sys.monitoring, 3.12 and
 * newer), callwatch_profile.c (the profile function of each thread, before).
 * Both call lg_callwatch_ended(). Everything here holds the GIL, and an
 * exception that is pending stays as it is.
 *
 * Code objects get a verdict: for which filters are they visible? It is asked
 * of the package once and kept with the code (co_extra), so it dies with it.
 */
#ifndef LG_AGENT_CALLWATCH_H
#define LG_AGENT_CALLWATCH_H

#include <Python.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "cheap.h"
#include "shadow.h"
#include "ticks.h"

#define LG_LIKELY(x) __builtin_expect(!!(x), 1)

#if PY_VERSION_HEX < 0x030C0000
#define LG_HAVE_MONITORING 0
#define PyUnstable_Code_GetExtra _PyCode_GetExtra
#define PyUnstable_Code_SetExtra _PyCode_SetExtra
#define PyUnstable_Eval_RequestCodeExtraIndex _PyEval_RequestCodeExtraIndex
#else
#define LG_HAVE_MONITORING 1
#endif

/* One who wants to be told: target(frame or None, code, C callable or None,
 * globals, line, ms) -> did it concern you? */
struct lg_watcher {
    uint64_t id;
    uint64_t threshold;                 /* ticks */
    uint64_t since;                     /* ticks; nothing before concerns it */
    uint32_t filter;                    /* bit of its filter in verdicts */
    PyObject *target;
};

struct lg_callwatch_thread {
    struct lg_shadow shadow;            /* first */
    bool telling;
    uint64_t gone;                      /* its thread has ended; atomic */
    struct lg_callwatch_thread *next;
};

struct lg_callwatch {
    PyObject_HEAD
    uint64_t threshold;                 /* ticks; the lowest of all watchers */
    uint32_t generation;                /* of verdicts */
    uint32_t wanted;                    /* filters of all watchers */
    uint32_t asleep;                    /* filters that nothing put to sleep concerns */
    struct lg_ticks ticks;
    struct lg_cheap cheap;
    pthread_key_t key;                  /* tells when a thread ends */
    bool has_key;
    Py_ssize_t extra;                   /* index of verdicts in code objects */
    bool extra_direct;                  /* they are where we look ourselves */
    uint8_t opcodes[256];               /* LG_OPCODE_*, by opcode */
    ternaryfunc slot_call;              /* of every class with a Python __call__ ... */
    initproc slot_init;                 /* ... __init__ */
    newfunc slot_new;                   /* ... __new__ */
    PyObject *callback_type;            /* NULL without sys.monitoring */
    PyObject *judge;                    /* (code, module name) -> filters that see it */
    PyObject *disable;                  /* sys.monitoring.DISABLE */
    struct lg_watcher *watchers;
    uint32_t watcher_count;
    uint32_t watcher_capacity;
    uint64_t last_id;
    struct lg_callwatch_thread *threads;
    struct lg_saved_profile *profiles;
    uint32_t profile_count;
};

int lg_callwatch_add_types(PyObject *module);

/* What an instruction may cost by itself. */
#define LG_OPCODE_OTHER 0               /* anything */
#define LG_OPCODE_PLAIN 1               /* next to nothing */

/* In a verdict: the code never takes long. No call, no loop, no operator. */
#define LG_VERDICT_TRIVIAL (UINT32_C(1) << 31)
#define LG_FILTERS 31

/* What a finished call was. */
struct lg_ended {
    struct lg_shadow_entry entry;
    uint64_t now;
    PyObject *frame;                    /* None where there is no object */
    PyObject *code;                     /* of the function, or of the C function's caller */
    PyObject *callable;                 /* of C; NULL for a Python function */
    int line;
};

/* Over the lowest threshold: tells whom it concerns. */
void lg_callwatch_ended(struct lg_callwatch *watch, struct lg_callwatch_thread *thread,
                        const struct lg_ended *ended);

/* First sight of this thread; NULL without memory. */
struct lg_callwatch_thread *lg_callwatch_new_thread(struct lg_callwatch *watch);

static inline struct lg_callwatch_thread *
lg_callwatch_thread(struct lg_callwatch *watch)
{
    struct lg_callwatch_thread *thread = pthread_getspecific(watch->key);
    return LG_LIKELY(thread != NULL) ? thread : lg_callwatch_new_thread(watch);
}

/* Asks the package, and keeps the answer. 0 when it has none. */
uint32_t lg_callwatch_judge(struct lg_callwatch *watch, PyObject *code);

/* As code.c has it. Tried out once. */
struct lg_code_extra {
    Py_ssize_t count;
    void *values[];
};

/* What is kept with a code object, without two calls and a look at the
 * interpreter's state; NULL: nothing. */
static inline void *
lg_callwatch_kept(const struct lg_callwatch *watch, PyObject *code)
{
    if (LG_LIKELY(watch->extra_direct)) {
        const struct lg_code_extra *all = ((PyCodeObject *)code)->co_extra;
        return all != NULL && watch->extra < all->count ? all->values[watch->extra] : NULL;
    }
    void *value = NULL;
    if (PyUnstable_Code_GetExtra(code, watch->extra, &value) < 0) {
        PyErr_Clear();
    }
    return value;
}

/* Filters that see this code, of those wanted now; with LG_VERDICT_TRIVIAL. The
 * code of the running frame, or of one that has been judged. 0: none does. */
static inline uint32_t
lg_callwatch_verdict(struct lg_callwatch *watch, PyObject *code)
{
    uint64_t kept = (uint64_t)(uintptr_t)lg_callwatch_kept(watch, code);
    uint32_t verdict = LG_LIKELY(kept >> 32 == watch->generation) ? (uint32_t)kept
                                                                  : lg_callwatch_judge(watch, code);
    return (verdict & watch->wanted) != 0 ? verdict & (watch->wanted | LG_VERDICT_TRIVIAL) : 0;
}

#if LG_HAVE_MONITORING
/* {event name: callback} for sys.monitoring.register_callback(). New reference. */
PyObject *lg_callwatch_callbacks(struct lg_callwatch *watch, PyObject *type);
PyObject *lg_callwatch_new_callback_type(PyObject *module);
#else
/* Takes the place of every thread's profile function, and gives it back. The
 * number of threads on which somebody else has one meanwhile, or -1. */
int lg_callwatch_profile_start(struct lg_callwatch *watch);
int lg_callwatch_profile_stop(struct lg_callwatch *watch);
/* On this thread alone. */
int lg_callwatch_profile_here(struct lg_callwatch *watch);
#endif

#endif
